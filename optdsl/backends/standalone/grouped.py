"""Steps of many tensors at once: the step of an elementwise rule in `torch._foreach_` calls.

Products with numbers, products and quotients become parts of the sums that use them (``alpha=``,
``addcmul``, ``addcdiv``, ``lerp``), and a result is computed in memory that nothing needs any more.
So the numbers are those of the eager backend up to rounding.
"""

from __future__ import annotations

from optdsl.backends.base import EntryPoint
from optdsl.backends.eager import EmittedFunction, wrapped
from optdsl.backends.naming import Names, identifier
from optdsl.backends.python_expressions import HELPERS, Printer
from optdsl.backends.standalone.groupable import groupable, uniform, users
from optdsl.backends.standalone.terms import Term, Terms, times
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
    finite = [torch.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in y]
    return torch._foreach_add(x, finite, alpha=scale)'''


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


class _Grouped(Terms):
    def __init__(self, kernel: Kernel, name: str) -> None:
        program = kernel.program
        read = set(kernel.reads("state"))
        states = tuple(s.name for s in program.states if s.name in read)
        used = set(kernel.reads("hyper"))
        hypers = tuple(h.name for h in program.hypers if h.name in used)
        self._taken = Names(["theta", "g", "t", "add_finite", *HELPERS])
        keywords = tuple(self._taken.fresh(identifier(h)) for h in hypers)
        self._states = {s: self._taken.fresh(identifier(s)) for s in states}
        results = tuple(r.name for r in kernel.results)
        takes_step = bool(kernel.reads("step"))
        self._entry = EntryPoint(name, states, hypers, keywords, takes_step, results)
        named = dict(zip(hypers, keywords, strict=True))
        super().__init__(kernel, Printer(program, named, self._states))
        self._variables: dict[Value, str] = {}
        self._computed: set[Value] = set()
        self._unowned: set[Value] = set()
        self._lines: list[str] = []

    def emitted(self) -> EmittedFunction:
        for value in self._kernel.uniform:
            self._number(value)
        for value in self._kernel.body:
            if self._skipped(value):
                # Of a finite part, what reads its argument is the choice, which is noted.
                self._computed |= set() if value in self._lazy else {value}
            else:
                self._value(value)
        results = [self._variable(r.value) for r in self._kernel.results]
        returned = [f"return {', '.join(results)}{',' if len(results) == 1 else ''}"]
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

    def _skipped(self, value: Value) -> bool:
        """Whether a value is spelled as a part of a finite part, or needs no statement."""
        opcode = self._operation(value).opcode
        if not self._operation(value).arguments:
            return True
        if opcode == "where":
            self._lazy[value] = Term("", "finite", self._operation(value).arguments[1])
            return True
        found = list(users(self._kernel, value))
        return bool(found) and all(
            self._operation(u).opcode == "where" or self._condition(u) for u in found
        )

    def _condition(self, value: Value) -> bool:
        return self._operation(value).type.condition

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
        name = self._base(value, first, second, inside)
        target, ending = (name, "_") if name else (self._variable(first.left), "")
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
        if name:
            self._lines.append(text)
            self._variables[value] = name
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

    def _base(self, value: Value, first: Term, second: Term, inside: set[Value]) -> str | None:
        """The variable of the first summand if the sum may be computed in it."""
        others = {second.left, second.right}
        if first.kind or first.scale:
            apart = first.left not in others
            if apart and not first.kind and self._consumable(first.left, value, inside):
                name = self._variable(first.left)
                self._lines.append(f"torch._foreach_mul_({name}, {first.scale})")
                return name
            if first.kind:
                right = self._variable(first.right) if first.right is not None else ""
                text = f"torch._foreach_{first.kind}({self._variable(first.left)}, {right})"
            else:
                text = f"torch._foreach_mul({self._variable(first.left)}, {first.scale})"
            name = self._fresh(value)
            self._lines.append(f"{name} = {text}")
            if first.kind and first.scale:
                self._lines.append(f"torch._foreach_mul_({name}, {first.scale})")
            return name
        if first.left not in others and self._consumable(first.left, value, inside):
            return self._variable(first.left)
        return None

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
        self._unowned |= {first.left, value}

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

    def _into(
        self, value: Value, call: str, first: Value, rest: list[str], inside: set[Value]
    ) -> str:
        """A call, in the memory of its first argument if nothing else needs that."""
        target = self._variable(first)
        arguments = ", ".join([target, *rest])
        if target not in rest and self._consumable(first, value, inside):
            self._lines.append(f"torch._foreach_{call}_({arguments})")
            self._variables[value] = target
            return target
        name = self._fresh(value)
        self._lines.append(f"{name} = torch._foreach_{call}({arguments})")
        return name

    def _materialized(self, value: Value) -> Value:
        """A value that has a variable now."""
        if value in self._lazy:
            del self._lazy[value]
            self._compute(value)
        return value

    def _variable(self, value: Value) -> str:
        operation = self._operation(value)
        if value in self._lazy:
            self._materialized(value)
        if value in self._variables:
            return self._variables[value]
        match operation.opcode:
            case "parameter":
                return "theta"
            case "gradient":
                return "g"
            case _:
                return self._states[str(operation.attribute)]

    def _fresh(self, value: Value) -> str:
        hint = self._operation(value).hint
        wanted = identifier(hint) if hint is not None else self._printer.description(value)
        self._variables[value] = self._taken.fresh(wanted)
        return self._variables[value]

    def _consumable(self, value: Value, user: Value, inside: set[Value]) -> bool:
        """Whether a value's memory may be overwritten by one that uses it."""
        operation = self._operation(value)
        if value in self._unowned or value in self._results:
            return False
        if operation.opcode == "gradient":
            return False
        result = self._results.get(user)
        if operation.opcode == "parameter" and (result is None or result.name != "theta"):
            return False
        if operation.opcode == "state" and (result is None or result.name == "theta"):
            return False
        done = self._computed | inside | {user}
        return all(u in done for u in users(self._kernel, value))
