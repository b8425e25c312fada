"""Any two rules of the library make a blend, and any three: proved, and trained for a few steps."""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.compose import blend_source
from optdsl.prove import Verdict, settle
from optdsl.specifications import library
from tests.blending.draws import MIXED
from tests.oracles.rules import ELEMENTWISE

pytestmark = pytest.mark.broad(2)

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

SPECS = ELEMENTWISE
STEPS = 3


def tried(rules: tuple[str, ...], everyday: bool) -> ParameterSet:
    """Some are tried by `make test`, all by `make test-full`."""
    marks = [] if everyday else [pytest.mark.exhaustive]
    return pytest.param(rules, id="-".join(rules), marks=marks)


_EVERYDAY = set(map(frozenset, MIXED))
PAIRS = [tried(p, frozenset(p) in _EVERYDAY) for p in itertools.combinations(SPECS, 2)]
# What MADA and Adaptivity call `lion_beta2` would be the name of Lion's own beta2; Adam and AMSGrad
# agree about `num`, which uses an `m'` about which Lion does not agree.
SPECIAL = [("adaptivity", "lion", "mada"), ("adam", "amsgrad", "lion")]
# The first rule of a blend is special (its learning rate is the blend's), so the order is random.
_RANDOM = random.Random(0)
_SOME = {tuple(_RANDOM.sample(SPECS, 3)) for _ in range(40)}
TRIPLES = [tried(t, t in {*SPECIAL, *MIXED[-2:]}) for t in sorted({*_SOME, *SPECIAL, *MIXED[-2:]})]


def check_claims(rules: tuple[str, ...]) -> None:
    """It recovers every member, by proof, and mixes their updates, and points, and nothing else."""
    found = library.specification(blend_source(rules))
    names = [library.read(library.open_source(rule)).name for rule in rules]
    assert [claim.rule for claim in found.claims] == names
    for claim in found.claims:
        settled = settle(found.program, claim)
        assert settled.verdict is Verdict.PROVED, f"{claim.text}: {settled.reason}"
    points = found.program.evaluation is not None
    slots = {"theta'", "eval"} if points else {"theta'"}
    assert {c.slot for c in found.combinations} == slots
    for combination in found.combinations:
        assert combination.parts == tuple(f"{name}.{combination.slot}" for name in names)
        assert combination.corners == len(rules)


def check_training(rules: tuple[str, ...], order: str) -> None:
    """A few steps on a bowl, with learned weights."""
    cls = optdsl.blend(*rules, order=order, backend="eager")
    (simplex,) = (s for s in cls.compiled.program.simplexes if "." not in s.name)
    parameters = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor(0.5))]
    optimizer = cls(parameters)
    losses: list[Tensor] = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = sum(((p - 0.25) ** 2).sum() for p in parameters)
        assert isinstance(loss, Tensor)
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        weights = [optimizer.param_groups[0][h] for h in simplex.hypers]
        assert all(0 <= w <= 1 for w in weights)
        assert math.fsum(weights) == pytest.approx(1, rel=0, abs=1e-12)
        assert all(p.isfinite().all() for p in parameters)
    assert losses[-1] < losses[0]
    metrics = optimizer.metrics()
    assert set(metrics) == {*simplex.hypers, *(f"hypergradient/{h}" for h in simplex.hypers)}
    assert all(map(math.isfinite, metrics.values()))
    # What weights have in common moves nothing; two rules that differ move them.
    hypergradients = [metrics[f"hypergradient/{h}"] for h in simplex.hypers]
    moved = any(w != 1 / len(weights) for w in weights)
    assert moved or max(hypergradients) - min(hypergradients) < 1e-6


@pytest.mark.parametrize("rules", PAIRS)
def test_any_two_rules_blend(rules: tuple[str, str]) -> None:
    check_claims(rules)
    check_training(rules, "overlapped")


@pytest.mark.parametrize("rules", TRIPLES)
def test_any_three_rules_blend(rules: tuple[str, str, str]) -> None:
    check_claims(rules)
    check_training(rules, "exact")


@pytest.mark.exhaustive
def test_all_rules_of_the_library_blend() -> None:
    check_claims(SPECS)
    check_training(SPECS, "overlapped")
