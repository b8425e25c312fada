"""Small matrices of equal shapes, which standalone files step in batches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import optdsl
from tests.ejecting.helpers import executed, parameters, train

pytestmark = pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")

# Batches of five and of four, two that are too few, and what is no matrix, or empty.
OTHERS = ((2, 3, 2),) * 4 + ((5,), (0, 4))
SQUARE = ((4, 4),) * 5 + ((3, 3),) * 4 + ((5, 5),) * 2 + OTHERS
OBLONG = ((6, 4),) * 5 + ((3, 5),) * 4 + ((4, 6),) * 2 + OTHERS
NAMES = ("muon(ns_steps = 2)", "soap", "mars")
MORE = [pytest.param(n, marks=pytest.mark.exhaustive) for n in ("kl_soap", "shampoo", "normuon")]


def made(name: Any, **options: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The class of an ejected file, and the shapes of the batches that it makes."""
    namespace = executed(optdsl.eject(name, **options))
    batches, seen = namespace["batches"], []

    def spied(*arguments: Any) -> Any:
        for p, *rest, lead in batches(*arguments):
            if lead:
                seen.append(tuple(p.shape))
            yield p, *rest, lead

    namespace["batches"] = spied
    return namespace[namespace["NAME"]], seen


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_batches_take_the_steps_of_single_matrices(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 steps in float64; a matrix that missed one is in no batch with others from then on.

    Rules with eigenvectors get square ones: those of the kernel of G G' are any basis of it.
    """
    monkeypatch.setattr("optdsl.runtime.engines.stacks.FEWEST", 10**9)  # one by one
    shapes = SQUARE if name in {"soap", "kl_soap", "shampoo"} else OBLONG
    cls, seen = made(name)
    runs = []
    for own in (optdsl.load(name, backend="eager", learn=False), cls):
        held = parameters(torch.float64, shapes)
        optimizer = own(held, lr=0.01)
        generator = torch.Generator().manual_seed(1)
        for step in range(100):
            for place, p in enumerate(held):
                noise = torch.randn(p.shape, generator=generator).to(p.dtype)
                p.grad = None if (step, place) == (3, 6) else 0.3 * p.detach() + 0.1 * noise
            optimizer.step()
        runs.append((held, optimizer.state))
    for p, q in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(q, p, rtol=1e-11, atol=1e-11)
        if p.numel():  # The file keeps no states of what is empty.
            torch.testing.assert_close(runs[1][1][q], runs[0][1][p], rtol=1e-11, atol=1e-11)
            assert all(x.storage_offset() == 0 for x in runs[1][1][q].values())
    assert seen.count((5, *shapes[0])) == 100
    assert seen.count((4, *shapes[5])) == 3
    assert len(seen) == 103


def test_batches_of_narrow_parameters_learn_and_go_on_from_their_states() -> None:
    learned = {"lr": optdsl.Learn("sgd", lr=1e-5, bounds=(0.0, 0.1))}
    cls, seen = made("mars", learn=learned)
    runs = []
    for own in (cls, optdsl.load("mars", backend="eager", learn=learned)):
        held = parameters(torch.bfloat16, OBLONG[:5])
        optimizer = own(held, lr=0.01)
        train(optimizer, held, 4)
        runs.append((held, optimizer))
    (held, optimizer), (theirs, reference) = runs
    assert seen == [(5, 6, 4)] * 4
    assert optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])
    assert optimizer.param_groups[0]["lr"] != 0.01
    for p, q in zip(held, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=2**-7, atol=2**-7)
        assert optimizer.state[p]["m"].dtype is torch.float32
    copies = [torch.nn.Parameter(p.detach().clone()) for p in held]
    other = cls(copies, lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, held, 2, seed=2)
    train(other, copies, 2, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(held, copies, strict=True))
    del optimizer.state[held[1]]["m"]
    with pytest.raises(ValueError, match=r"of shape \(6, 4\) has taken steps without the states m"):
        optimizer.step()
