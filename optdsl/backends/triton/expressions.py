"""Operations of a program as Triton expressions, and the functions that emitted code brings along.

Only portable operations of Triton are used, which every vendor's devices and Triton's interpreter
support.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from optdsl.backends.base import BINARY
from optdsl.ir.ops import LEAVES, OF_MATRICES, TOTALS

_RESERVED = """
    abs advance assigned begin begins block blocks bool c constexpr count dots element exp fetch
    fetched finite first firsts float folded full given gradient holders hypers i initialize
    inside int j k keep larger later later_complete learn learn_all learned len log many max memory
    min mixed n nearest now number one other owner p partials place power put q range row rows s
    scalars complete complete_and_step share_of sign size smaller source sources sqrt start step
    step_completed stop sum sums table taken tanh tensor tensors threshold tl total triton tuple u
    uniforms warps where width x y
"""

# Options of the compiler: a product and a sum may be rounded once, as in the C backend.
OPTIONS = 'OPTIONS = {"enable_fp_fusion": True}'

_FUNCTIONS = {
    "sqrt": "tl.sqrt", "exp": "tl.exp", "log": "tl.log", "abs": "tl.abs",
    "cos": "tl.cos", "sin": "tl.sin", "floor": "tl.floor",
    "sign": "sign", "max": "larger", "min": "smaller",
}  # fmt: skip

# Functions that emitted code brings along, by name: those that call others come after them.
HELPERS = {
    "fetch": '''\
@triton.jit
def fetch(p, i, inside, FAST: tl.constexpr):
    """The elements i of a tensor, zeros beyond its end."""
    if FAST:
        return tl.load(p + i)
    return tl.load(p + i, mask=inside, other=0.0)''',
    "put": '''\
@triton.jit
def put(p, i, x, inside, FAST: tl.constexpr):
    """Make x the elements i of a tensor."""
    if FAST:
        tl.store(p + i, x)
    else:
        tl.store(p + i, x, mask=inside)''',
    "total": '''\
@triton.jit
def total(x, inside, FAST: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of a block, for sums in double precision."""
    x = x + tl.zeros((BLOCK,), x.dtype)
    if not FAST:
        x = tl.where(inside, x, 0.0)
    return tl.sum(x, 0).to(tl.float64)''',
    "folded": '''\
@triton.jit
def folded(p, start, stop, BLOCK: tl.constexpr):
    """The sum of the numbers from start to stop, always in the same order."""
    found = tl.zeros((BLOCK,), tl.float64)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        found += tl.load(p + i, mask=i < stop, other=0.0)
    return tl.sum(found, 0)''',
    "sign": '''\
