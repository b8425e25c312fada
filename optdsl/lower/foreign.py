"""Names that people know from elsewhere and the language does not have: what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Set as AbstractSet

from optdsl.diagnostics import nearest
from optdsl.ir.ops import FUNCTIONS

# What other texts call the built-in names.
_SYNONYMS = {
    "grad": "g",
    "gradient": "g",
    "gradients": "g",
    "p": "theta",
    "param": "theta",
    "parameter": "theta",
    "w": "theta",
    "weight": "theta",
    "step": "t",
    "iteration": "t",
}
_CONSTANTS = {
    "pi": f"write {math.pi!r}",
    "e": "write `exp(1)`",
    "true": "a condition is a comparison; for a number write 1",
    "false": "a condition is a comparison; for a number write 0",
    "none": "every value is a number",
    "nan": "write `0 / 0`",
    "infinity": "write `inf`",
}
_RANDOM = "a rule has no random numbers: the same gradients give the same steps"
_WHOLE = "numbers are not rounded: what the language has cannot make {name}"
_SHAPE = "an equation holds element by element; of whole tensors there are `sum` and `mean`"
_FUNCTIONS = {
    **dict.fromkeys(
        (
            "randn",
            "rand",
            "random",
            "randint",
            "normal",
            "uniform",
            "bernoulli",
            "dropout",
            "noise",
            "gauss",
            "gaussian",
            "randn_like",
            "rand_like",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        ("floor", "ceil", "round", "trunc", "frac", "int", "mod", "fmod", "remainder"), _WHOLE
    ),
    **dict.fromkeys(
        ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "erf", "erfinv", "gamma", "lgamma"),
        "there is none, and what the language has cannot make it",
    ),
    **dict.fromkeys(
        (
            "sort",
            "topk",
            "median",
            "quantile",
            "argmax",
            "argmin",
            "cumsum",
            "matmul",
            "mm",
            "svd",
            "qr",
            "eig",
            "inv",
            "transpose",
            "reshape",
            "view",
            "flatten",
            "roll",
            "outer",
            "einsum",
            "prod",
            "amax",
            "amin",
            "any",
            "all",
            "softmax",
            "orthogonalize",
        ),
        _SHAPE,
    ),
    **dict.fromkeys(("if", "ifelse", "cond", "select", "iif"), "write `where(condition, x, y)`"),
    **dict.fromkeys(("pow", "power"), "write `x^y`"),
    "square": "write `x^2`",
    "rsqrt": "write `1 / sqrt(x)`",
    **dict.fromkeys(("reciprocal", "inverse"), "write `1 / x`"),
    **dict.fromkeys(("sgn", "signum"), "write `sign(x)`"),
    **dict.fromkeys(("clamp", "clamp_"), "write `clip(x, lower, upper)`"),
    **dict.fromkeys(("maximum", "fmax"), "write `max(x, y)`"),
    **dict.fromkeys(("minimum", "fmin"), "write `min(x, y)`"),
    **dict.fromkeys(("fabs", "absolute", "magnitude"), "write `abs(x)`"),
    **dict.fromkeys(("detach", "no_grad"), "write `stop_gradient(x)`"),
    "ln": "write `log(x)`",
    "log2": "write `log(x) / log(2)`",
    "log10": "write `log(x) / log(10)`",
    "log1p": "write `log(1 + x)`",
    "expm1": "write `exp(x) - 1`",
    "relu": "write `max(x, 0)`",
    "sigmoid": "write `1 / (1 + exp(-x))`",
    "lerp": "write `ema(x, y, b)`, where `b` is the share of `x`",
    **dict.fromkeys(("var", "variance"), "write `mean((x - mean(x))^2)`"),
    "std": "write `sqrt(mean((x - mean(x))^2))`",
    **dict.fromkeys(("zeros", "zeros_like"), "write `0`"),
    **dict.fromkeys(("ones", "ones_like"), "write `1`"),
    **dict.fromkeys(("len", "numel", "size"), "write `sum(0 * x + 1)`"),
    "isnan": "write the comparison `x != x`",
    "isinf": "write the comparison `abs(x) == inf`",
    "isfinite": "write the comparison `abs(x) < inf`",
    **dict.fromkeys(
        ("prev", "previous", "old", "last"),
        "what a step leaves to the next one is a state, as in `state g_prev = g`",
    ),
}


def name_hint(name: str, known: AbstractSet[str]) -> str:
    """What was probably meant by an unknown name; nothing where that cannot be told.

    Args:
        name: the name as it is written.
        known: the names that could stand there.
    """
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
    """What to write in place of an unknown function.

    Args:
        name: the function that there is not.
        callables: the functions that there are.
        values: the names of the file that stand for values.
    """
    if name in values:
        return f"`{name}` is no function: write `*` for a product"
    if name.lower() in _FUNCTIONS:
        return _FUNCTIONS[name.lower()].format(name=f"`{name}`")
    return nearest(name, callables) or (
        f"define `def {name}(...) = ...`, made of {', '.join(sorted(FUNCTIONS))}"
    )
