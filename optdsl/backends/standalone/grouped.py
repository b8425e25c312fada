"""Steps of many tensors at once: the step of an elementwise rule in `torch._foreach_` calls.

Products with numbers, products and quotients become parts of the sums that use them (``alpha=``,
``addcmul``, ``addcdiv``, ``lerp``), and a result is computed in memory that nothing needs any more.
So the numbers are those of the eager backend up to rounding.
"""

from __future__ import annotations

from optdsl.backends.base import EntryPoint
from optdsl.backends.branches import ROOT
from optdsl.backends.emitted import WIDTH, EmittedFunction, wrapped
from optdsl.backends.naming import Names, identifier
from optdsl.backends.python_expressions import HELPERS, Printer
from optdsl.backends.standalone.choosing import Choosing
from optdsl.backends.standalone.groupable import groupable, uniform
from optdsl.backends.standalone.terms import Term, times
from optdsl.ir.program import Operation, Value
from optdsl.schedule import Kernel

# A number that is used once has a statement of its own if its text is longer.
_INLINE = 32
_EXTREMA = {"max": ("maximum", "clamp_min"), "min": ("minimum", "clamp_max")}

ADD_FINITE = '''\
def add_finite(x: list[Tensor], y: list[Tensor], scale: float) -> list[Tensor]:
    """x + scale * y, where what is not finite in y is left out; x itself if the scale is 0."""
    if scale == 0:
        return x
    found = [torch.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in y]
    return [torch.add(a, b, alpha=scale, out=b) for a, b in zip(x, found, strict=True)]'''

FINITE = '''\
def finite(tensors: list[Tensor]) -> list[Tensor]:
    """Copies of the tensors, with 0 for what is not finite."""
    return [torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0) for x in tensors]'''

OWN_ALL = '''\
def own_all(tensors: list[Tensor], *others: list[Tensor]) -> list[Tensor]:
    """The tensors, or copies of those that share memory with others."""
    taken = {x.data_ptr() for some in others for x in some}
    return [x.clone() if x.data_ptr() in taken else x for x in tensors]'''

# What a step may call, besides what the eager backend brings along.
CALLED = {"add_finite": ADD_FINITE, "finite": FINITE, "own_all": OWN_ALL}


class _Unspelled(Exception):
    """A step that has no spelling for many tensors at once."""


def emit_grouped(kernel: Kernel, name: str) -> EmittedFunction | None:
    """The step of an elementwise rule, as a function of lists of tensors; None of other rules.

    Args:
        kernel: the step.
        name: what the function is called.
    """
    if not groupable(kernel):
        return None
    try:
        return _Grouped(kernel, name).emitted()
    except _Unspelled:
        return None


