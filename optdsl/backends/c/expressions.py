"""Operations of a program as C expressions, and the functions that emitted C brings along."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optdsl.backends import naming
from optdsl.backends.base import BINARY
from optdsl.ir.ops import DRAWS, LEAVES, OF_MATRICES, TOTALS

# What C and the emitted file use for themselves.
_RESERVED = """
    " _Bool _Complex _Imaginary abs acc add_products add_values AHEAD all APART asm at_random
    at_random_bfloat16 auto b begin beside bfloat16 bits BLOCK block break calloc case ceil char
    chosen CHUNK const continue copy copysign copysignf count DBL_MAX default div do double drawn
    drawn_alone edge element else enum EOF erf errno exp exp2 expf extern f fabs fabsf far FETCH
    first float floor FLT_MAX fma fmax fmin folded for free gamma get goto HUGE_VAL hypers I i
    if index INFINITY initialize inline int islessgreater j0 j1 jn l LANES LARGEST leave_out
    lgamma LINE linux load load_bfloat16 log log10 log2 logf long m main malloc maximum maximumd
    memcpy memory memset minimum minimumd mixed mixedd n NAN near normal_numbers NULL o odd
    odds opened origin out own padded part partial philox plain pow power powerd powf product put
    put_at_random put_at_random_bfloat16 put_bfloat16 put_with_rest q rademacher_numbers RARE
    real register remainder rest restrict return rindex room round rounded rounded_bfloat16 row
    rows s scalars sign_of_number stream complete complete_and_step share_of short sign signd
    signed signgam size sizeof sqrt sqrtf static step step_completed struct sums switch tanh tanhf
    tensor tgamma take threads total trunc turned typedef typeof u uniform_numbers union unix
    unsigned usual void volatile way while whole_index wide widen x y0 y1 yn
