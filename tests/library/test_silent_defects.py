"""Defects that optimizers have shipped with, although losses went down: none of our rules has them.

They came from writing one rule several times by hand, for loops over tensors, for fused kernels,
for low precision. Each test looks at what such a defect changes, in the code that users run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.ir.domain import Choice, Interval
from optdsl.ir.program import Program
from optdsl.report import library as table
from optdsl.specifications import library
from tests.oracles import problems
from tests.oracles.rules import PROGRAMS

BACKENDS = ["eager", "auto"]
SHAPES: list[tuple[int, ...]] = [(4, 6), (5,), (2, 3, 2), ()]
# Rules of every kind, which `make test` looks at; `make test-full` looks at all of them.
SOME = {"adafactor", "adamw", "adopt", "lars", "muon", "prodigy", "sgd", "adamw with grokfast"}


def rules() -> Iterator[Any]:
    for name in (*PROGRAMS, *map(table.example, library.list_modifiers())):
        yield pytest.param(name, marks=() if name in SOME else pytest.mark.exhaustive)


def parameters(name: str = "", dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = problems.seeded(0)
    dtype = torch.float32 if name.endswith("kahan") else dtype
    return [nn.Parameter(problems.randn(generator, *s).to(dtype)) for s in SHAPES]


def trained(
    cls: Any, held: list[nn.Parameter], pull: float = 0.0, **options: float
) -> tuple[Any, list[Tensor]]:
    """An optimizer after some steps, and the parameters, where they are trained and evaluated.

    Gradients are random, or such that all steps go the same way.
    """
    optimizer = cls(held, **options)
    generator = problems.seeded(1)
    for _ in range(6):
        for p in held:
            noise = problems.randn(generator, *p.shape).to(p.dtype)
            p.grad = pull * (p.detach() - 9) + noise
        optimizer.step(**given(cls, held))
    found = [p.detach().clone() for p in held]
    optimizer.eval()
    return optimizer, [*found, *(p.detach().clone() for p in held)]


def given(cls: Any, held: list[nn.Parameter]) -> dict[str, Any]:
    if cls.__name__ not in {"SophiaG", "SophiaH"}:
        return {}
    return {"inputs": {"hessian": {p: torch.full_like(p, 0.7) for p in held}}}


# --- an option that is never forwarded to the kernel, an operation that is a no-op ----------------


def others(domain: Interval | Choice, value: float) -> list[float]:
    """Some other values of a hyperparameter."""
    if isinstance(domain, Choice):
        return [x for x in domain.values if x != value]
    if domain.whole:
        return [x for x in (value + 1, value - 1, 1.0, 2.0, 3.0) if x in domain and x != value]
    tried = (value / 2, 0.5 * value + 0.3, value + 1, value - 0.5, 0.1, 0.9, 1.01)
    return [x for x in tried if x in domain and x != value]


# Where something acts late, or beside another setting alone: values at which it acts now.
NOW = {
    "prodigy": {"lr": 0.5},
    "adamw with ema_nesterov": {"ema_nesterov_start": 2.0, "ema_nesterov_steps": 99.0},
    "adamw with tail_average": {"tail_average_start": 2.0},
}


def based(program: Program, seed: int) -> dict[str, float]:
    """Random values of hyperparameters, all of which do something."""
    found = problems.interior_hypers(program, problems.seeded(seed))
    whole = {h.name for h in program.hypers if h.domain.whole}
    return {name: float(round(x)) if name in whole else x for name, x in found.items()}


@pytest.mark.parametrize("rule", rules())
def test_every_hyperparameter_changes_the_steps(rule: str) -> None:
    """At the defaults, or at other values of the others."""
    cls = optdsl.load(rule, backend="eager", learn=False, verify=False)
    program = library.read(library.open_source(rule), verify=False)
    fixed = {h for s in program.simplexes for h in s.hypers}
    if " with " in rule:
        fixed |= {h.name for h in PROGRAMS[rule.partition(" ")[0]].hypers}
    bases = [program.defaults | NOW.get(rule, {}), *(based(program, n) for n in (1, 2, 3))]
    runs = [(pull, base) for pull in (0.0, 1.0) for base in bases]
    plain: list[list[Tensor]] = []
    missing = []
    for hyper in program.hypers:
        for number, (pull, base) in enumerate(runs if hyper.name not in fixed else ()):
            if len(plain) == number:
                plain.append(trained(cls, parameters(rule), pull, **base)[1])
            found = (
                trained(cls, parameters(rule), pull, **{**base, hyper.name: x})[1]
                for x in others(hyper.domain, base[hyper.name])
            )
            if any(not all(map(torch.equal, one, plain[number])) for one in found):
                break
        else:
            missing += [hyper.name] if hyper.name not in fixed else []
    assert not missing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("modifier", ["cautious", "clip", "grams", "lookahead(k = 2)"])
def test_a_modifier_is_not_without_effect(modifier: str, backend: str) -> None:
    plain = trained(optdsl.load("adamw", backend=backend), parameters())[1]
    found = trained(optdsl.load(f"adamw with {modifier}", backend=backend), parameters())[1]
    assert not any(map(torch.equal, found[:1], plain))


# --- a clip that is inverted ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("modifier", ["clip", "clip_norm", "clip_value"])
def test_a_clip_takes_from_what_is_above_its_limit_alone(modifier: str, backend: str) -> None:
    cls = optdsl.load(f"sgd with {modifier}(limit = 2)", backend=backend)
    for size, expected in ((1.5, 1.5), (8.0, 2.0)):
        p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        p.grad = torch.tensor([0.0, -size, 0.0], dtype=torch.float64)
        cls([p], lr=1.0).step()
        # torch.nn.utils.clip_grad_norm_ adds 1e-6 to the norm.
        torch.testing.assert_close(p.detach()[1].item(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(4, 6), (5,)])
def test_adafactor_clips_large_updates_alone(shape: tuple[int, ...], backend: str) -> None:
    """The root mean square of an update is at most d; where it is less it stays as it is."""
    cls = optdsl.load("adafactor", backend=backend)
    rates = {}
    for sizes in ((0.1, 10.0), (10.0, 0.1)):
        for d in (1.0, 1e6):
            p = nn.Parameter(torch.ones(shape, dtype=torch.float64))
            optimizer = cls([p], d=d, lr=0.01)
            for size in sizes:
                before = p.detach().clone()
                p.grad = torch.full_like(p, size)
                optimizer.step()
            scale = 0.01 * float(before.square().mean().sqrt())
            rates[sizes, d] = float((p.detach() - before).square().mean().sqrt()) / scale
    assert rates[(0.1, 10.0), 1.0] == pytest.approx(1, rel=1e-12)
    assert rates[(0.1, 10.0), 1e6] > 1.1
    assert rates[(10.0, 0.1), 1.0] == rates[(10.0, 0.1), 1e6] < 0.5


# --- noise that has one sign ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_that_are_drawn_are_of_both_kinds(dtype: torch.dtype) -> None:
    text = "optimizer Signs\nhyper lr = 1 in [0, inf)\nrandom s = rademacher\ntheta' = lr * s\n"
    p = nn.Parameter(torch.zeros(10_000, dtype=dtype))
    optimizer = optdsl.compile(text)([p], seed=3)
    seen = []
    for _ in range(2):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        assert set(p.detach().tolist()) == {-1.0, 1.0}
        assert abs(float(p.detach().mean())) < 0.05  # five standard deviations
        seen.append(p.detach().clone())
    assert not torch.equal(*seen)


# --- decay that some kernels lack -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("learn", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kernel_decays(backend: str, learn: bool, dtype: torch.dtype) -> None:
    """Without gradients AdamW shrinks by 1 - lr * weight_decay, whatever the tensor's shape."""
    how = {"lr": optdsl.Learn("sgd", lr=0.0)} if learn else False
    held = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in [*SHAPES, (1000,)]]
    optimizer = optdsl.load("adamw", backend=backend, learn=how)(held, lr=0.5, weight_decay=0.5)
    for step in (1, 2):
        for p in held:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        for p in held:
            assert (p.detach() == 0.75**step).all()


