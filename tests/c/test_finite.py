"""Kernels for finite numbers: what shows that numbers were not, and what happens then."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from optdsl.backends.c.finite import finite
from optdsl.backends.c.stages import cost, staged
from optdsl.backends.c.watch import watched
from optdsl.ir.program import Program, Value
from optdsl.passes.pipeline import run_passes
from optdsl.plan import plans
from optdsl.schedule import Kernel, schedule
from tests.oracles.running import read_text

from . import rules

pytestmark = pytest.mark.broad(8)

INTERIOR = {"c": 0.9, "rho": 0.8, "kappa": 0.1, "gamma": 0.7}
# A chunk has 128 elements: whole ones, and what is left over.
SIZES = (1, 127, 128, 129, 300)


def program(*lines: str) -> Program:
    return run_passes(read_text("\n".join(["optimizer Rule", *lines, ""])))


def shown(text: str) -> list[str]:
    """What has to be looked at in an update, as it is written in the program."""
    of = program("hyper a = 0.5 in [0, 1]", "state m = 1", "m' = m", f"theta' = {text}")
    body = [v for v in of.needed(of.step_values) if of.type(v).extent > 0]
    return [of.operations[v].opcode for v in watched(of, body, of.step_values)]


def test_sums_and_products_show_all_that_is_in_them() -> None:
    assert shown("theta - a * g * m") == ["sub"]


def test_a_sign_hides_what_it_is_the_sign_of() -> None:
    # `m` is in a sign only, and `sign(m)` is finite whatever it is.
    assert sorted(shown("theta - a * sign(m)")) == ["parameter", "state"]


def test_a_divisor_hides_infinity() -> None:
    assert sorted(shown("theta - g / (sqrt(m) + a)")) == ["sqrt", "sub"]


def test_what_a_choice_leaves_out_need_not_be_finite() -> None:
    """0 / 0 where nothing ever had a gradient is no reason for care."""
    found = shown("theta - where(m == 0, 0, g / m)")
    assert "div" not in found
    assert found.count("sub") == 1


def test_stages_need_only_earlier_ones_and_share_out_the_work() -> None:
    chain = {Value(i): [Value(i - 1)] if i % 10 else [] for i in range(40)}
    parts = staged(chain, {v: cost("mul") for v in chain}, 4)
    stage = {v: k for k, part in enumerate(parts) for v in part}
    assert sorted(stage) == sorted(chain)
    assert all(stage[a] <= stage[v] for v, before in chain.items() for a in before)
    assert max(map(len, parts)) <= 12


def steps(
    backend: str, tensors: list[Tensor], gradients: list[Tensor], **hypers: float
) -> list[Tensor]:
    held = [nn.Parameter(x.clone()) for x in tensors]
    optimizer = rules.load("mada", backend=backend)(held, **(INTERIOR | hypers))
    for factor in (1.0, -0.5, 2.0):
        for p, g in zip(held, gradients, strict=True):
            p.grad = factor * g
        optimizer.step()
    states = [optimizer.state[p][k] for p in held for k in ("m", "V", "m_lion")]
    return [*(p.detach() for p in held), *states]


@pytest.mark.parametrize("place", [0, 5, 130, 299])
@pytest.mark.parametrize("odd", [float("inf"), float("nan"), 3e38])
def test_an_odd_element_changes_no_other_one(odd: float, place: int) -> None:
    """Its chunk is computed again from what was there before."""
    generator = torch.Generator().manual_seed(1)
    theta, gradient = (torch.randn(300, generator=generator) for _ in range(2))
    wild = gradient.clone()
    wild[place] = odd
    tame = steps("c", [theta], [gradient])
    found, expected = steps("c", [theta], [wild]), steps("eager", [theta], [wild])
    others = torch.arange(300) != place
    for x, y in zip(found, tame, strict=True):
        torch.testing.assert_close(x[others], y[others], rtol=1e-5, atol=1e-7)
    # The states of the two have not advanced as far.
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_left_over_is_computed_as_a_whole_chunk_is(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    theta, gradient = (torch.randn(300, generator=generator) for _ in range(2))
    whole, part = (steps("c", [theta[:n]], [gradient[:n]]) for n in (300, size))
    for x, y in zip(part, whole, strict=True):
        assert torch.equal(x, y[:size])


def test_a_coefficient_that_is_not_finite_leaves_out_what_has_no_weight() -> None:
    """beta1 = 0 makes no bias correction infinite; lr = inf cannot be, but a huge ratio can."""
    generator = torch.Generator().manual_seed(3)
    theta, gradient = (torch.randn(200, generator=generator) for _ in range(2))
    # As floats, the learning rate of Lion is infinite, and its weight is zero.
    hypers = {"gamma": 1.0, "lr_ratio": 1e300, "lr": 1e-3}
    found = steps("c", [theta], [gradient], **hypers)
    expected = steps("eager", [theta], [gradient], **hypers)
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7)


def variants(name: str) -> dict[str, Kernel | None]:
    found = {}
    for plan in plans(rules.read(name), False):
        found |= {k: finite(kernel) for k, kernel in schedule(plan).items()}
    return found


def test_where_there_are_kernels_for_finite_numbers() -> None:
    assert variants("adam")["step"] is None  # no means, no sums
    assert variants("mada")["step"] is not None
    assert all(kernel is None for kernel in variants("lamb").values())  # its sums are in the way


def test_large_states_begin_at_different_places_of_a_page() -> None:
    parameter = nn.Parameter(torch.randn(256, 512))
    parameter.grad = torch.randn(256, 512)
    optimizer = rules.load("mada", backend="c")([parameter])
    optimizer.step()
    state = optimizer.state[parameter]
    tensors = {k: v for k, v in state.items() if v.shape == parameter.shape}
    places = {(v.data_ptr() - parameter.data_ptr()) % 4096 for v in tensors.values()}
    assert len(tensors) == 6
    assert places == {512 * k for k in range(1, 7)}
    optimizer.load_state_dict(optimizer.state_dict())
    state = optimizer.state[parameter]
    assert len({v.data_ptr() % 4096 for k, v in state.items() if k in tensors}) == 6


def test_placed_states_survive_a_file_and_a_copy() -> None:
    generator = torch.Generator().manual_seed(4)
    parameter = nn.Parameter(torch.randn(512, 256, generator=generator).t())
    parameter.grad = torch.randn(256, 512, generator=generator)
    cls = rules.load("adam", backend="c")
    optimizer = cls([parameter])
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = [nn.Parameter(parameter.detach().clone()) for _ in range(2)]
    loaded = cls([twins[0]])
    loaded.load_state_dict(torch.load(file))
    copied = copy.deepcopy(optimizer)
    for name, value in optimizer.state[parameter].items():
        assert torch.equal(loaded.state[twins[0]][name], value)
        (held,) = copied.state.values()
        assert torch.equal(held[name], value)
        assert held[name].stride() == value.stride()
    twins[0].grad = parameter.grad.clone()
    optimizer.step()
    loaded.step()
    assert torch.equal(twins[0], parameter)


def test_small_updates_of_members_are_added_up_before_the_parameter_rounds_them() -> None:
    """Each third alone is less than half of the last bit of 1."""
    moved = {}
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.ones(200))
        cls = rules.optdsl.blend("adam", "lion", "yogi", backend=backend, learn=False)
        optimizer = cls([parameter], lr=7e-8)
        for _ in range(200):
            parameter.grad = torch.ones(200)
            optimizer.step()
        moved[backend] = float((1 - parameter.detach().double()).mean())
    assert moved["c"] == pytest.approx(moved["eager"], rel=0.05)
    assert moved["c"] > 5e-6


@pytest.mark.parametrize("lr", [1e-4, 1e-3])
def test_decay_is_not_rounded_into_the_factor_of_the_parameter(lr: float) -> None:
    """1 - lr * weight_decay is not a float."""
    decayed = {}
    for backend, dtype in (("c", torch.float32), ("eager", torch.float64)):
        generator = torch.Generator().manual_seed(5)
        start = torch.rand(1000, generator=generator, dtype=torch.float64) + 1
        parameter = nn.Parameter(start.to(dtype, copy=True))
        cls = rules.optdsl.blend("adamw", "lion", backend=backend, learn=False)
        optimizer = cls([parameter], lr=lr, adamw_weight_decay=0.01, lion_weight_decay=0.01)
        for _ in range(1000):
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        decayed[backend] = float((1 - parameter.detach().double() / start).mean())
    assert decayed["c"] == pytest.approx(decayed["eager"], rel=0.05)


def test_a_result_that_becomes_its_own_state_is_there() -> None:
    text = (
        "optimizer Own\nhyper a = 0.5 in [0, 1]\nstate n = 0\nn' = n + a * g - a * g\n"
        "theta' = theta - a * g - n\nlearn a in [0, 1] by SGD(lr = 0.1)\n"
    )
    results = []
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.ones(10))
        optimizer = rules.optdsl.compile(text, backend=backend)([parameter])
        for _ in range(3):
            parameter.grad = torch.ones(10)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_a_state_that_cancels_is_looked_at_all_the_same() -> None:
    text = (
        "optimizer Own\nhyper a = 0.5 in [0, 1]\nstate m = 1\nm' = m * 1e30\n"
        "theta' = theta - (m + a * g - m)\nlearn a in [0, 1] by SGD(lr = 0.1)\n"
    )
    parameter = nn.Parameter(torch.ones(10))
    optimizer = rules.optdsl.compile(text, backend="c")([parameter])
    for _ in range(4):
        parameter.grad = torch.ones(10)
        optimizer.step()
    assert parameter.isnan().all()


def test_a_product_that_only_its_factors_make_too_large_is_computed_again() -> None:
    text = (
        "optimizer Own\nhyper s = 1e-20 in [0, 1]\nstate n = 0\n"
        "n' = s * (g * theta) + s * (g * g)\ntheta' = theta - s * n\n"
        "learn s in [0, 1] by SGD(lr = 0)\n"
    )
    results = []
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.full((10,), 1e18))
        optimizer = rules.optdsl.compile(text, backend=backend)([parameter])
        for _ in range(2):
            parameter.grad = torch.full((10,), 1e19)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_the_square_of_a_multiple_of_a_small_number_is_not_lost() -> None:
    text = (
        "optimizer Own\nhyper s = 1e12 in [0, inf)\nhyper lr = 1 in [0, 1]\nstate v = 0\n"
        "v' = (s * g) * (s * g)\ntheta' = theta - lr * v\nlearn lr in [0, 1] by SGD(lr = 0)\n"
    )
    parameter = nn.Parameter(torch.zeros(10))
    optimizer = rules.optdsl.compile(text, backend="c")([parameter])
    for _ in range(3):
        parameter.grad = torch.full((10,), 1e-25)
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((10,), -2e-26), rtol=1e-5, atol=0)


def test_a_gradient_that_is_the_parameter_counts_as_it_was() -> None:
    found = {}
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.linspace(-1, 1, 300))
        parameter.grad = parameter.detach()
        optimizer = rules.load("mada", backend=backend)([parameter], lr=0.1, **INTERIOR)
        for _ in range(4):
            optimizer.step()
        found[backend] = optimizer.metrics()
    for name, value in found["eager"].items():
        assert found["c"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_words_of_our_own_are_nobodys_name() -> None:
    text = (
        "optimizer Own\nhyper k = 2 in [1, 9]\nhyper per_k = 7 in [0, 9]\n"
        "hyper k_PER = 3 in [0, 9]\ntheta' = theta - g / k - per_k * g - k_PER * g\n"
    )
    parameter = nn.Parameter(torch.zeros(10))
    parameter.grad = torch.ones(10)
    rules.optdsl.compile(text, backend="c")([parameter]).step()
    torch.testing.assert_close(parameter.detach(), torch.full((10,), -10.5))
