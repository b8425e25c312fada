"""The largest and the smallest number: of a tensor that is no matrix, and of all tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import optdsl
from optdsl.diagnostics import Source
from optdsl.interpret import initial_state, step
from optdsl.prove import Verdict
from optdsl.specifications import library
from optdsl.verification import verify

SHAPES = [(3, 4), (5,), (2, 3, 4), (0, 2), ()]
BACKENDS = ["eager", "auto"]
MODIFIERS = {
    "ClipInf": """
modifier ClipInf of g

hyper limit = 1 in (0, inf]

g = base.g * min(1, limit / (max(abs(base.g) over all) + 1e-6))
""",
    "ClipNorms": """
modifier ClipNorms of g

hyper limit = 1 in (0, inf]

g = base.g * min(1, limit / max(norm(base.g) over all))
""",
    "ClipEach": """
modifier ClipEach of g

hyper limit = 1 in (0, inf]

g = base.g * min(1, limit / max(max(base.g), -min(base.g)))
""",
}


def by_torch(parameters: list[Tensor]) -> None:
    clip_grad_norm_([p for p in parameters if p.numel()], 1.0, norm_type=math.inf)


def by_norms(parameters: list[Tensor]) -> None:
    largest = max(float(p.grad.norm()) for p in parameters if p.grad is not None)
    for p in parameters:
        p.grad = None if p.grad is None else p.grad * min(1, 1 / largest)


def by_each(parameters: list[Tensor]) -> None:
    for p in parameters:
        if p.grad is not None and p.numel():
            p.grad = p.grad * min(1, 1 / float(p.grad.abs().max()))


CLIPS: dict[str, Callable[[list[Tensor]], None]] = {
    "ClipInf": by_torch,
    "ClipNorms": by_norms,
    "ClipEach": by_each,
}


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def trained(optimizer: type[torch.optim.Optimizer], clip: Callable[..., None]) -> list[Tensor]:
    parameters: list[Tensor] = [nn.Parameter(randn(n, *s)) for n, s in enumerate(SHAPES)]
    made = optimizer(parameters)  # type: ignore[call-arg]
    for t in range(4):
        for n, p in enumerate(parameters):
            # One tensor has no gradient in some of the steps.
            p.grad = None if n == 1 and t % 2 else 3 * randn(10 * t + n, *p.shape)
        clip(parameters)
        made.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize("name", MODIFIERS)
def test_gradients_are_clipped_by_the_largest_number(
    name: str, rule: str, backend: str, tmp_path: Path
) -> None:
    """As torch's clip by the infinity norm, and as clips by hand, before the rule alone."""
    (tmp_path / f"{name.lower()}.opt").write_text(MODIFIERS[name])
    (tmp_path / "x.opt").write_text(f"optimizer X = {rule} with {name}\n")
    ours = trained(optdsl.load(tmp_path / "x.opt", backend=backend), lambda parameters: None)
    theirs = trained(optdsl.load(rule, backend=backend), CLIPS[name])
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-15)


LEARNED = """
optimizer Ranged
  "no paper: a test"

hyper lr = 0.1 in [0, inf)
hyper c  = 0.3 in [0, 1]

state m          = 0
state n : scalar = 0

m'     = ema(m, g, c)
n'     = max(m') - min(m')
scale  = max(abs(m') over all) + c * max(norm(g) over all)
theta' = theta - lr * (m' - min(m' over all)) / (n' + scale)

learn c in [0, 0.9] by SGD(lr = 0.01)
"""


def test_hyper_gradients_are_those_of_autograd() -> None:
    found = verify(Source("<text>", LEARNED))
    assert [s.verdict for s in found] == [Verdict.TESTED]
    parameters = [nn.Parameter(randn(n, *s)) for n, s in enumerate(SHAPES)]
    optimizer = optdsl.compile(LEARNED)(parameters)
    for t in range(4):
        for n, p in enumerate(parameters):
            p.grad = randn(10 * t + n, *p.shape)
        optimizer.step()
    assert optimizer.param_groups[0]["c"] != 0.3


def test_several_tensors_teach_the_derivative_of_their_largest_number() -> None:
    """The hyper-gradient over several tensors, against autograd through the largest of all."""
    text = """
optimizer Shared

hyper lr = 0.1 in [0, inf)
hyper c  = 0.3 in [0, 1]

theta' = theta - lr * g / (1 + max(abs(g)^(1 + c) over all))

learn c in [0, 1] by SGD(lr = 1)
"""
    parameters = [nn.Parameter(randn(n, *s)) for n, s in enumerate([(3,), (4,)])]
    optimizer = optdsl.compile(text)(parameters)
    first, second = ([randn(10 * t, 3), randn(10 * t + 1, 4)] for t in (1, 2))
    for gradients in (first, second):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
    c = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    largest = torch.stack([g.abs().amax() for g in first]).amax() ** (1 + c)
    pairs = zip(first, second, strict=True)
    slope = torch.stack([(-0.1 * g / (1 + largest) * h).sum() for g, h in pairs]).sum()
    (wanted,) = torch.autograd.grad(slope, c)
    assert optimizer.param_groups[0]["c"] == pytest.approx(0.3 - float(wanted), abs=1e-12)


def test_nan_is_the_largest_number() -> None:
    text = LEARNED.partition("learn")[0]
    program = library.read(Source("<text>", text))
    theta, g = randn(0, 4), randn(1, 4)
    g[2] = math.nan
    after = step(program, theta, g, initial_state(program, theta, g, {}), program.defaults, 1)
    assert after.parameter.isnan().all()


def test_compiled_kernels_refuse_it_and_auto_takes_pytorch() -> None:
    with pytest.raises(optdsl.OptionError, match="takes the largest or the smallest number"):
        optdsl.compile(LEARNED, backend="c", learn=False)
