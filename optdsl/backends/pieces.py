"""The step of an elementwise rule for pieces of tensors, in memory that is there already.

Each operation is one call of torch, with the same bits as in the step for whole tensors: it writes
where nothing is needed any more, and takes numbers as tensors, which are made once for all pieces.
A piece is small enough that what is computed for it stays in the processor's cache
([decision 59](../../docs/decisions/0059-pieces-of-tensors.md)).
"""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.backends.base import PIECES, EntryPoint
from optdsl.backends.branches import ROOT, Region, branches
from optdsl.backends.emitted import WIDTH, EmittedFunction, wrapped
from optdsl.backends.late_states import late
from optdsl.backends.naming import Names, identifier
from optdsl.backends.piece_helpers import PIECE_HELPERS
from optdsl.backends.piece_memory import GRADIENT, PARAMETER, PieceMemory
from optdsl.backends.python_expressions import HELPERS, Printer
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# A number that is used once has a statement of its own if its text is longer.
_INLINE = 32
# The letters of a name that describes a value; of others, the name is a noun.
_LONGEST = 24
_NOUNS = {"add": "total", "sub": "difference", "mul": "product", "div": "quotient"}

# Operations whose result does not depend on where in a piece an element is. Functions such as the
# exponential are not among them: torch computes the last elements of a tensor in another way.
_BINARY = {"add", "sub", "mul", "div"}
_COMMUTATIVE = {"add", "mul"}
_UNARY = {"sqrt": "sqrt", "abs": "abs", "neg": "neg", "floor": "floor"}
_EXTREMA = {"max": ("maximum", "min"), "min": ("minimum", "max")}
_OTHERS = {"sign", "mix", "where", "stop_gradient", "define", "pow"}
_CONDITIONS = {"lt", "le", "gt", "ge", "eq", "ne"}
_KNOWN = _BINARY | _UNARY.keys() | _EXTREMA.keys() | _OTHERS | _CONDITIONS
_LEAVES = {"parameter", "gradient", "state"}


def emit_pieces(kernel: Kernel, name: str = PIECES) -> EmittedFunction | None:
    """The step of an elementwise rule, as a function of pieces; None of other rules.

    Args:
        kernel: the step.
        name: what the function is called.
    """
    return _Pieces(kernel, name).emitted() if _elementwise(kernel) else None


def _elementwise(kernel: Kernel) -> bool:
    """Whether every element is computed alike, from the element and numbers that all share."""
    operations = kernel.program.operations
    if kernel.program.kind or kernel.program.parameter_type.extent is not Extent.TENSOR:
        return False
    for value in kernel.body:
        operation = operations[value]
        if operation.type.extent is not Extent.TENSOR:
            return False
        if operation.opcode not in (_KNOWN if operation.arguments else _LEAVES):
            return False
        if operation.opcode == "pow" and not _is_square(kernel, operation):
            return False
    if any(operations[v].opcode == "size" for v in kernel.uniform):
        return False
    if any(r.type.extent is not Extent.TENSOR for r in kernel.results):
        return False
    sources = {operations[r.value].opcode: r for r in kernel.results if r.name != "theta"}
    swapped = any(
        operations[r.value].opcode == "state" and operations[r.value].attribute != r.name
        for r in kernel.results
    )
    return bool(kernel.body) and not swapped and "parameter" not in sources


def _is_square(kernel: Kernel, operation: Operation) -> bool:
    return kernel.program.operations[operation.arguments[1]].attribute == 2.0


