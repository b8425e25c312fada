"""Sums over all tensors, and numbers that tensors share: Prodigy's own package and torch's clip."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import prodigyopt
import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import Learn
from optdsl.diagnostics import SpecError
from optdsl.passes.totals import staged
from optdsl.specifications import library

SHAPES = [(4, 6), (5,), (2, 3, 2), ()]
BACKENDS = ["eager", "auto"]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in SHAPES]


def train(optimizer: Any, held: list[Tensor], steps: range, idle: tuple[int, ...] = ()) -> None:
    """Steps towards 3 with some noise; the tensors in `idle` have no gradient in odd steps."""
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for number, p in enumerate(held):
            noise = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = (p.detach() - 3) * 0.1 + 0.05 * noise
            if number in idle and step % 2:
                p.grad = None
        optimizer.step()


def close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=0, atol=tolerance)


# --- Prodigy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.5, "betas": (0.8, 0.99), "d0": 1e-4, "d_coef": 2.0},
        {"weight_decay": 0.1},
        {"use_bias_correction": True, "safeguard_warmup": True},
        {"decouple": False, "weight_decay": 0.01},
        {"growth_rate": 1.02},
    ],
    ids=str,
)
def test_prodigy_is_that_of_its_authors(settings: dict[str, Any], backend: str) -> None:
    ours, theirs = parameters(), parameters()
    own = {k: float(v) for k, v in settings.items() if k != "betas"}
    betas = settings.get("betas", (0.9, 0.999))
    beta3 = betas[1] ** 0.5
    cls = optdsl.load("prodigy", backend=backend)
    optimizer = cls(ours, beta1=betas[0], beta2=betas[1], beta3=beta3, **own)
    other = prodigyopt.Prodigy(theirs, **settings)
    train(optimizer, ours, range(100))
    train(other, theirs, range(100))
    close(ours, theirs, 1e-10)
    assert optimizer.param_groups[0]["shared/d"] == pytest.approx(
        other.param_groups[0]["d"], rel=1e-10
    )


def test_a_group_without_a_learning_rate_takes_no_part() -> None:
    ours, theirs = parameters(), parameters()
    groups = [[{"params": x[:1], "lr": 0.0}, {"params": x[1:]}] for x in (ours, theirs)]
    optimizer = optdsl.load("prodigy")(groups[0], beta3=0.999**0.5)
    other = prodigyopt.Prodigy(groups[1])
    train(optimizer, ours, range(50))
    train(other, theirs, range(50))
    close(ours, theirs, 1e-10)


def test_a_tensor_without_a_gradient_does_not_count_and_the_shared_state_moves_on() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = optdsl.load("prodigy")(ours, beta3=0.999**0.5)
    other = prodigyopt.Prodigy(theirs)
    train(optimizer, ours, range(40), idle=(0, 2))
    train(other, theirs, range(40), idle=(0, 2))
    # The authors count steps by group and we by tensor, which only the bias correction reads.
    close(ours, theirs, 1e-10)


def test_groups_that_differ_in_what_is_shared_are_refused_by_name() -> None:
    held = parameters()
    groups = [{"params": held[:1], "d_coef": 2.0}, {"params": held[1:]}]
    optimizer = optdsl.load("prodigy")(groups)
    before = [p.detach().clone() for p in held]
    with pytest.raises(ValueError, match="d_coef is 1 and 2"):
        train(optimizer, held, range(1))
    close(held, before, 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_goes_on_to_the_bit(backend: str) -> None:
    cls = optdsl.load("prodigy with clip(limit = 0.3)", backend=backend)
    whole, held = parameters(torch.float32), parameters(torch.float32)
    optimizer = cls(whole)
    train(optimizer, whole, range(20))
    first = cls(held)
    train(first, held, range(9))
    copied = copy.deepcopy(held)
    for second in (cls(copied), pickle.loads(pickle.dumps(first))):
        if not second.state:
            second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        own = second.param_groups[0]["params"]
        train(second, own, range(9, 20))
        assert all(map(torch.equal, own, whole))


# --- the global norm ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clip_is_that_of_torch(backend: str, limit: float) -> None:
    ours, theirs = parameters(), parameters()
    cls = optdsl.load(f"adamw with clip(limit = {limit})", backend=backend)
    groups = [[{"params": x[:1], "lr": 0.1}, {"params": x[1:], "lr": 0.01}] for x in (ours, theirs)]
    optimizer, other = cls(groups[0]), torch.optim.AdamW(groups[1])

    class Clipped:
        def step(self) -> None:
            torch.nn.utils.clip_grad_norm_(theirs, limit)
            other.step()

    train(optimizer, ours, range(100))
    train(Clipped(), theirs, range(100))
    close(ours, theirs, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["adan", "mada_legacy"])
def test_a_state_may_start_from_the_clipped_gradient(rule: str, backend: str) -> None:
    """Both keep the last gradient, and start from the first one, which is clipped as well."""
    ours, theirs = parameters(), parameters()
    optimizer = optdsl.load(f"{rule} with clip(limit = 0.1)", backend=backend, learn=False)(ours)
    other = optdsl.load(rule, backend="eager", learn=False)(theirs)

    class Clipped:
        def step(self) -> None:
            torch.nn.utils.clip_grad_norm_(theirs, 0.1)
            other.step()

    train(optimizer, ours, range(20))
    train(Clipped(), theirs, range(20))
    close(ours, theirs, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clip_is_over_tensors_of_all_kinds(backend: str) -> None:
    shapes = [(4, 6), (5,), (2, 3, 2)]
    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    optimizer = optdsl.load("adafactor with clip(limit = 0.2)", backend=backend)(ours)
    other = optdsl.load("adafactor", backend="eager")(theirs)
    for step in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator) * 0.1 * step
            q.grad = p.grad.clone()
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(theirs, 0.2)
        other.step()
    close(ours, theirs, 1e-10)


def test_the_limit_is_learned_by_its_hyper_gradient() -> None:
    """The derivative of the loss after the next step, by differences."""
    start, g = parameters(), [torch.full_like(p, 0.7) for p in parameters()]
    learn = {"clip_limit": Learn("sgd", lr=0.0, bounds=(0.01, 10.0))}

    def after(limit: float) -> tuple[list[Tensor], Any]:
        held = [torch.nn.Parameter(p.detach().clone()) for p in start]
        cls = optdsl.load("sgd with clip", learn=learn)
        optimizer = cls(held, lr=0.1, clip_limit=limit)
        for p, x in zip(held, g, strict=True):
            p.grad = x.clone()
        optimizer.step()
        return held, optimizer

    held, optimizer = after(0.5)
    for p in held:
        p.grad = torch.ones_like(p)  # the loss is the sum of all elements
    optimizer.step()
    found = optimizer.metrics()["hypergradient/clip_limit"]
    losses = [float(sum(p.detach().sum() for p in after(x)[0])) for x in (0.5 + 1e-6, 0.5 - 1e-6)]
    assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


# --- stages ---------------------------------------------------------------------------------------

NESTED = """
optimizer Nested
  "no paper: a test"