@triton.jit
def sign(x):
    """-1, 0 or 1; NaN stays NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x + 0.0))''',
    "larger": '''\
@triton.jit
def larger(x, y):
    """The larger; NaN if either is."""
    return tl.where(x > y, x, tl.where(y >= x, y, x + y))''',
    "smaller": '''\
@triton.jit
def smaller(x, y):
    """The smaller; NaN if either is."""
    return tl.where(x < y, x, tl.where(y <= x, y, x + y))''',
    "power": '''\
@triton.jit
def power(x, y):
    """x to the power of y, in double precision."""
    size = tl.where(tl.abs(x) == 1, 1.0, tl.exp(y * tl.log(tl.abs(x))))
    whole = tl.floor(y) == y
    odd = whole & (2 * tl.floor(y / 2) != y)
    # Zero and infinity have a power for every exponent, and zero has a sign.
    other = tl.where(x * 2 == x, size, float("nan"))
    below = tl.where(odd, -size, tl.where(whole, size, other))
    sign = tl.where(x == 0, 1 / x, x)
    found = tl.where(sign < 0, below, tl.where(x != x, x, size))
    root = tl.sqrt(x)
    found = tl.where(y == 0.5, root, tl.where(y == -0.5, 1 / root, found))
    return tl.where(y == 0, 1.0, found)''',
    "tanh": '''\
@triton.jit
def tanh(x):
    """The hyperbolic tangent, in double precision."""
    # exp(y) - 1 for y = -2|x| without cancellation (Kahan): both roundings are the same.
    y = -2 * tl.abs(x)
    e = tl.exp(y)
    near = (e - 1) * tl.where(e == 1, 1.0, y / tl.where(e == 1, 1.0, tl.log(e)))
    less = tl.where(e == 1, y, tl.where(e == 0, -1.0, near))
    size = -less / (2 + less)
    return tl.where(x < 0, -size, tl.where(x > 0, size, x))''',
    "share_of": '''\
@triton.jit
def share_of(weight, total):
    """The part of a weight in all the weight so far."""
    return tl.where(weight == 0, 0.0, weight / total)''',
    "mixed": '''\
@triton.jit
def mixed(mean, x, turned, way):
    """A mean so far and one more part: from the nearer of the two, some way along their difference.

    Infinities have no difference, but they have a mean; what weighs nothing takes no part.
    """
    gap = x - mean
    share = tl.where(turned, 1 + way, way)
    apart = (1 - share) * mean + share * x
    end = tl.where(turned, x, mean)
    moved = tl.where(tl.abs(gap) < float("inf"), end + way * gap, apart)
    # Zeros have signs.
    moved = tl.where(gap == 0, tl.where(end == 0, mean + x, end), moved)
    return tl.where(way == 0, end, moved)''',
}
RESERVED = frozenset(_RESERVED.split()) | HELPERS.keys()


def helpers(text: str, known: Mapping[str, str] = HELPERS) -> list[str]:
    """The functions that a text calls, of those that are known by their names."""
    found = [name for name in known if re.search(rf"(?<!\.)\b{name}\(", text)]
    return [known[name] for name in found]


def spelled_operations() -> frozenset[str]:
    """The operations that have a spelling."""
    named = {"neg", "where", "pow", "tanh", "mix", "define", "stop_gradient", "sum", "mean"}
    return frozenset({*BINARY, *_FUNCTIONS, *LEAVES, *named} - OF_MATRICES - TOTALS)


def spell(opcode: str, x: Sequence[str], kind: str) -> str:
    """An operation on words.

    Args:
        opcode: any but leaves, "mix", "pow", "sum" and "mean".
        x: the arguments.
        kind: the type in which it is calculated, as "tl.float32".
    """
    single = kind == "tl.float32"
    if opcode == "div" and single:
        return f"tl.div_rn({x[0]}, {x[1]})"
    if opcode == "sqrt" and single:
        return f"tl.sqrt_rn({x[0]})"
    if opcode in BINARY:
        return f"{x[0]} {BINARY[opcode]} {x[1]}"
    if opcode in _FUNCTIONS:
        return f"{_FUNCTIONS[opcode]}({', '.join(x)})"
    match opcode:
        case "neg":
            return f"-{x[0]}"
        case "tanh":
            return f"tanh({x[0]}.to(tl.float64)).to({kind})" if single else f"tanh({x[0]})"
        case "where":
            return f"tl.where({x[0]}, {x[1]}, {x[2]})"
        case "define" | "stop_gradient":
            return x[0]
    raise NotImplementedError(opcode)


def power(base: str, exponent: str, constant: float | None, kind: str) -> str:
    """A power; as torch does it where the exponent is one of a few numbers."""
    square, root = f"{base} * {base}", spell("sqrt", [base], kind)
    known = {2.0: square, 3.0: f"{square} * {base}", 0.5: root}
    if constant in known:
        return known[constant]
    divisors = {-0.5: root, -1.0: base, -2.0: f"({square})"}
    if constant in divisors:
        return spell("div", [full(1.0, kind), divisors[constant]], kind)
    if kind == "tl.float64":
        return f"power({base}, {exponent})"
    return f"power({base}.to(tl.float64), {exponent}.to(tl.float64)).to({kind})"


def literal(number: float) -> str:
    """A number, to the bit; in parentheses if it is more than one word."""
    if math.isinf(number):
        return 'float("inf")' if number > 0 else '(-float("inf"))'
    text = repr(number)
    return f"({text})" if text[0] == "-" else text


def full(number: float, kind: str) -> str:
    """A number as a value of a type, where Triton would not find the type by itself."""
    return f"tl.full((), {literal(number)}, {kind})"
