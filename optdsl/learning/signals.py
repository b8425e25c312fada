"""Signals: what the rule of a coefficient follows in the place of the hyper-gradient.

They are the words of `optdsl.words.Signal`; the sign is taken where the clip is
(`optdsl.learning`).
"""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.program import Value
from optdsl.learning.arithmetic import Arithmetic

SQUARE = "square/gradient"
"""The input with the squared norm of the gradient, for a normalized hyper-gradient: over the
tensors of which a step is pending."""

DECAY = 0.99
"""How the running mean of `SQUARE` decays from update to update."""


def square_keys(hyper: str) -> tuple[str, str]:
    """The inputs with the squared norms of the gradient and the tangent, for a cosine."""
    return f"square/{hyper}/gradient", f"square/{hyper}/tangent"


def cosine(math: Arithmetic, hyper: str, measured: Value, read: Callable[[str], Value]) -> Value:
    """The cosine of gradient and tangent, in [-1, 1]; 0 where a norm is 0.

    Args:
        math: writes the operations.
        hyper: the learned hyperparameter.
        measured: its hyper-gradient.
        read: the input of a name.
    """
    emit = math.builder.emit
    norms = [emit("sqrt", read(key)) for key in square_keys(hyper)]
    # Divided one after the other: the product of norms may leave the range of floats.
    found = measured
    for norm in norms:
        found = emit("div", found, norm)
    limited = math.limited(found, -1.0, 1.0)
    for norm in norms:
        limited = math.where("eq", norm, 0.0, math.number(0.0), limited)
    return limited


def running_mean(math: Arithmetic, kept: Value, square: Value) -> Value:
    """The running mean of squared norms after another one, as Adam has it of squares."""
    emit, number = math.builder.emit, math.number
    return emit("add", emit("mul", number(DECAY), kept), emit("mul", number(1.0 - DECAY), square))


def normalized(
    math: Arithmetic, measured: Value, square: Value, mean: Value, updates: Value
) -> Value:
    """h / (|g|^2 + its running mean); 0 where the gradients have always been 0.

    The quotient by the squared norm of the gradient is the feedback of online scaled gradient
    methods (Gao, Chu, Ye and Udell, arXiv:2411.01803); the mean bounds it where a mini-batch has a
    small gradient.

    Args:
        math: writes the operations.
        measured: the hyper-gradient h.
        square: the squared norm of the gradient g.
        mean: the result of `running_mean`, which starts at zero; the bias of that is corrected.
        updates: how many squares it is the mean of.
    """
    emit, one = math.builder.emit, math.number(1.0)
    weights = emit("sub", one, emit("pow", math.number(DECAY), updates))
    scale = emit("add", square, emit("div", mean, weights))
    return math.where("eq", scale, 0.0, math.number(0.0), emit("div", measured, scale))
