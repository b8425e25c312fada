"""Hints for names of other languages and libraries: what to write instead."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from optdsl.diagnostics import nearest
from optdsl.ir.ops import FUNCTIONS

# Common names for the built-in ones.
_SYNONYMS = {
    **dict.fromkeys(("grad", "gradient", "gradients"), "g"),
    **dict.fromkeys(("p", "param", "parameter", "w", "weight"), "theta"),
    **dict.fromkeys(("step", "iteration"), "t"),
}
_CONSTANTS = {
    "e": "write `exp(1)`",
    "true": "a condition is a comparison; for a number write 1",
    "false": "a condition is a comparison; for a number write 0",
    "none": "every value is a number",
    "nan": "write `0 / 0`",
    "infinity": "write `inf`",
}
_RANDOM = "a rule has no random numbers: the same gradients give the same steps"
_SHAPE = (
    "beside elementwise operations there are the reductions `sum`, `mean` and so on, and "
    "products of matrices, `x @ y`"
)
_MISSING = "the language does not have it, and it cannot be built from the functions that there are"


def _each(names: str, hint: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), hint)


# Names of functions that the language does not have.
HINTS = {
    **_each("randn rand random randint normal uniform bernoulli dropout noise gauss", _RANDOM),
    **_each("gaussian randn_like rand_like", _RANDOM),
    "ceil": "write `-floor(-x)`",
    "round": "write `floor(x + 0.5)`",
    **_each("trunc int", "write `sign(x) * floor(abs(x))`"),
    "frac": "write `x - floor(x)`",
    **_each("fmod remainder", "write `mod(x, n)`"),
    "tan": "write `sin(x) / cos(x)`",
    **_each("asin acos atan atan2 erf erfinv gamma lgamma", _MISSING),
    **_each("sort topk median quantile argmax argmin cumsum svd inv", _SHAPE),
    **_each("reshape view flatten roll outer einsum prod amax amin any all softmax", _SHAPE),
    **_each("eye", "write `identity(rows)` or `identity(cols)`"),
    "trace": "write `sum(diagonal(x))`",
    **_each("diag diagflat", "write `diagonal(x)`"),
    **_each("t mT permute", "write `transpose(x)`"),
    **_each("matmul mm bmm", "write `x @ y`"),
    **_each("eig eigh", "write `eigenvectors(x)`"),
    **_each("orthogonalize newton_schulz zeropower", "write `orthogonal(x, n, a, b, c)`"),
    **_each("if ifelse cond select iif", "write `where(condition, x, y)`"),
    **_each("pow power", "write `x^y`"),
    "square": "write `x^2`",
    "rsqrt": "write `1 / sqrt(x)`",
    **_each("reciprocal inverse", "write `1 / x`"),
    **_each("sgn signum", "write `sign(x)`"),
    **_each("clamp clamp_", "write `clip(x, lower, upper)`"),
    **_each("maximum fmax", "write `max(x, y)`"),
    **_each("minimum fmin", "write `min(x, y)`"),
    **_each("fabs absolute magnitude", "write `abs(x)`"),
    **_each("detach no_grad", "write `stop_gradient(x)`"),
    "ln": "write `log(x)`",
    "log2": "write `log(x) / log(2)`",
    "log10": "write `log(x) / log(10)`",
    "log1p": "write `log(1 + x)`",
    "expm1": "write `exp(x) - 1`",
    "relu": "write `max(x, 0)`",
    "sigmoid": "write `1 / (1 + exp(-x))`",
    "lerp": "write `ema(x, y, b)`, where `b` is the share of `x`",
    **_each("var variance", "write `mean((x - mean(x))^2)`"),
    "std": "write `sqrt(mean((x - mean(x))^2))`",
    **_each("zeros zeros_like", "write `0`"),
    **_each("ones ones_like", "write `1`"),
    **_each("len numel size", "write `sum(0 * x + 1)`"),
    "isnan": "write the comparison `x != x`",
    "isinf": "write the comparison `abs(x) == inf`",
    "isfinite": "write the comparison `abs(x) < inf`",
    **_each(
        "prev previous old last",
        "the value of the step before is a state, as in `state g_prev = g`",
    ),
}


def name_hint(name: str, known: AbstractSet[str]) -> str:
    """A hint with the known name that an unknown name probably means; "" if there is none."""
    synonym = _SYNONYMS.get(name.lower())
    if synonym in known:
        return f"did you mean `{synonym}`?"
    if name.lower() in _CONSTANTS:
        return _CONSTANTS[name.lower()]
    close = nearest(name, known)
    earlier = re.fullmatch(r"(\w+?)_(prev|old|last|previous|tm1)", name)
    if earlier and not close:
        return f"what was is a state: `state {name} = 0` and `{name}' = {earlier[1]}`"
    plain = name.removesuffix("_t")
    return f"did you mean `{plain}`, the value at this step?" if plain in known - {name} else close


def function_hint(name: str, callables: AbstractSet[str], values: AbstractSet[str]) -> str:
    """What to write in place of an unknown function, given all functions and values of the file."""
    if name in values:
        return f"`{name}` is no function: write `*` for a product"
    if name.lower() in HINTS:
        return HINTS[name.lower()]
    return nearest(name, callables) or (
        f"define `def {name}(...) = ...`, made of {', '.join(sorted(FUNCTIONS))}"
    )
