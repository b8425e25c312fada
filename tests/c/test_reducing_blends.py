"""Blends of rules with reductions or scalar states: every loop has a kernel for finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler, compose
from optdsl.backends.c.finite import finite
from optdsl.passes.pipeline import run_passes
from optdsl.plan import plans
from optdsl.schedule import Kernel, schedule
from tests.oracles import problems

pytestmark = pytest.mark.broad(2)

# What is added to a parameter for a gradient.
Step = Callable[[Tensor], Tensor]

BACKENDS = ("auto", "eager")
# Whole blocks and what is left over; a chunk has 128 elements, a block 8192.
SIZES = (8192 + 301, 300, 1)
SHARE = 0.3
CAUTIOUS = "adam with cautious"


def problem(dtype: torch.dtype, steps: int = 4) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Parameters, and gradients of some steps."""
    generator = problems.seeded(8)
    theta = [problems.randn(generator, n).to(dtype) for n in SIZES]
    return theta, [[problems.randn(generator, n).to(dtype) for n in SIZES] for _ in range(steps)]


def blended(
    rules: Sequence[str],
    backend: str,
    theta: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    share: float = SHARE,
    **hypers: float,
) -> list[Tensor]:
    """The parameters after each of the steps of a blend, in which the first rule has a share."""
    cls = optdsl.blend(*rules, backend=backend, learn=False)
    held = [nn.Parameter(x.clone()) for x in theta]
    weights = [h for h in cls(held).defaults if h.startswith("w_")]
    optimizer = cls(held, **dict(zip(weights, (share, 1 - share), strict=True)), **hypers)
    found = []
    for row in gradients:
        for p, g in zip(held, row, strict=True):
            p.grad = g.clone()
        optimizer.step()
        found.append(torch.cat([p.detach() for p in held]).clone())
    return found


def cautious_step(lr: float, beta1: float, beta2: float) -> Step:
    """A step of Adam in which only what has the gradient's sign moves, scaled up to its mean."""
    past: list[Tensor] = []

    def step(g: Tensor) -> Tensor:
        past.append(g)
        m, v = torch.zeros_like(g), torch.zeros_like(g)
        for x in past:
            m, v = beta1 * m + (1 - beta1) * x, beta2 * v + (1 - beta2) * x * x
        t = len(past)
        update = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + 1e-8)
        mask = (update * g > 0).to(g.dtype)
        return -lr * update * mask / mask.mean().clamp(min=1e-3)

    return step


