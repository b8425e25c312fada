"""Steps by compiled kernels that learn from a sample of the elements."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import optdsl
from optdsl.runtime.engines.sampled.choice import sample_of

pytestmark = [pytest.mark.usefixtures("few_cells"), pytest.mark.broad(2)]
K = 4
# Small tensors, which are taken whole, and large ones, whose last cells are not full.
SHAPES = ((100,), (64, 300), (0, 3), (5000,), (9, 7, 101), (4096,))

# Adam: its tangents are computed from the states after a step.
ADAM = """\
optimizer SampledAdam
hyper lr = 0.01 in [0, inf)
hyper beta1 = 0.9 in [0, 1)
state m = 0
state v = 0
m' = beta1 * m + (1 - beta1) * g
v' = 0.99 * v + 0.01 * g^2
mhat = m' / (1 - beta1^t)
vhat = v' / (1 - 0.99^t)
theta' = theta - lr * mhat / (sqrt(vhat) + 1e-8)
learn lr by SGD(lr = 1e-4)
learn after 0
"""
# The same, where a step is computed again to have them.
LAGGING = ADAM.replace("learn lr", "learn beta1 in [0.01, 0.99] by SGD(lr = 1e-4)\nlearn lr")
# A step depends on the whole tensor, so that its tangents are kept.
NORMED = """\
optimizer Normed
hyper lr = 0.01 in [0, inf)
state m = 0
m' = 0.9 * m + g
theta' = theta - lr * m' / norm(m')
learn lr by SGD(lr = 1e-4)
learn after 0
"""
RULES = pytest.mark.parametrize("rule", [ADAM, LAGGING, NORMED], ids=["live", "replayed", "stored"])
ORDERS = pytest.mark.parametrize("order", ["overlapped", "exact"])


def text(rule: str, k: int, after: int = 0) -> str:
    return rule.replace("learn after 0\n", f"learn after {after}\nlearn sample 1/{k}\n")


def made(path: Path, rule: str, k: int = K, **options: Any) -> type[torch.optim.Optimizer]:
    path = path / "rule.opt"
    path.write_text(text(rule, k))
    return optdsl.load(path, **options)


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES)
    return [torch.nn.Parameter(x.to(dtype)) for x in drawn]


def gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def measured(tangents: list[torch.Tensor], grads: list[torch.Tensor]) -> float:
    """The estimate by the definition, from the tangents of all elements."""
    total = 0.0
    for tangent, grad in zip(tangents, grads, strict=True):
        sample = sample_of(grad.shape, K)
        product = (tangent * grad).reshape(-1)[sample.index(torch.device("cpu"))]
        total += sample.weight * float(product.sum())
    return total


def by_hand(
    rule: str, order: str, steps: int
) -> tuple[list[tuple[float, float]], list[torch.Tensor]]:
    """What was learned after each step, and the parameters in the end, in double precision."""
    lr, b, found = 0.01, 0.9, []
    theta = [p.detach().clone() for p in parameters()]
    m, v = ([torch.zeros_like(x) for x in theta] for _ in range(2))
    tangents: list[tuple[torch.Tensor, torch.Tensor]] = []
    for t in range(1, steps + 1):
        held = parameters()
        gradients(held, t)
        grads = [p.grad for p in held]
        moved = lr, b
        if tangents:
            of_lr, of_b = (measured(list(x), grads) for x in zip(*tangents, strict=True))
            moved = max(lr - 1e-4 * of_lr, 0.0), b - 1e-4 * of_b if rule is LAGGING else b
        if order == "exact":
            lr, b = moved
        tangents = []
        for n, g in enumerate(grads):
            if rule is NORMED:
                m[n] = 0.9 * m[n] + g
                tangent = slope = -m[n] / m[n].norm()
            else:
                v[n] = 0.99 * v[n] + 0.01 * g * g
                root = (v[n] / (1 - 0.99**t)).sqrt() + 1e-8
                slope = (m[n] - g) / (1 - b**t)
                m[n] = b * m[n] + (1 - b) * g
                slope = -lr * (slope + m[n] * t * b ** (t - 1) / (1 - b**t) ** 2) / root
                tangent = -m[n] / (1 - b**t) / root
            theta[n] = theta[n] + lr * tangent
            tangents.append((tangent, slope))
        lr, b = moved
        found.append(moved)
    return found, theta


@pytest.mark.parametrize("backend", ["auto", "eager"])
@ORDERS
@RULES
def test_as_by_hand(tmp_path: Path, rule: str, order: str, backend: str) -> None:
    held = parameters()
    optimizer = made(tmp_path, rule, backend=backend, order=order)(held)
    rates, theta = by_hand(rule, order, 5)
    group = optimizer.param_groups[0]
    for step, expected in enumerate(rates):
        gradients(held, step + 1)
        optimizer.step()
        found = group["lr"], group.get("beta1", 0.9)
        assert found == pytest.approx(expected, rel=1e-11)
    assert rates[-1][0] != pytest.approx(0.01, rel=1e-3)
    for p, expected in zip(held, theta, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


@ORDERS
@RULES
def test_steps_are_those_of_the_rule_to_the_bit(tmp_path: Path, rule: str, order: str) -> None:
    """Of elements outside the sample those of the fixed rule, of others those of the learned one.

    The kernels of the two round in some other places.
    """
    still = rule.replace("1e-4", "0")
    learned, sampled = (made(tmp_path, still, k, order=order) for k in (1, K))
    fixed = optdsl.load(tmp_path / "rule.opt", learn=False)
    found = []
    for cls in (sampled, learned, fixed):
        held = parameters(torch.float32)
        optimizer = cls(held)
        for step in range(4):
            gradients(held, step)
            optimizer.step()
        found.append([p.detach().reshape(-1) for p in held])
    for shape, p, of_learned, of_fixed in zip(SHAPES, *found, strict=True):
        within = torch.zeros(p.numel(), dtype=torch.bool)
        within[sample_of(shape, K).index(p.device)] = True
        # Where a step looks at a whole tensor, it is never fused with the completion of another.
        within &= rule is not NORMED
        assert torch.equal(p, torch.where(within, of_learned, of_fixed))


@RULES
def test_resume_and_threads_to_the_bit(tmp_path: Path, rule: str) -> None:
    cls = made(tmp_path, rule, order="exact")
    runs = []
    threads = torch.get_num_threads()
    try:
        for number, stop in ((1, None), (2, 3), (3, 2)):
            torch.set_num_threads(number)
            held = parameters(torch.float32)
            optimizer = cls(held)
            for step in range(5):
                if step == stop:
                    saved = copy.deepcopy(optimizer.state_dict())
                    optimizer = cls(held)
                    optimizer.load_state_dict(saved)
                gradients(held, step)
                optimizer.step()
            runs.append((optimizer.param_groups[0]["lr"], held))
    finally:
        torch.set_num_threads(threads)
    for lr, held in runs[1:]:
        assert lr == runs[0][0]
        assert all(torch.equal(p, q) for p, q in zip(held, runs[0][1], strict=True))


def test_only_sampled_elements_have_something_pending(tmp_path: Path) -> None:
    held = parameters(torch.float32)
    optimizer = made(tmp_path, LAGGING)(held)
    gradients(held, 0)
    optimizer.step()
    for p in held:
        sample = sample_of(p.shape, K)
        kept = optimizer.state[p]["pending/g"]
        assert kept.shape == (p.shape if sample.whole else (sample.count,))
        assert torch.equal(kept.reshape(-1), p.grad.reshape(-1)[sample.index(p.device)])


def test_layouts(tmp_path: Path) -> None:
    """The logical order of elements counts, whatever the layout, and wherever gradients lie."""
    cls = made(tmp_path, LAGGING, order="exact")
    start = torch.randn(16, 8, 9, 9, generator=torch.Generator().manual_seed(3))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(start.clone(memory_format=layout))
        optimizer = cls([p])
        kept = []
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            grad = torch.randn(start.shape, generator=generator).clone(memory_format=layout)
            kept.append(grad)  # so that the next one lies elsewhere
            p.grad = grad
            optimizer.step()
        found.append((p.detach(), optimizer.param_groups[0]["lr"]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] != 0.01


DRAWING = """\
optimizer Drawing
hyper lr = 0.01 in [0, inf)
random P = normal
state m = 0
m' = 0.9 * m + g
theta' = theta - lr * (m' + 0.1 * P)
learn lr by SGD(lr = 1e-7)
learn after 0
"""
STORING = """\
optimizer Storing
hyper lr = 0.01 in [0, inf)
state m = 0
store m as bfloat16
store theta as compensated
m' = 0.9 * m + g
theta' = theta - lr * m'
learn lr by SGD(lr = 1e-7)
learn after 0
"""


@pytest.mark.parametrize(
    ("rule", "dtype", "order"),
    [
        (DRAWING, torch.float32, "overlapped"),
        (STORING, torch.bfloat16, "exact"),
        (LAGGING, torch.bfloat16, "overlapped"),
    ],
    ids=["drawing", "storing", "narrow"],
)
def test_as_eager_code(tmp_path: Path, rule: str, dtype: torch.dtype, order: str) -> None:
    runs = []
    for backend in ("c", "eager"):
        held = parameters(dtype)
        per_group = rule.replace("learn lr", "learn lr per group")
        cls = made(tmp_path, per_group, backend=backend, order=order)
        optimizer = cls([{"params": held[:2]}, {"params": held[2:]}])
        for step in range(4):
            gradients(held, step)
            optimizer.step()
        runs.append(([group["lr"] for group in optimizer.param_groups], held))
    (rates, held), (expected, others) = runs
    assert rates == pytest.approx(expected, rel=1e-5)
    assert all(abs(rate - 0.01) > 1e-7 for rate in rates)
    for p, q in zip(held, others, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-5)
