"""Every operation on every pair of special numbers: backends do what eager does, to the bit.

Bits are those of the sign, too: of zeros, but not of NaN. What libraries of functions round, and
quotients by uniform numbers, which are products with reciprocals, may differ in their last bits.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.ir import signatures
from optdsl.ir.ops import TABLE
from tests.c import rules

pytestmark = pytest.mark.broad(8)

# A few numbers of each kind, for float32 and for float64.
SPECIAL = {
    torch.float32: (math.nan, math.inf, 0.0, 1e-45, 1e-38, 3e38, 0.5, 3.0),
    torch.float64: (math.nan, math.inf, 0.0, 5e-324, 1e-308, 1e308, 0.5, 3.0),
}
# Of g, theta, a uniform number h, and numbers z and w that are one a tensor.
EXACT = (
    "-x", "x + y", "x - y", "x * y", "abs(x)", "sign(x)", "floor(x)",
    "x^2", "where(x < y, x, y)", "where(x == y, 1, 2)", "where(x >= y, 1, -x)",
    "where(x != y, y, x)", "finite(x)", "x - x * 0", "sign(1 / x)",
)  # fmt: skip
ROUNDED = (
    "max(x, y)",
    "min(x, y)",
    "x / y",
    "sqrt(x)",
    "x^0.5",
    "x^-0.5",
    "exp(x)",
    "log(x)",
    "tanh(x)",
    "cos(x)",
    "sin(x)",
    "x^y",
    "x^3",
    "x^-1",
    "x^-2",
)
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}
KINDS = {
    "elements": ("g", "theta"),
    "an element and a uniform number": ("g", "h"),
    "a uniform number and an element": ("h", "g"),
    "an element and a number of the tensor": ("g", "z"),
    "a number of the tensor and an element": ("z", "g"),
    "numbers of the tensor": ("z", "w"),
    "a number of the tensor and a uniform number": ("z", "h"),
}


def both_signs(dtype: torch.dtype) -> list[float]:
    return [sign * x for x in SPECIAL[dtype] for sign in (1.0, -1.0)]


def rule(x: str, y: str) -> str:
    """A state for each operation; z and w keep what they are."""
    scalar = " : scalar" if {x, y} <= {"z", "w", "h"} else ""
    lines = ["optimizer Operations", "hyper h = 1", "state z : scalar = 0", "state w : scalar = 0",
             "z' = z", "w' = w", "theta' = theta"]  # fmt: skip
    for n, operation in enumerate(EXACT + ROUNDED):
        text = "".join(
            {"x": x, "y": y}.get(c, c) if alone else c for c, alone in letters(operation)
        )
        lines += [f"state r{n}{scalar} = 0", f"r{n}' = {text}"]
    return "\n".join([*lines, ""])


def letters(text: str) -> list[tuple[str, bool]]:
    """Each letter, and whether it is a word of its own."""
    around = f" {text} "
    return [
        (c, not around[n].isalpha() and not around[n + 2].isalpha()) for n, c in enumerate(text)
    ]


@functools.cache
def loaded(kind: str, backend: str) -> type[torch.optim.Optimizer]:
    return optdsl.compile(rule(*KINDS[kind]), backend=backend)


def results(kind: str, backend: str, dtype: torch.dtype) -> list[list[Tensor]]:
    """What each operation gives, call by call."""
    x, y = KINDS[kind]
    elements = torch.tensor(list(itertools.product(both_signs(dtype), repeat=2)), dtype=dtype)
    numbers = [v for v in both_signs(dtype) if "h" not in (x, y) or _usual(v)]
    if {x, y} <= {"g", "theta"}:
        calls = [(elements, 0.0, 0.0)]
    elif "g" in (x, y):
        calls = [(elements[:: len(SPECIAL[dtype]) * 2], v, 0.0) for v in numbers]
    else:
        calls = [(elements[:1], v, w) for v in both_signs(dtype) for w in numbers]
    found = []
    for pairs, v, w in calls:
        parameter = nn.Parameter(pairs[:, 1].contiguous().to(rules.device(backend)))
        parameter.grad = torch.zeros_like(parameter)
        hypers = {"h": v if "g" in (x, y) else w} if "h" in (x, y) else {}
        optimizer = loaded(kind, backend)([parameter], **hypers)
        optimizer.step()
        parameter.grad = pairs[:, 0].contiguous().to(parameter.device)
        state = optimizer.state[parameter]
        state["z"].fill_(v)
        state["w"].fill_(w)
        optimizer.step()
        found.append([state[f"r{n}"].cpu() for n in range(len(EXACT + ROUNDED))])
    return found


def _usual(v: float) -> bool:
    """Whether a hyperparameter, and its square's reciprocal, are numbers of float32."""
    return v == 0 or 1e-18 < abs(v) < 1e18


def differs(ours: Tensor, theirs: Tensor, tolerance: float, signs: bool) -> Tensor:
    """Where they are not the same number, or not near where there is a tolerance."""
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if signs:
        same &= (ours != 0) | (theirs != 0) | (ours.signbit() == theirs.signbit())
    if tolerance:
        # A subnormal number has few bits.
        step = torch.finfo(ours.dtype).smallest_normal * torch.finfo(ours.dtype).eps
        same |= ((ours - theirs).abs() <= tolerance * theirs.abs() + 2 * step) & (theirs != 0)
    return ~same


def compare(kind: str, backend: str, dtype: torch.dtype) -> None:
    wrong = []
    ours, theirs = (results(kind, b, dtype) for b in (backend, "eager"))
    # Of two tensors' zeros torch.maximum gives either.
    signs = "h" in KINDS[kind]
    for call, (mine, others) in enumerate(zip(ours, theirs, strict=True)):
        for n, operation in enumerate(EXACT + ROUNDED):
            tolerance = 0.0 if n < len(EXACT) else TOLERANCE[dtype]
            at = differs(mine[n], others[n], tolerance, signs or operation[0] != "m")
            if at.any():
                wrong.append((operation, call, mine[n][at][:3], others[n][at][:3]))
    assert not wrong, wrong[:5]


def test_no_function_is_left_out() -> None:
    functions = {
        row.function
        for row in TABLE.values()
        if row.infer is signatures.elementwise and not row.stage.of_matrices
    }
    texts = " ".join(EXACT + ROUNDED)
    assert {f for f in functions if f and f"{f}(" not in texts} == set()


@pytest.mark.parametrize("dtype", list(SPECIAL), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_c_does_what_eager_does(kind: str, dtype: torch.dtype) -> None:
    compare(kind, "c", dtype)