def torch_step(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> Step:
    """What an optimizer of torch without decay adds to the parameter."""
    held = []

    def step(g: Tensor) -> Tensor:
        if not held:
            parameter = torch.zeros_like(g, requires_grad=True)
            held.append((parameter, make([parameter])))
        ((parameter, optimizer),) = held
        before = parameter.detach().clone()
        parameter.grad = g.clone()
        optimizer.step()
        return parameter.detach() - before

    return step


def adam(lr: float) -> Step:
    return torch_step(lambda p: torch.optim.Adam(p, lr=lr))


ORACLES = {
    ("nadam", "adam"): (
        {"lr": 0.01, "adam_lr_ratio": 1.0, "weight_decay": 0.0},
        lambda: (torch_step(lambda p: torch.optim.NAdam(p, lr=0.01)), adam(0.01)),
    ),
    (CAUTIOUS, "adam"): ({"lr": 0.01}, lambda: (cautious_step(0.01, 0.9, 0.999), adam(0.01))),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rules", ORACLES, ids="+".join)
def test_a_blend_moves_by_the_mean_of_its_members_steps(
    rules: tuple[str, str], backend: str
) -> None:
    hypers, members = ORACLES[rules]
    theta, gradients = problem(torch.float64)
    found = blended(rules, backend, theta, gradients, **hypers)
    own = [members() for _ in SIZES]
    at = theta
    for t, row in enumerate(gradients):
        steps = [[step(g) for step in pair] for g, pair in zip(row, own, strict=True)]
        at = [x + SHARE * a + (1 - SHARE) * b for x, (a, b) in zip(at, steps, strict=True)]
        # NAdam of torch keeps the product of its momenta in single precision.
        torch.testing.assert_close(found[t], torch.cat(at), rtol=1e-9, atol=1e-10)


# Scalar states; norms of results; norms of gradients and scalar states; a mean over a choice.
PAIRS = [("nadam", "adam"), ("lamb", "lars"), ("adanorm", "novograd"), (CAUTIOUS, "adam")]


@pytest.mark.parametrize("odd", [None, math.inf, math.nan, 3e38])
@pytest.mark.parametrize("rules", PAIRS, ids="+".join)
def test_odd_elements_do_to_a_tensor_what_they_do_in_eager_code(
    rules: tuple[str, str], odd: float | None
) -> None:
    theta, gradients = problem(torch.float32)
    if odd is not None:
        gradients[1][0][8200] = odd
    found, expected = (blended(rules, backend, theta, gradients) for backend in ("auto", "eager"))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["lamb", CAUTIOUS, "adanorm"])
def test_a_member_without_weight_has_no_part_though_its_norms_are_no_numbers(
    rule: str, backend: str
) -> None:
    theta, gradients = problem(torch.float32)
    gradients[0][0][8200] = math.inf
    found = blended((rule, "adam"), backend, theta, gradients, share=0.0, lr=0.01)
    members = [adam(0.01) for _ in SIZES]
    at = torch.cat(theta)
    for row, x in zip(gradients, found, strict=True):
        at = at + torch.cat([step(g) for step, g in zip(members, row, strict=True)])
        torch.testing.assert_close(x, at, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert (~torch.isfinite(found[-1])).sum() == 1


def moved(text: str, backend: str, gradient: float, steps: int) -> Tensor:
    """Zeros after some steps with the same gradient; a coefficient is measured and not moved."""
    learned = f"optimizer Own\nhyper a = 1 in [0, 1]\n{text}learn a in [0, 1] by SGD(lr = 0)\n"
    parameter = nn.Parameter(torch.zeros(300))
    optimizer = optdsl.compile(learned, backend=backend)([parameter])
    for _ in range(steps):
        parameter.grad = torch.full((300,), gradient)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_product_of_numbers_of_a_tensor_may_be_too_small_for_a_float(backend: str) -> None:
    """1e-22 * (1e-22 * 1e38) is a number, and 1e-22 * 1e-22 has three bits in single precision."""
    text = "state k : scalar = 1e-22\nk' = k\ntheta' = theta - a * (k * (k * g))\n"
    found = moved(text, backend, 1e38, 3)
    torch.testing.assert_close(found, torch.full((300,), -3e-6), rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_of_a_tensor_that_cancels_is_looked_at_all_the_same(backend: str) -> None:
    """From the second step on it is infinite, and infinity less infinity is no number."""
    text = "state k : scalar = 1\nk' = 0\ntheta' = (1 / k) * g + theta - (1 / k) * g - a * g\n"
    assert moved(text, backend, 1.0, 1).isfinite().all()
    assert moved(text, backend, 1.0, 3).isnan().all()


def with_means_left(kernel: Kernel) -> list[int]:
    """The loops with a mean that are not replaced by loops for finite numbers."""
    variant, operations = finite(kernel), kernel.program.operations
    means = [any(operations[v].opcode == "mix" for v in loop.body) for loop in kernel.loops]
    replaced = set() if variant is None else set(range(len(means))) - variant.left
    return [k for k, mean in enumerate(means) if mean and k not in replaced]


@pytest.mark.parametrize("rule", ["nadam", "lamb", "lars", "novograd", "adanorm", "amos", CAUTIOUS])
def test_every_loop_of_a_blend_has_a_kernel_for_finite_numbers(rule: str) -> None:
    source = compose.blend_source([rule, "adam"])
    for learn in (False, True):
        program = run_passes(compiler.derive(source, learn))
        for plan in plans(program, learn):
            for kernel in schedule(plan).values():
                assert not with_means_left(kernel), kernel.name
