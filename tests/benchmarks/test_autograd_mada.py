"""The step by automatic differentiation is the one that optdsl compiles."""

import pytest
import torch
from torch import nn

import optdsl
from optdsl.studies.runs.autograd_mada import LEARNED, AutogradMADA

pytestmark = pytest.mark.broad(2)

STEPS = 75  # the specification learns after 50
SHAPES = ((7, 5), (11,), ())


@pytest.mark.parametrize("hypers", [{}, {"c": 0.9, "rho": 0.8, "kappa": 0.1, "gamma": 0.9}])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.exhaustive
def test_it_agrees_with_the_compiled_step(hypers, weight_decay):
    hypers = {**hypers, "weight_decay": weight_decay, "lr": 1e-2}
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
    goals = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
    theirs = [nn.Parameter(x.clone()) for x in start]
    ours = [nn.Parameter(x.clone()) for x in start]
    autograd = AutogradMADA(theirs, **hypers)
    compiled = optdsl.load("mada", order="exact", backend="eager")(ours, **hypers)
    before = {name: compiled.param_groups[0][name] for name in LEARNED}
    for _ in range(STEPS):
        noise = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        for params in (theirs, ours):
            for p, goal, e in zip(params, goals, noise, strict=True):
                p.grad = p.detach() - goal + 0.3 * e
        autograd.step()
        compiled.step()
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        for name in LEARNED:
            found, expected = (o.param_groups[0][name] for o in (autograd, compiled))
            assert found == pytest.approx(expected, rel=0, abs=1e-9), name
    moved = [name for name in LEARNED if compiled.param_groups[0][name] != before[name]]
    # At the corner of Adam some have nowhere to go.
    assert moved == list(LEARNED) if "rho" in hypers else "beta1" in moved


def test_it_counts_a_gradient_that_comes_late():
    late, early = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    early.grad = torch.ones(3)
    optimizer = AutogradMADA([late, early], after=0)
    optimizer.step()
    assert torch.equal(late, torch.ones(3))
    assert not torch.equal(early, torch.ones(3))


def test_it_refuses_names_that_it_does_not_know():
    with pytest.raises(TypeError, match="momentum"):
        AutogradMADA([nn.Parameter(torch.ones(3))], momentum=0.9)