class _Grouped(Choosing):
    def __init__(self, kernel: Kernel, name: str) -> None:
        program = kernel.program
        read = set(kernel.reads("state"))
        states = tuple(s.name for s in program.states if s.name in read)
        used = set(kernel.reads("hyper"))
        hypers = tuple(h.name for h in program.hypers if h.name in used)
        taken = Names(["theta", "g", "t", *CALLED, *HELPERS])
        keywords = tuple(taken.fresh(identifier(h)) for h in hypers)
        variables = {s: taken.fresh(identifier(s)) for s in states}
        results = tuple(r.name for r in kernel.results)
        takes_step = bool(kernel.reads("step"))
        self._entry = EntryPoint(name, states, hypers, keywords, takes_step, results)
        named = dict(zip(hypers, keywords, strict=True))
        super().__init__(kernel, Printer(program, named, variables), variables, taken)

    def emitted(self) -> EmittedFunction:
        for value in self._kernel.uniform:
            self._number(value)
        self._statements(ROOT)
        results = self._returned()
        returned = [f"return {', '.join(results)}{',' if len(results) == 1 else ''}"]
        if len(returned[0]) > WIDTH:
            returned = wrapped("return (", results, ")")
        documentation = '"""The parameters after the step, then the states, in their memory."""'
        lines = [documentation, *self._lines, *returned]
        text = "\n".join([*self._signature(), *(f"    {line}" for line in lines)])
        helpers = frozenset(self._helpers | self._printer.helpers)
        return EmittedFunction(text, self._entry, helpers)

    def _signature(self) -> list[str]:
        lists = [f"{name}: list[Tensor]" for name in ("theta", "g", *self._states.values())]
        keywords = ["t: float"] if self._entry.takes_step else []
        keywords += [f"{name}: float" for name in self._entry.keywords]
        arguments = [*lists, *(["*", *keywords] if keywords else [])]
        return wrapped(f"def {self._entry.name}(", arguments, ") -> tuple[list[Tensor], ...]:")

    def _number(self, value: Value) -> None:
        """A statement for a number that is used more than once, or has a long text."""
        text = self._printer.text(value)
        if self._printer.leaf(value) or (self._uses[value] < 2 and len(text) <= _INLINE):
            return
        hint = self._operation(value).hint
        wanted = self._printer.description(value) if hint is None else identifier(hint)
        name = self._taken.fresh(wanted)
        self._lines.append(f"{name} = {text}")
        self._printer.bind(value, name)

    def _value(self, value: Value) -> None:
        """Note a product or quotient for the sum that uses it; compute anything else."""
        operation = self._operation(value)
        user = self._only_user(value)
        decay = self._decay(value) if user is not None else None
        if decay is not None:
            self._lazy[value] = decay
            return
        if user is not None and self._joins(value, user):
            self._lazy[value] = self._term(operation)
            return
        self._compute(value)

    def _compute(self, value: Value) -> None:
        """The statements that compute a value."""
        operation = self._operation(value)
        inside = self._inside(value)
        match operation.opcode:
            case "where" | "mix" | "sum" | "mean" | "stop_gradient" | "define":
                self._chosen(value)
            case "sqrt" if value in self._norms:
                inside |= self._norm(value)
            case "add" | "sub":
                self._sum(value, operation, inside)
            case "mul" | "div" | "pow" if self._is_term(operation):
                term = self._term(operation)
                self._assign(value, term.kind or "mul", term, inside)
            case _:
                self._call(value, operation, inside)
        self._computed |= inside | {value}

    def _assign(self, value: Value, call: str, term: Term, inside: set[Value]) -> None:
        """A product or quotient, and then its scale."""
        if term.kind == "finite":
            raise _Unspelled
        if term.kind:
            assert term.right is not None
            name = self._into(value, call, term.left, [self._variable(term.right)], inside)
            if term.scale:
                self._lines.append(f"torch._foreach_mul_({name}, {term.scale})")
        else:
            one, slash, divisor = term.scale.partition(" / ")
            if slash and one == "1" and " " not in divisor:
                self._into(value, "div", term.left, [divisor], inside)
            else:
                self._into(value, "mul", term.left, [term.scale or "1"], inside)

    def _sum(self, value: Value, operation: Operation, inside: set[Value]) -> None:
        x, negative = operation.arguments, operation.opcode == "sub"
        numbers = [uniform(self._kernel, a) for a in x]
        if any(numbers):
            self._with_number(value, x, numbers[0], negative, inside)
            return
        first, second = self._noted(x[0]), self._noted(x[1])
        if not negative and self._lerps(value, x, inside):
            return
        plain = not second.kind and (first.kind or (first.scale and not second.scale))
        swap = not negative and (plain or first.kind == "finite")
        if swap:
            first, second = second, first
        if first.kind == "finite":
            raise _Unspelled
        if second.kind == "finite":
            if first.kind or first.scale:
                first = Term("", "", self._materialized(x[1] if swap else x[0]))
            self._finite(value, first, second)
            return
        if second.kind == "decay":
            second = self._decayed(value, second, inside)
        for part in (second.left, second.right):
            if part is not None:
                self._variable(part)  # before anything is overwritten
        target, ending = self._base(value, first, second, inside)
        scale = second.scale or "1"
        if negative:
            scale = f"-({scale})" if " " in scale else f"-{scale}"
        call, rest = "add", [self._variable(second.left)]
        keyword = "alpha"
        if second.kind:
            assert second.right is not None
            call, keyword = f"addc{second.kind}", "value"
            rest.append(self._variable(second.right))
        if scale == "-1" and not second.kind:
            call, scale = "sub", "1"
        enclosed = scale[0] == "(" and scale.find(")") == len(scale) - 1
        scale = scale[1:-1] if enclosed else scale
        rest += [f"{keyword}={scale}"] if scale != "1" else []
        text = f"torch._foreach_{call}{ending}({', '.join([target, *rest])})"
        if ending:
            self._lines.append(text)
            self._variables[value] = target
        else:
            self._lines.append(f"{self._fresh(value)} = {text}")

    def _decayed(self, value: Value, term: Term, inside: set[Value]) -> Term:
        """What is subtracted from the parameter, which has lost its decay before."""
        assert term.right is not None
        update, decay = self._noted(term.left), self._lazy[term.right]
        theta = decay.left
        for part in (update.left, update.right):
            if part is not None:
                self._variable(part)
        if theta in {update.left, update.right} or not self._consumable(theta, value, inside):
            raise _Unspelled
        weight = decay.scale or "1"
        self._lines += [
            f"if {weight} != 0:",
            f"    torch._foreach_mul_(theta, 1 - {times(term.scale, weight)})",
        ]
        return Term(times(term.scale, update.scale), update.kind, update.left, update.right)

    def _base(self, value: Value, first: Term, second: Term, inside: set[Value]) -> tuple[str, str]:
        """The variable of the first summand; "_" with it if the sum may be computed in it."""
        others = {second.left, second.right}
        if first.kind or first.scale:
            apart = first.left not in others
            if apart and not first.kind and self._consumable(first.left, value, inside):
                name = self._variable(first.left)
                self._lines.append(f"torch._foreach_mul_({name}, {first.scale})")
                return name, "_"
            if first.kind:
                right = self._variable(first.right) if first.right is not None else ""
                text = f"torch._foreach_{first.kind}({self._variable(first.left)}, {right})"
            else:
                text = f"torch._foreach_mul({self._variable(first.left)}, {first.scale})"
            name = self._fresh(value)
            self._lines.append(f"{name} = {text}")
            if first.kind and first.scale:
                self._lines.append(f"torch._foreach_mul_({name}, {first.scale})")
            # A number of each tensor has no room for its elements.
            parts = (v for v in (first.left, first.right) if v is not None)
            extents = {self._program.type(v).extent for v in parts}
            return name, "_" if self._program.type(value).extent in extents else ""
        consumable = first.left not in others and self._consumable(first.left, value, inside)
        return self._variable(first.left), "_" if consumable else ""

    def _lerps(self, value: Value, x: tuple[Value, ...], inside: set[Value]) -> bool:
        """Spell u * x + (1 - u) * y as an interpolation."""
        for one, other in (x, x[::-1]):
            if one not in self._lazy or other not in self._lazy:
                return False
            if self._lazy[one].kind or self._lazy[other].kind:
                continue
            u, a = self._split(one)
            v, b = self._split(other)
            if u is None or v is None or self._lazy.get(a) or self._lazy.get(b):
                continue
            if self._follows_the_parameter((a, b)):
                continue  # a difference of infinities is no number
            share = self._operation(v)
            if share.opcode != "sub" or share.arguments[1] != u:
                continue
            if self._operation(share.arguments[0]).attribute == 1.0 and a != b:
                arguments = [self._variable(b), self._printer.text(v)]
                self._into(value, "lerp", a, arguments, inside)
                return True
        return False

    def _finite(self, value: Value, first: Term, second: Term) -> None:
        self._helpers.add("add_finite")
        left = self._variable(first.left)
        text = f"add_finite({left}, {self._variable(second.left)}, {second.scale})"
        self._lines.append(f"{self._fresh(value)} = {text}")
        # It may be the first summand itself.
        self._alias(value, first.left)

    def _with_number(
        self, value: Value, x: tuple[Value, ...], first: bool, negative: bool, inside: set[Value]
    ) -> None:
        number, other = (x[0], x[1]) if first else (x[1], x[0])
        text = self._printer.text(number)
        if first and negative:
            name = self._into(value, "neg", self._materialized(other), [], inside)
            self._lines.append(f"torch._foreach_add_({name}, {text})")
            return
        call = "sub" if negative else "add"
        self._into(value, call, self._materialized(other), [text], inside)

    def _call(self, value: Value, operation: Operation, inside: set[Value]) -> None:
        x = operation.arguments
        match operation.opcode:
            case "sign":
                self._helpers_of_sign(value, x[0])
            case "div":
                name = self._into(value, "reciprocal", self._materialized(x[1]), [], inside)
                if self._operation(x[0]).attribute != 1.0:
                    self._lines.append(f"torch._foreach_mul_({name}, {self._printer.text(x[0])})")
            case "pow" if not uniform(self._kernel, x[1]):
                self._each(value)
            case "pow":
                exponent = self._printer.text(x[1])
                self._into(value, "pow", self._materialized(x[0]), [exponent], inside)
            case "max" | "min" as opcode:
                of_two, of_number = _EXTREMA[opcode]
                if uniform(self._kernel, x[0]):
                    x = x[::-1]
                if uniform(self._kernel, x[1]):
                    bound = self._printer.text(x[1])
                    self._into(value, of_number, self._materialized(x[0]), [bound], inside)
                else:
                    other = self._variable(self._materialized(x[1]))
                    self._into(value, of_two, self._materialized(x[0]), [other], inside)
            case opcode:
                self._into(value, opcode, self._materialized(x[0]), [], inside)

    def _helpers_of_sign(self, value: Value, x: Value) -> None:
        self._helpers.add("sign")
        inner = self._variable(self._materialized(x))
        self._lines.append(f"{self._fresh(value)} = [sign(x) for x in {inner}]")
