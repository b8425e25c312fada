"""Many small matrices of equal shapes: a step of all is that of each by itself."""

from __future__ import annotations

import pytest
import torch

import optdsl
from optdsl.runtime.engines import stacks


def _run(
    rule: str, shapes: list[tuple[int, ...]], steps: int, **hypers: float
) -> torch.optim.Optimizer:
    """An optimizer after some steps, in which one matrix misses a gradient once."""
    generator = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator).double()) for s in shapes]
    some, others = parameters[::2], parameters[1::2]
    groups = [{"params": some}, {"params": others, "lr": 0.03}]
    optimizer = optdsl.load(rule, backend="eager")(groups, **hypers)
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape, generator=generator).double()
            parameter.grad = None if (step, number) == (1, 2) else gradient
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("rule", "shape"),
    # Shampoo's roots of singular matrices, as of a gradient that is not square, magnify rounding.
    [("muon", (6, 4)), ("shampoo", (5, 5)), ("normuon", (6, 4)), ("adafactor", (6, 4))],
)
def test_a_stack_is_as_its_matrices(
    rule: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, up to rounding; states too."""
    shapes = [shape, shape[::-1]] * 5 + [shape, (3,), (2, *shape)]
    calls = []
    kept = stacks.stacked
    monkeypatch.setattr(
        "optdsl.runtime.engines.eager.stacked",
        lambda works: calls.append(len(works)) or kept(works),
    )
    together = _run(rule, shapes, 4)
    assert bool(calls) == (rule != "adafactor"), "of whole tensors, nothing is stacked"
    monkeypatch.setattr("optdsl.runtime.engines.eager.divided", lambda works: ([], works))
    apart = _run(rule, shapes, 4)
    pairs = zip(together.state.items(), apart.state.items(), strict=True)
    for (own, state), (other, expected) in pairs:
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-11)
        assert state.keys() == expected.keys()
        for key in state:
            torch.testing.assert_close(state[key], expected[key], rtol=1e-9, atol=1e-11)


def test_coefficients_learn_from_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tangents of a stack are those of its matrices, from the first step on."""
    found = []
    for apart in (False, True):
        if apart:
            monkeypatch.setattr("optdsl.runtime.engines.eager.divided", lambda works: ([], works))
        generator = torch.Generator().manual_seed(1)
        held = [torch.nn.Parameter(torch.randn(6, 4).double()) for _ in range(5)]
        learn = {"momentum": optdsl.Learn("sgd", lr=1e-3, bounds=(0.5, 0.99))}
        optimizer = optdsl.load("muon", learn=learn)(held, lr=0.1)
        for _ in range(4):
            for parameter in held:
                parameter.grad = torch.randn(6, 4, generator=generator).double()
            optimizer.step()
        found.append(optimizer.metrics())
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0]["hypergradient/momentum"]