hyper lr = 0.1 in [0, inf)

state n : shared = 1

scale  = sum(g^2 over all)
again  = sum(scale * abs(g) over all)
n'     = n + again
theta' = theta - lr * g / again / n'
"""


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
def test_a_total_may_be_made_of_totals(backend: str) -> None:
    held, expected, n = parameters(), parameters(), 1.0
    optimizer = optdsl.compile(NESTED, backend=backend)(held)
    for step in range(5):
        for p, q in zip(held, expected, strict=True):
            p.grad = torch.full_like(p, 0.1 * (step + 1))
            q.grad = p.grad.clone()
        optimizer.step()
        scale = float(sum(q.grad.square().sum() for q in expected if q.grad is not None))
        again = scale * float(sum(q.grad.abs().sum() for q in expected if q.grad is not None))
        n += again
        with torch.no_grad():
            for q in expected:
                q.sub_(q.grad / again / n, alpha=0.1)
    close(held, expected, 1e-12)
    assert optimizer.param_groups[0]["shared/n"] == pytest.approx(n, rel=1e-12)


def test_a_step_has_as_many_stages_as_totals_need() -> None:
    def stages(text: str) -> int:
        found = staged(library.read(library.open_source(text), verify=False))
        return 0 if found is None else len(found.measures)

    assert stages("adamw") == 0
    assert stages("adamw with clip") == 1
    assert stages("prodigy") == 1
    assert stages("prodigy with clip") == 2
    with pytest.raises(SpecError, match="shared number"):
        optdsl.compile(NESTED.replace("n'     = n + again", "n'     = n + sum(g)"))


MEANS = """
optimizer Means
  "no paper: a test"

hyper lr = 0.1 in [0, inf)

update = g / (mean(abs(g) over all) + mean(norm(g) over all)) * part
theta' = theta - lr * update

for flattened matrices

part = 1 + mean(max(g over cols) over all)

otherwise

part = 1
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_means_are_over_what_all_tensors_have(backend: str) -> None:
    empty = [torch.zeros(s, dtype=torch.float64) for s in ((0,), (0, 3))]
    held = [*parameters(), *map(torch.nn.Parameter, empty)]
    optimizer: Any = optdsl.compile(MEANS, backend=backend)(held)
    before = [p.detach().clone() for p in held]
    for number, p in enumerate(held):
        torch.manual_seed(number)
        p.grad = torch.randn_like(p)
    optimizer.step()
    gs = [p.grad for p in held if p.grad is not None]
    numbers = torch.cat([g.flatten() for g in gs]).abs().mean()
    # The tensor without elements is none of those that the mean is taken of.
    norms = torch.stack([g.norm() for g in gs if g.numel()]).mean()
    rows = torch.cat([g.flatten(1).amax(1) for g in gs if g.ndim >= 2 and g.numel()]).mean()
    ours = [p.detach() for p in held]
    theirs = [
        old - 0.1 * g / (numbers + norms) * (1 + rows if g.ndim >= 2 else 1)
        for old, g in zip(before, gs, strict=True)
    ]
    close(ours, theirs, 1e-12)


@pytest.mark.parametrize("rule", ["muon with clip", "adamw with clip"])
def test_tensors_without_elements_add_nothing_to_a_total(rule: str) -> None:
    found = []
    for shapes in ([(4, 6), (5,)], [(0, 6), (4, 6), (5,), (0,)], [(0, 6)]):
        held = [torch.nn.Parameter(torch.ones(s).double()) for s in shapes]
        train(optdsl.load(rule)(held), held, range(3))
        found.append([p.detach() for p in held if p.numel()])
    close(found[0], found[1], 1e-15)