"""


def identifier(name: str) -> str:
    """A name of the language as a C identifier that no header has a macro or a type for."""
    word = naming.plain_identifier(name)
    # Types end in _t; the file's own words are reserved one by one.
    return f"{word}_" if word.endswith("_t") else word


_LIBRARY = {
    "sqrt": "sqrt", "exp": "exp", "log": "log", "tanh": "tanh", "cos": "cos", "sin": "sin",
    "floor": "floor", "abs": "fabs",
}  # fmt: skip
_HELPERS = {"sign": "sign", "max": "maximum", "min": "minimum"}
RESERVED = frozenset(_RESERVED.split()) | {
    f"{name}{f}" for name in _LIBRARY.values() for f in ("", "f")
}

# `@` is the type, `#` the suffix of the library's functions for it, `~` that of ours.
_FUNCTIONS = """\
/* -1, 0 or 1; NaN stays NaN, and zero loses its sign. */
static inline @ sign~(@ x) { return islessgreater(x, 0) ? copysign#(1, x) : x + 0; }

/* The larger and the smaller; NaN if either is. */
static inline @ maximum~(@ x, @ y) { return x > y ? x : y >= x ? y : x + y; }
static inline @ minimum~(@ x, @ y) { return x < y ? x : y <= x ? y : x + y; }

/* A power; those of 1/2 and -1/2 are roots. */
static inline @ power~(@ x, @ y) {
  return y == (@)0.5 ? sqrt#(x) : y == (@)-0.5 ? 1 / sqrt#(x) : pow#(x, y);
}
"""
_ON_THE_HOST = """\
/* The part of a weight in all the weight so far. */
RARE static double share_of(double weight, double total) {
  return weight == 0 ? 0 : weight / total;
}

/* A mean so far and one more part; infinities have no difference, but they have a mean. */
RARE static double mixedd(double mean, double x, double share) {
  const double gap = mean - x;
  const double moved =
      fabs(gap) <= DBL_MAX ? mean - share * gap : (1 - share) * mean + share * x;
  return share == 0 ? mean : share == 1 ? x : moved;
}
"""
_ON_ELEMENTS = """\
/* A choice that is the same for all elements is made by bits: of those loops, compilers make
   vectors. */
static inline real chosen(bits which, real x, real y) {
  bits left, right;
  memcpy(&left, &x, sizeof left);
  memcpy(&right, &y, sizeof right);
  left = right ^ ((left ^ right) & which);
  memcpy(&x, &left, sizeof x);
  return x;
}

/* A mean so far and one more part: from the nearer of the two, some way along their difference;
   infinities have no difference, but they have a mean. */
static inline bits turned(double share) { return share >= 0.5 ? -1 : 0; }
static inline real way(double share) { return (real)(share >= 0.5 ? share - 1 : share); }
static inline real mixed(real mean, real x, bits turned, real way) {
  const real share = turned ? 1 + way : way, gap = x - mean, end = chosen(turned, x, mean);
  if (way == 0) return end;
  if (gap == 0) return end == 0 ? mean + x : end;  /* zeros have signs */
  return fabs#(gap) <= LARGEST ? end + way * gap
                               : (1 - share) * mean + share * x;
}

/* Whether all numbers are finite. */
APART static int usual(const real *restrict x, int64_t n) {
  int all = 1;
  for (int64_t i = 0; i < n; i++) all &= fabs#(x[i]) <= LARGEST;
  return all;
}

/* Whether one is an infinity or no number. */
APART static int odd(const real *restrict x, int64_t n) {
  bits found = 0;  /* as wide as the numbers, so that a comparison is a mask */
  for (int64_t i = 0; i < n; i++) found |= fabs#(x[i]) <= LARGEST ? 0 : -1;
  return found != 0;
}
"""

_OF_NUMBERS = """\
/* -1, 0 or 1. */
static inline real sign_of_number(real x) { return x != 0 ? copysign#(1, x) : 0; }
"""


def functions(double: bool) -> str:
    """The functions for doubles on the host, and for elements."""
    suffix = "" if double else "f"
    kind, largest = ("double", "DBL_MAX") if double else ("float", "FLT_MAX")
    host = _FUNCTIONS.replace("@", "double").replace("~", "d").replace("#", "") + _ON_THE_HOST
    elements = f"{_FUNCTIONS}{_ON_ELEMENTS}"
    elements = elements.replace("@", kind).replace("~", "").replace("#", suffix)
    return f"{host}\n#define LARGEST {largest}\n{elements}"


def of_numbers(double: bool) -> str:
    """The functions of kernels for finite numbers, which need not keep NaN."""
    return _OF_NUMBERS.replace("#", "" if double else "f")


def spelled_operations() -> frozenset[str]:
    """The operations that have a spelling."""
    named = {"neg", "where", "pow", "mix", "define", "stop_gradient", "sum", "mean"}
    found = {*BINARY, *_LIBRARY, *_HELPERS, *LEAVES, *named, *DRAWS}
    return frozenset(found - OF_MATRICES - TOTALS)


def spell(opcode: str, x: Sequence[str], double: bool, ours: str) -> str:
    """An operation on arguments that are single words.

    Args:
        opcode: any but leaves, "mix", "pow", "sum" and "mean".
        x: the arguments.
        double: whether the library's functions are those for double.
        ours: the suffix of our functions.
    """
    if opcode in BINARY:
        return f"{x[0]} {BINARY[opcode]} {x[1]}"
    if opcode in _LIBRARY:
        return f"{_LIBRARY[opcode]}{'' if double else 'f'}({x[0]})"
    if opcode in _HELPERS:
        return f"{_HELPERS[opcode]}{ours}({', '.join(x)})"
    match opcode:
        case "neg":
            return f"-{x[0]}"
        case "where":
            return f"{x[0]} ? {x[1]} : {x[2]}"
        case "define" | "stop_gradient":
            return x[0]
    raise NotImplementedError(opcode)


def power(base: str, exponent: str, constant: float | None, double: bool, ours: str) -> str:
    """A power of two words; as torch does it where the exponent is one of a few numbers.

    `constant` is the exponent if it is a literal; `double` and `ours` are as of `spell`.
    """
    if constant is None:
        return f"power{ours}({base}, {exponent})"
    suffix = "" if double else "f"
    square, root = f"{base} * {base}", f"sqrt{suffix}({base})"
    known = {2.0: square, 0.5: root, -0.5: f"1 / {root}"}
    if not double:
        known |= {3.0: f"{square} * {base}", -1.0: f"1 / {base}", -2.0: f"1 / ({square})"}
    return known.get(constant, f"pow{suffix}({base}, {exponent})")


def literal(number: float, kind: str) -> str:
    """A number, to the bit; in parentheses if it is more than one word."""
    if math.isinf(number):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    text = repr(number) if kind == "double" else f"(real){number!r}"
    return text if kind == "double" and number >= 0 and text[0] != "-" else f"({text})"


# How parameters and gradients are stored, and how they become numbers to calculate with.
_PLAIN = """\
typedef real element;
static inline real load(element x) { return x; }
static inline element rounded(real x) { return x; }
"""
_BFLOAT16 = """\
typedef uint16_t element;  /* bfloat16: the upper half of a float */
static inline real load(element x) {
  const uint32_t bits = (uint32_t)x << 16;
  real y;
  memcpy(&y, &bits, sizeof y);
  return y;
}
static inline element rounded(real x) {  /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (element)(x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
"""
_FLOAT16 = """\
typedef uint16_t element;  /* IEEE half precision */
static inline real load(element x) {
  const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, body = (uint32_t)(x & 0x7fffu) << 13;
  /* The exponents differ in their bias; the product also makes subnormals normal. */
  const uint32_t scale_bits = 0x77800000u;  /* 2^112 */
  real y, scale;
  memcpy(&y, &body, sizeof y);
  memcpy(&scale, &scale_bits, sizeof scale);
  y *= scale;
  uint32_t bits;
  memcpy(&bits, &y, sizeof bits);
  bits = (x & 0x7c00u) == 0x7c00u ? body | 0x7f800000u : bits;
  bits |= sign;
  memcpy(&y, &bits, sizeof y);
  return y;
}
static inline element rounded(real x) {  /* to nearest, ties to even */
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  const uint32_t normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  /* Below 2^-14 a sum with 0.5 rounds to multiples of 2^-24, the smallest half. */
  const uint32_t half_bits = 0x3f000000u;
  real half, small;
  memcpy(&half, &half_bits, sizeof half);
  memcpy(&small, &size, sizeof small);
  small += half;
  uint32_t tiny;
  memcpy(&tiny, &small, sizeof tiny);
  uint32_t found = size < 0x38800000u ? tiny - half_bits : normal;
  found = size >= 0x477ff000u ? 0x7c00u : found;
  found = size > 0x7f800000u ? 0x7e00u : found;
  return (element)(sign | found);
}
"""
ELEMENTS = {"float32": _PLAIN, "float64": _PLAIN, "bfloat16": _BFLOAT16, "float16": _FLOAT16}