class _Pieces:
    """The text of a step as a function of pieces."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel, self._program = kernel, kernel.program
        names = {*kernel.reads("state"), *(r.name for r in kernel.results)}
        states = tuple(s.name for s in self._program.states if s.name in names)
        used = set(kernel.reads("hyper"))
        hypers = tuple(h.name for h in self._program.hypers if h.name in used)
        self._names = Names(
            [PARAMETER, GRADIENT, "t", "pieces", "memory", "dtype", *PIECE_HELPERS, *HELPERS]
        )
        keywords = tuple(self._names.fresh(identifier(h)) for h in hypers)
        variables = {s: self._names.fresh(identifier(s)) for s in states}
        results = tuple(r.name for r in kernel.results)
        takes_step = bool(kernel.reads("step"))
        self._entry = EntryPoint(name, states, hypers, keywords, takes_step, results)
        named = dict(zip(hypers, keywords, strict=True))
        self._printer = Printer(self._program, named, variables)
        self._uses = kernel.uses()
        self._memory = PieceMemory(kernel, variables, self._names)
        means = [v for v in kernel.body if self._is_mean(v)]
        regions = branches(kernel, self._printer, self._works, means)
        self._regions = {**regions, ROOT: late(kernel, regions.get(ROOT, ()))}
        self._before: list[str] = []
        self._lines: list[str] = []
        self._numbers: dict[str, str] = {}
        self._divisors: dict[str, str] = {}
        self._shares: list[str] = []
        self._helpers: set[str] = set()

    def emitted(self) -> EmittedFunction | None:
        for value in self._kernel.uniform:
            self._uniform(value)
        self._statements(ROOT)
        if self._memory.tangled():
            return None
        self._store()
        pieces = ", ".join([PARAMETER, GRADIENT, *self._memory.states.values()])
        body = [f"for {pieces} in pieces:"]
        slots = self._memory.slots
        if slots:
            body.append(f"    {', '.join(slots)}, = memory(theta, {len(slots)})")
        body += [f"    {line}" for line in self._lines]
        of_numbers = self._of_numbers("numbers", self._numbers)
        of_divisors = self._of_numbers("divisors", self._divisors)
        before = [*self._before, *of_numbers, *of_divisors, *self._shares]
        documentation = [
            '"""The step of pieces of tensors, in the memory of the parameters and the states.',
            "",
            "A piece has the parameter's elements, the gradient's, and those of each state.",
            '"""',
        ]
        lines = [*documentation, *before, *body]
        text = "\n".join([*self._signature(), *(f"    {x}" if x else "" for x in lines)])
        return EmittedFunction(text, self._entry, frozenset(self._helpers | self._printer.helpers))

    def _signature(self) -> list[str]:
        positional = ["pieces: Iterable[Sequence[Tensor]]",
                      "memory: Callable[[Tensor, int], Sequence[Tensor]]",
                      "dtype: torch.dtype"]  # fmt: skip
        keywords = ["t: float"] if self._entry.takes_step else []
        keywords += [f"{name}: float" for name in self._entry.keywords]
        arguments = [*positional, *(["*", *keywords] if keywords else [])]
        return wrapped(f"def {self._entry.name}(", arguments, ") -> None:")

    def _of_numbers(self, helper: str, numbers: dict[str, str]) -> list[str]:
        """The statement that makes tensors of numbers; their names by their texts."""
        if not numbers:
            return []
        self._helpers.add(helper)
        names = list(numbers.values())
        left = [f"{', '.join(names)}, = {helper}("]
        if len(left[0]) > WIDTH:
            left = ["(", *(f"    {name}," for name in names), f") = {helper}("]
        return [*left[:-1], *wrapped(left[-1], ["dtype", *numbers], ")")]

    def _may_be_one(self, value: Value) -> bool:
        """Whether a value is a number that is not known before the step."""
        return self._is_number(value) and self._program.operations[value].opcode != "constant"

    def _works(self, kernel: Kernel, value: Value) -> bool:
        operation = kernel.program.operations[value]
        return bool(operation.arguments) and not self._is_number(value)

    def _is_number(self, value: Value) -> bool:
        return self._program.type(value).extent is Extent.UNIFORM

    def _is_mean(self, value: Value) -> bool:
        """Whether a value is a mean of elements by weights that are numbers."""
        operation = self._program.operations[value]
        weights, parts = operation.arguments[0::2], operation.arguments[1::2]
        numbers = all(map(self._is_number, weights)) and not any(map(self._is_number, parts))
        return operation.opcode == "mix" and numbers and not self._is_number(value)

    def _uniform(self, value: Value) -> None:
        """A statement for a number that is used more than once, or has a long text."""
        text = self._printer.text(value)
        if self._printer.leaf(value) or (self._uses[value] < 2 and len(text) <= _INLINE):
            return
        name = self._named(value)
        self._before.append(f"{name} = {text}")
        self._printer.bind(value, name)

    def _named(self, value: Value) -> str:
        hint = self._program.operations[value].hint
        if hint is not None:
            return self._names.fresh(identifier(hint))
        words = self._printer.description(value)
        # Every value has a name here, so those that need many words are called by nouns.
        noun = _NOUNS.get(self._program.operations[value].opcode, "value")
        return self._names.fresh(words if len(words) <= _LONGEST else noun)

    def _statements(self, region: Region) -> None:
        """The statements of the step, or of a side of a choice."""
        for value in self._regions.get(region, ()):
            operation = self._program.operations[value]
            if self._is_number(value) or not operation.arguments:
                continue
            if not self._memory.passed_over(value):
                self._statement(value, operation)
                self._memory.compute(value)

    def _statement(self, value: Value, operation: Operation) -> None:
        """The statement of one value."""
        x = operation.arguments
        match operation.opcode:
            case "stop_gradient" | "define":
                self._printer.bind(value, self._text(x[0]))
                self._memory.share(value, [x[0]])
            case "where" if self._is_number(x[0]):
                self._choice(value, operation)
            case "where" if self._memory.finite_part(value):
                self._helpers.add("finite_part")
                self._assign(value, f"finite_part({self._text(x[1])})")
                self._memory.share(value, [x[1]], loose=True)
            case opcode if opcode in _BINARY:
                self._arithmetic(value, operation)
            case "pow":
                self._call(value, "mul", [self._text(x[0])] * 2, [x[0]])
            case opcode if opcode in _UNARY:
                self._call(value, _UNARY[opcode], [self._text(x[0])], [x[0]])
            case "sign":
                self._helpers.add("sign_into")
                memory = self._memory.target(value, [x[0]])
                self._assign(value, f"sign_into({memory}, {self._text(x[0])})")
            case "max" | "min":
                self._extremum(value, operation)
            case "mix" if self._is_mean(value):
                self._mix(value, operation)
            case _:
                self._assign(value, self._printer.text(value))

    def _text(self, value: Value) -> str:
        return self._printer.text(value)

    def _number(self, value: Value, kind: str = "number") -> str:
        """The tensor of a number."""
        text = self._text(value)
        known = self._numbers if kind == "number" else self._divisors
        if text not in known:
            word = self._printer.description(value)
            known[text] = self._names.fresh(f"{kind}_{word}".rstrip("_"))
        return known[text]

    def _operand(self, value: Value) -> str:
        return self._number(value) if self._is_number(value) else self._text(value)

    def _assign(self, value: Value, text: str) -> None:
        name = self._named(value)
        self._lines.append(f"{name} = {text}")
        self._printer.bind(value, name)

    def _call(
        self, value: Value, call: str, operands: list[str], arguments: Iterable[Value]
    ) -> None:
        """A call of torch that writes where nothing is needed any more."""
        arguments = list(arguments)
        memory = self._memory.target(value, arguments, [self._text(a) for a in arguments])
        # A method that writes to its own tensor is looked up faster than a function with `out=`.
        inside = {self._text(a) for a in arguments if self._memory.only_in(a, memory)} | {memory}
        if call in _COMMUTATIVE and operands[0] not in inside and operands[1] in inside:
            operands = operands[::-1]
        if operands[0] in inside:
            self._assign(value, f"{operands[0]}.{call}_({', '.join(operands[1:])})")
        else:
            self._assign(value, f"torch.{call}({', '.join(operands)}, out={memory})")

    def _arithmetic(self, value: Value, operation: Operation) -> None:
        x, call = list(operation.arguments), operation.opcode
        if self._is_number(x[0]):
            if call == "div" and self._program.operations[x[0]].attribute == 1.0:
                self._call(value, "reciprocal", [self._text(x[1])], x[1:])
                return
            if call in {"add", "mul"}:
                x = x[::-1]
        if call == "div" and self._may_be_one(x[1]) and not self._memory.result(value):
            self._helpers.add("divided")
            divisor, text = self._number(x[1], "divisor"), self._text(x[0])
            memory = self._memory.target(value, x[:1], [text])
            self._assign(value, f"divided({memory}, {text}, {divisor})")
            self._memory.share(value, x[:1], own=True)
            return
        tensors = [a for a in x if not self._is_number(a)]
        self._call(value, call, [self._operand(a) for a in x], tensors)

    def _extremum(self, value: Value, operation: Operation) -> None:
        x = operation.arguments
        name, side = _EXTREMA[operation.opcode]
        if self._is_number(x[0]):
            x = x[::-1]
        if self._is_number(x[1]):
            operands = [self._text(x[0]), f"{side}={self._text(x[1])}"]
            self._call(value, "clamp", operands, x[:1])
            return
        memory = self._memory.target(value, x)
        operands = [self._text(a) for a in x]
        self._assign(value, f"torch.{name}({', '.join(operands)}, out={memory})")

    def _mix(self, value: Value, operation: Operation) -> None:
        """A mean, whose weights are looked at once for all pieces."""
        self._helpers |= {"shares", "mix_into"}
        weights, parts = operation.arguments[0::2], operation.arguments[1::2]
        hint = operation.hint
        name = self._names.fresh("shares" if hint is None else f"shares_of_{identifier(hint)}")
        self._shares += wrapped(
            f"{name} = shares(", ["dtype", *(self._text(w) for w in weights)], ")"
        )
        for number, part in enumerate(parts):
            self._part(value, number, part, name)
        spare = self._memory.spare()
        memory = self._memory.target(value, parts[:2], keep=parts[2:])
        self._memory.give_back(spare)
        texts = [self._text(p) for p in parts]
        self._assign(value, f"mix_into({', '.join([memory, spare, name, *texts])})")

    def _part(self, value: Value, number: int, part: Value, shares: str) -> None:
        """The statements for a part of a mean that nothing else needs, where it has weight."""
        around, self._lines = self._lines, []
        self._statements((value, 2 * number + 1))
        lines, self._lines = self._lines, around
        if lines:
            text = self._text(part)
            none = [f"{text} = None"] if part in self._regions[value, 2 * number + 1] else []
            self._lines += [*none, f"if {shares}[{number}] is not None:"]
            self._lines += [f"    {line}" for line in lines]

    def _choice(self, value: Value, operation: Operation) -> None:
        """A choice by a number, of which one side is computed."""
        condition, around = self._text(operation.arguments[0]), self._lines
        name = self._named(value)
        lines: list[str] = []
        for side, head in ((1, f"if {condition}:"), (2, "else:")):
            self._lines = []
            self._statements((value, side))
            chosen = operation.arguments[side]
            text = self._printer.extended(chosen, operation.type)
            lines += [head, *(f"    {line}" for line in [*self._lines, f"{name} = {text}"])]
        self._lines = [*around, *lines]
        self._printer.bind(value, name)
        self._memory.share(value, operation.arguments[1:])

    def _store(self) -> None:
        """The statements that bring results where they belong, if they are not there."""
        for result in self._kernel.results:
            home = self._memory.home(result)
            if self._is_number(result.value):
                self._lines.append(f"{home}.fill_({self._text(result.value)})")
            elif not self._memory.is_home(result):
                self._lines.append(f"{home}.copy_({self._text(result.value)})")
