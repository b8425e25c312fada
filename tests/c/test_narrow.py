"""How C loads and rounds the numbers of every dtype: all of them, and everything between."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import optdsl

NARROW = (torch.bfloat16, torch.float16)

# What is loaded goes to the states as it is.
LOADING = """\
optimizer Loading
state a = 0
state b = 0
a' = theta
b' = g
theta' = theta - 0 * a
"""
# A state becomes the parameter; of a state that is None the sum would not be.
STORING = """\
optimizer Storing
state a = 0
a' = a
theta' = a
"""
# The same at the end of some arithmetic.
STEPPING = """\
optimizer Stepping
hyper lr = 1 in [0, 1]
state a = 0
a' = a
theta' = theta - lr * (g + a)
"""


def patterns(dtype: torch.dtype) -> Tensor:
    """Every number of a dtype, NaNs included."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def between(dtype: torch.dtype) -> Tensor:
    """The middle of each two neighbours, and what is right beside it, in float32."""
    numbers = patterns(dtype).double()
    ordered = numbers[numbers.isfinite()].unique()
    middle = ((ordered[1:] + ordered[:-1]) / 2).float()
    assert torch.equal(middle.double(), (ordered[1:] + ordered[:-1]) / 2)
    up, down = torch.tensor(math.inf), torch.tensor(-math.inf)
    return torch.cat([middle, middle.nextafter(up), middle.nextafter(down)])


def anything() -> Tensor:
    """Float32 numbers of all scales, drawn by their bits, and the extreme ones."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**31), 2**31, (300_000,), generator=generator, dtype=torch.int64)
    info = torch.finfo(torch.float32)
    ends = [0.0, math.inf, math.nan, info.max, info.tiny, 2.0**-149, 65504.0, 65519.99, 65520.0]
    edge = [65536.0, 2.0**-24, 2.0**-25, 1.0001 * 2.0**-25, 2.0**-14, 3.3895e38, 3.3961e38]
    extreme = torch.tensor(ends + edge)
    return torch.cat([drawn.to(torch.int32).view(torch.float32), extreme, -extreme])


def same(found: Tensor, expected: Tensor) -> bool:
    """To the bit, but a NaN is a NaN."""
    assert found.dtype is expected.dtype
    view = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    equal = found.view(view) == expected.view(view)
    return bool((equal | (found.isnan() & expected.isnan())).all())


def numbers(dtype: torch.dtype) -> Tensor:
    return torch.cat([patterns(dtype), torch.zeros(1, dtype=dtype)])  # no multiple of anything


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_every_number_is_loaded_as_it_is(dtype: torch.dtype) -> None:
    every = numbers(dtype)
    assert every.unique().numel() > 60_000
    parameter = nn.Parameter(every.clone())
    parameter.grad = every.flip(0).contiguous()
    optimizer = optdsl.compile(LOADING, backend="c")([parameter])
    optimizer.step()
    assert same(optimizer.state[parameter]["a"], every.float())
    assert same(optimizer.state[parameter]["b"], every.flip(0).float())
    assert same(parameter.detach(), every)


def stored(dtype: torch.dtype, values: Tensor) -> Tensor:
    """Numbers of the state's precision as parameters."""
    parameter = nn.Parameter(torch.zeros(values.numel(), dtype=dtype))
    optimizer = optdsl.compile(STORING, backend="c")([parameter])
    for _ in range(2):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.state[parameter]["a"].copy_(values)
    return parameter.detach()


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("kind", ["between", "anything"])
def test_a_result_is_rounded_as_torch_rounds(dtype: torch.dtype, kind: str) -> None:
    values = between(dtype) if kind == "between" else anything()
    assert same(stored(dtype, values), values.to(dtype))


def test_rounding_is_judged_by_the_bit() -> None:
    """The tests above would see one unit too much, a lost sign, and an overflow."""
    values = between(torch.float16)
    for other in (values.nextafter(torch.tensor(math.inf)), values.abs(), values * 2):
        assert not same(other.half(), values.half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_numbers_are_stored_as_they_are(dtype: torch.dtype) -> None:
    values = anything().to(dtype)
    values = values / 3 if dtype is torch.float64 else values
    assert same(stored(dtype, values), values)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_a_step_is_calculated_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    start, gradient = (torch.randn(10_007, generator=generator).to(dtype) for _ in range(2))
    small = torch.randn(10_007, generator=generator) * 2.0**-9
    for lr in (0.0, 1.0):
        parameter = nn.Parameter(start.clone())
        optimizer = optdsl.compile(STEPPING, backend="c")([parameter], lr=0.0)
        parameter.grad = gradient
        optimizer.step()
        assert same(parameter.detach(), start)
        optimizer.state[parameter]["a"].copy_(small)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        expected = start.float() - lr * (gradient.float() + small)
        assert same(parameter.detach(), expected.to(dtype))
