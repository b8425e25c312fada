"""The battery of the other backends, through Triton's interpreter: every rule, dtype and order."""

from __future__ import annotations

import pytest
import torch

from tests.c import rules, test_battery as battery

pytestmark = pytest.mark.broad(3)

# An interpreted kernel is slow, and what a step can do wrong it does in the first few.
STEPS = 3
DEVICE = rules.device("triton")
# Each dtype and order, plans and loops of every kind; the rest in test-full, and on a GPU.
EVERYDAY = {
    ("adam_avgrad", torch.float32, "overlapped"),
    ("lion", torch.bfloat16, "overlapped"),
    ("every_operation", torch.float64, "exact"),
    ("lamb", torch.float32, "exact"),
    ("adamw", torch.float16, "exact"),
}
CELLS = [
    pytest.param(
        rule, dtype, order, id=f"{rule}-{str(dtype)[6:]}-{order}",
        marks=[] if DEVICE == "cuda" or (rule, dtype, order) in EVERYDAY
        else pytest.mark.exhaustive,
    )
    for rule in rules.RULES
    for dtype in rules.DTYPES
    for order in rules.ORDERS
    if rule in battery.FULL or battery.ALONE.get(dtype, order) == order
]  # fmt: skip


@pytest.mark.parametrize(("rule", "dtype", "order"), CELLS)
def test_a_trajectory_is_the_interpreters(rule: str, dtype: torch.dtype, order: str) -> None:
    run = battery.Run(rule, dtype, battery.loaded(rule, "triton", order), DEVICE)
    for t in range(STEPS):
        assert run.step(t) == []
