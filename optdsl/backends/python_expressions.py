"""Values of a program as Python expressions; parentheses come from precedence alone."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping

from optdsl.backends.base import BINARY
from optdsl.ir import host
from optdsl.ir.domain import Interval
from optdsl.ir.intervals import excludes_zero
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.ranges import ranges
from optdsl.ir.types import Extent, Type

# Binding strength in Python.
_CONDITIONAL, _COMPARISON, _SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(7)

_LEVELS = dict.fromkeys(BINARY, _COMPARISON) | dict.fromkeys(("add", "sub"), _SUM)
_LEVELS |= dict.fromkeys(("mul", "div"), _PRODUCT)
_IN_WORDS = {
    "add": "plus", "sub": "minus", "mul": "times", "div": "over", "pow": "pow", "lt": "below",
    "le": "at_most", "gt": "above", "ge": "at_least", "eq": "equals", "ne": "differs_from",
}  # fmt: skip
# A value whose description needs more letters is called by a noun for its operation.
_DESCRIPTION = 40
_NOUNS = {
    "add": "total", "sub": "difference", "mul": "product", "div": "quotient", "pow": "power",
    "mix": "mean", "where": "choice", "neg": "negated", "matmul": "product",
    "transpose": "transposed",
}  # fmt: skip
_NUMBERS = {"0": "zero", "1": "one", "2": "two"}
_LEAVES = {"gradient": "g", "parameter": "theta", "step": "t", "size": "theta.numel()"}
_REDUCTIONS = ("sum", "mean")
_OF_TORCH = ("sqrt", "exp", "log", "tanh", "cos", "sin", "floor", "abs", *_REDUCTIONS)
_EXTREMA = {"max_matrix": "largest", "min_matrix": "smallest"}
_TENSOR_FUNCTIONS = {"sign": "sign", **{name: f"torch.{name}" for name in _OF_TORCH}, **_EXTREMA}

_SIGN = '''\
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN, which torch.sign turns into 0."""
    return torch.where(torch.isnan(x), x, torch.sign(x))'''

_LARGEST = '''\
def largest(x: Tensor) -> Tensor:
    """The largest number; of none, -inf."""
    return torch.amax(x) if x.numel() else x.new_full((), -math.inf)'''

_SMALLEST = '''\
def smallest(x: Tensor) -> Tensor:
    """The smallest number; of none, inf."""
    return torch.amin(x) if x.numel() else x.new_full((), math.inf)'''

_MIX = '''\
def mix(*parts: tuple[float, Tensor]) -> Tensor:
    """The mean of tensors by weights that sum to one; what weighs nothing takes no part."""
    total, mean = 0.0, parts[0][1]
    for weight, x in parts:
        if weight != 0:
            total += weight
            share, gap = weight / total, mean - x
            if share == 1:
                mean = x
            else:
                # Infinities have no difference, but they have a mean.
                apart = (1 - share) * mean + share * x
                mean = torch.where(gap.isfinite(), mean - share * gap, apart)
    return mean'''

_RAISED = '''\
def raised(x: Tensor | float, y: Tensor) -> Tensor:
    """x to the power of y; the powers 1/2 and -1/2 are roots."""
    root = torch.sqrt(torch.as_tensor(x, dtype=y.dtype, device=y.device))
    return torch.where(y == 0.5, root, torch.where(y == -0.5, 1 / root, x**y))'''

# Functions that emitted code brings along, by name.
HELPERS = {
    "sign": _SIGN, "mix": _MIX, "raised": _RAISED, "largest": _LARGEST, "smallest": _SMALLEST,
} | {
    function.__name__: inspect.getsource(function).rstrip()
    for function in (
        host.divide, host.power, host.mixed, host.square_root, host.exponential, host.logarithm,
        host.cosine, host.sine, host.floored, host.signum, host.maximum, host.minimum,
    )
}  # fmt: skip


def spelled_operations() -> frozenset[str]:
    """The operations that have a spelling, on the host and on tensors."""
    functions = _TENSOR_FUNCTIONS.keys() & {*_HOST_FUNCTIONS, *_REDUCTIONS, *_EXTREMA}
    return frozenset(
        {*BINARY, *_LEAVES, *functions, "constant", "hyper", "state"}
        | {"neg", "pow", "mix", "max", "min", "where", "define", "stop_gradient", "draw"}
    )


class Printer:
    """Spells the values of a program.

    Attributes:
        helpers: the names of the functions in `HELPERS` that the spelled values call.
        alone: values that get a variable even where they are used once.
    """

    def __init__(
        self, program: Program, hypers: Mapping[str, str], states: Mapping[str, str]
    ) -> None:
        self._program = program
        self._ranges = ranges(program)
        self._hypers = hypers
        self._states = states
        self._bound: dict[Value, str] = {}
        self.helpers: set[str] = set()
        self.alone: Collection[Value] = ()

    def bind(self, value: Value, name: str) -> None:
        """From now on spell `value` as the variable `name`."""
        self._bound[value] = name

    def range(self, value: Value) -> Interval:
        """The numbers that a value may be."""
        return self._ranges[value]

    def absorbed(self, uses: Mapping[Value, int]) -> frozenset[Value]:
        """The values that others spell together with themselves, so that they need no variable.

        Args:
            uses: how often each value is used.
        """
        return frozenset()

    def overwritten(self, value: Value) -> Value | None:
        """An argument that needs a variable, for the value is computed in its memory."""
        return None

    def inline(self, value: Value) -> list[Value]:
        """The arguments that the expression of a value spells out."""
        operation = self._program.operations[value]
        return [a for a in operation.arguments if a not in self._bound and not self.leaf(a)]

    def leaf(self, value: Value) -> bool:
        """Whether a value needs no variable: an argument of the function, or a literal."""
        operation = self._program.operations[value]
        return not operation.arguments

    def text(self, value: Value) -> str:
        """The expression of a value."""
        return self._spell(value)[0]

    def parts(self, value: Value) -> tuple[str, str] | None:
        """A sum, product or choice cut before its last operator, to be written on two lines."""
        operation = self._program.operations[value]
        if operation.opcode == "where":
            last = f"else {self._at(operation.arguments[2], _CONDITIONAL)}"
        else:
            level = _LEVELS.get(operation.opcode)
            if level not in {_SUM, _PRODUCT}:
                return None
            last = f"{BINARY[operation.opcode]} {self._at(operation.arguments[1], level + 1)}"
        text = self.text(value)
        # The call of a function has no operator at its end.
        return (text.removesuffix(f" {last}"), last) if text.endswith(f" {last}") else None

    def description(self, value: Value) -> str:
        """A name for a value that the specification does not name: what it is, in words."""
        words = self._describe(value)
        if words is not None and len(words) <= _DESCRIPTION:
            return words
        operation = self._program.operations[value]
        if operation.type.condition:
            return "condition"
        return _NOUNS.get(operation.opcode, f"{operation.opcode}_value")

    def _describe(self, value: Value) -> str | None:
        text = self.text(value) if value in self._bound or self.leaf(value) else None
        if text is not None:
            return text if re.fullmatch(r"[A-Za-z_]\w*|\d+", text) else None
        operation = self._program.operations[value]
        x = operation.arguments
        words = [self._describe(a) for a in (x[1:] if operation.opcode == "where" else x)]
        if None in words:
            return None
        spelled = None
        if operation.opcode in _IN_WORDS:
            if operation.opcode == "pow" and words[1] == "2":
                return f"{words[0]}_squared"
            left = _NUMBERS.get(str(words[0]), words[0])
            spelled = f"{left}_{_IN_WORDS[operation.opcode]}_{words[1]}"
        elif operation.opcode == "where" and "0" in words:
            spelled = f"{words[1 - words.index('0')]}_or_zero"
        elif operation.opcode == "mix" and sorted(map(str, words[1::2])) == ["0", "1"]:
            # The part of one weight in all the weight.
            spelled = f"share_of_{words[2 * words[1::2].index('1')]}"
        elif len(words) == 1:
            spelled = f"{operation.opcode}_{words[0]}"
        return spelled if spelled is not None and spelled[0].isalpha() else None

    def extended(self, value: Value, kind: Type) -> str:
        """The expression of a value, extended as a type does even where its own does less."""
        return self._extended(value, kind, _CONDITIONAL)

    def _extended(self, value: Value, kind: Type, demanded: int) -> str:
        actual, extent = self.extent(value), kind.extent
        if actual is extent or extent is Extent.UNIFORM:
            return self._at(value, demanded)
        if actual is Extent.SCALAR:
            return f"{self._at(value, _ATOM)}.expand_as(theta)"
        text = self.text(value)
        if extent is Extent.SCALAR:
            return f"theta.new_tensor({text})"
        return "torch.zeros_like(theta)" if text == "0" else f"torch.full_like(theta, {text})"

    def _at(self, value: Value, demanded: int) -> str:
        text, level = self._spell(value)
        return f"({text})" if level < demanded else text

    def _spell(self, value: Value) -> tuple[str, int]:
        if value in self._bound:
            return self._bound[value], _ATOM
        operation = self._program.operations[value]
        uniform = self.extent(value) is Extent.UNIFORM
        x = operation.arguments
        match operation.opcode:
            case "constant":
                assert isinstance(operation.attribute, float)
                return literal(operation.attribute)
            case "hyper":
                return self._hypers[str(operation.attribute)], _ATOM
            case "state":
                return self._states[str(operation.attribute)], _ATOM
            case opcode if opcode in _LEAVES:
                return _LEAVES[opcode], _ATOM
            case "define" | "stop_gradient":
                return self._spell(x[0])
            case "draw":
                return self._draw(operation, self._shape_of(operation.type))
            case "neg":
                return f"-{self._at(x[0], _UNARY)}", _UNARY
            case "where":
                return self._where(operation)
            case "pow":
                return self._power(operation, uniform)
            case "mix":
                return self._mix(operation, uniform)
            case "div" if uniform and not excludes_zero(self._ranges[x[1]]):
                return self._call("divide", *x)
            case "div" if not uniform and self._number_over_a_tensor(x[0], x[1]):
                # Of a number by a tensor, torch makes a product with the reciprocal.
                numerator = (
                    f'torch.tensor({self.text(x[0])}, dtype=torch.float64, device="cpu").to(theta)'
                )
                return f"{numerator} / {self._at(x[1], _UNARY)}", _PRODUCT
            case opcode if opcode in BINARY:
                level = _LEVELS[opcode]
                left = self._at(x[0], max(level, _SUM))
                return f"{left} {BINARY[opcode]} {self._at(x[1], level + 1)}", level
            case "max" | "min":
                return self._extremum(operation, uniform)
            case opcode:
                return self._function(operation, uniform)

    def _draw(self, operation: Operation, shape: str) -> tuple[str, int]:
        """Random numbers of a shape; empty for that of the parameter."""
        distribution, _, name = str(operation.attribute).partition(" ")
        counter = self.text(operation.arguments[0])
        parts = [repr(name).replace("'", '"'), counter, "theta", *([shape] if shape else [])]
        return f"draws.{distribution}({', '.join(parts)})", _ATOM

    def _shape_of(self, kind: Type) -> str:
        """The shape of what is drawn, as `_draw` takes it."""
        return "" if kind.extent is Extent.TENSOR else "()"

    def _call(self, name: str, *arguments: Value) -> tuple[str, int]:
        """A call of a function, which is added to `helpers` if it is one of `HELPERS`."""
        if name in HELPERS:
            self.helpers.add(name)
        return f"{name}({', '.join(self.text(a) for a in arguments)})", _ATOM

    def _where(self, operation: Operation) -> tuple[str, int]:
        condition, then, otherwise = operation.arguments
        if self.extent(condition) is Extent.UNIFORM:
            chosen = self._extended(then, operation.type, _COMPARISON)
            other = self._extended(otherwise, operation.type, _CONDITIONAL)
            return f"{chosen} if {self._at(condition, _COMPARISON)} else {other}", _CONDITIONAL
        chosen = self.text(then)
        if self.extent(then) is self.extent(otherwise) is Extent.UNIFORM:
            # Two Python numbers would make a tensor of torch's default precision.
            chosen = f"theta.new_tensor({chosen})"
        return f"torch.where({self.text(condition)}, {chosen}, {self.text(otherwise)})", _ATOM

    def _power(self, operation: Operation, uniform: bool) -> tuple[str, int]:
        base, exponent = operation.arguments
        if uniform and not _plain_power(self._ranges[base], self._ranges[exponent]):
            return self._call("power", base, exponent)
        if self.extent(exponent) is not Extent.UNIFORM and self._ranges[base].lower <= 0:
            return self._call("raised", base, exponent)
        return f"{self._at(base, _ATOM)}**{self._at(exponent, _UNARY)}", _POWER

    def _mix(self, operation: Operation, uniform: bool) -> tuple[str, int]:
        if uniform:
            return self._call("mixed", *operation.arguments)
        pairs = zip(operation.arguments[0::2], operation.arguments[1::2], strict=True)
        parts = (f"({self.text(w)}, {self.extended(x, operation.type)})" for w, x in pairs)
        self.helpers.add("mix")
        return f"mix({', '.join(parts)})", _ATOM

    def _extremum(self, operation: Operation, uniform: bool) -> tuple[str, int]:
        name = "maximum" if operation.opcode == "max" else "minimum"
        x, y = operation.arguments
        if uniform:
            return self._call(name, x, y)
        if self.extent(x) is Extent.UNIFORM:
            x, y = y, x
        if self.extent(y) is Extent.UNIFORM:
            side = "min" if operation.opcode == "max" else "max"
            return f"torch.clamp({self.text(x)}, {side}={self.text(y)})", _ATOM
        return self._call(f"torch.{name}", x, y)

    def _function(self, operation: Operation, uniform: bool) -> tuple[str, int]:
        opcode, x = operation.opcode, operation.arguments[0]
        if not uniform:
            return self._call(_TENSOR_FUNCTIONS[opcode], x)
        name, safe = _HOST_FUNCTIONS[opcode]
        if safe is not None and safe(self._ranges[x]):
            name = f"math.{opcode}"
        return self._call(name, x)

    def _number_over_a_tensor(self, numerator: Value, divisor: Value) -> bool:
        """Whether a uniform number other than 1 is divided by something that is larger."""
        one = self._program.operations[numerator].attribute == 1.0
        extents = self.extent(numerator), self.extent(divisor)
        return not one and extents[0] is Extent.UNIFORM and extents[1] is not Extent.UNIFORM

    def extent(self, value: Value) -> Extent:
        """How far a value extends in the emitted code."""
        return self._program.type(value).extent


def _finite(x: Interval) -> bool:
    return -math.inf < x.lower and x.upper < math.inf


# On the host: the helper's name, and when Python's own function never raises in its place.
_HOST_FUNCTIONS: dict[str, tuple[str, Callable[[Interval], bool] | None]] = {
    "sqrt": ("square_root", lambda x: x.lower >= 0),
    "exp": ("exponential", lambda x: x.upper <= 709),
    "log": ("logarithm", lambda x: x.lower >= 0 and excludes_zero(x)),
    "tanh": ("math.tanh", None),
    "cos": ("cosine", _finite),
    "sin": ("sine", _finite),
    "floor": ("floored", None),
    "abs": ("abs", None),
    "sign": ("signum", None),
}


def _plain_power(base: Interval, exponent: Interval) -> bool:
    """Whether Python's ``**`` neither raises nor leaves the real numbers."""
    return 0 <= base.lower and base.upper <= 1 and exponent.lower >= 0


def literal(number: float) -> tuple[str, int]:
    """A number as text that Python reads back to the bit; whole numbers have no fraction."""
    if math.isinf(number):
        return ("math.inf", _ATOM) if number > 0 else ("-math.inf", _UNARY)
    whole = number == math.floor(number) and abs(number) < 1e6
    negative_zero = number == 0 and math.copysign(1, number) < 0
    text = str(int(number)) if whole and not negative_zero else repr(number)
    return text, _UNARY if text.startswith("-") else _ATOM