# The sign of one number is all that the norms of LAMB and of `graft` leave of it; MARS has a decay
# of its own for other tensors than matrices. On the sphere of a hyperball nothing decays.
OTHERWISE = {
    "lamb": [()],
    "mars": [(5,), (2, 3, 2), ()],
    "adamw with hyperball": [(4, 6)],
    "adamw with graft": [()],
}


@pytest.mark.parametrize("rule", rules())
def test_decay_is_that_of_every_tensor(rule: str) -> None:
    program = library.read(library.open_source(rule), verify=False)
    if not any(h.name == "weight_decay" for h in program.hypers):
        return
    cls = optdsl.load(rule, backend="eager", learn=False, verify=False)
    runs = [trained(cls, parameters(rule), weight_decay=d)[1] for d in (0.0, 0.3)]
    same = [tuple(x.shape) for x, y in zip(*runs, strict=True) if torch.equal(x, y)]
    assert same == 2 * OTHERWISE.get(rule, [])  # where it is trained, and where it is evaluated


# --- a counter that counts twice ------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_counts_once_for_every_tensor(backend: str) -> None:
    """Of several groups; a tensor without a gradient does not count. Warm-up shows the number."""
    cls = optdsl.load("sgd with warmup(steps = 100)", backend=backend)
    held = [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in SHAPES]
    optimizer = cls([{"params": held[:2]}, {"params": held[2:]}], lr=1.0)
    for t in range(1, 6):
        before = [p.detach().clone() for p in held]
        for n, p in enumerate(held):
            p.grad = torch.ones_like(p) if n != 1 or t % 2 else None
        optimizer.step()
        for n, (p, old) in enumerate(zip(held, before, strict=True)):
            own = (t + 1) // 2 if n == 1 else t
            moved = 0 if n == 1 and t % 2 == 0 else own / 100
            torch.testing.assert_close(old - p.detach(), torch.full_like(old, moved))
            assert float(optimizer.state[p]["step"]) == own
