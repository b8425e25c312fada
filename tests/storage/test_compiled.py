"""C kernels that draw and store by codecs, against eager code: to the bit but for its sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl
from optdsl.learn_option import LearnOption
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.c import CEngine

pytestmark = pytest.mark.broad(2)

MOVED = """\
optimizer Moved
  "Adds the gradient, in one rounding, and keeps it twice."

hyper lr = 1 in [0, inf)

state a = 0
state b = g
state c : scalar = 0.3

store theta as {codec}
store a as bfloat16 stochastic
store b as bfloat16
store c as bfloat16 stochastic

a'     = g + 0
b'     = g - theta
c'     = c + 1 / 3
theta' = theta + g
"""
DRAWN = """\
optimizer Drawn
  "Three distributions, and a number of the tensor."

hyper lr  = 1 in [0, inf)
hyper gap = 3 in [0, inf)

random U          = uniform
random R          = rademacher at -(t + 2^40)
random N          = normal at 2^33
random Q : scalar = uniform at floor(t / gap)

state u = 0
state r = 0
state n = 0
state q : scalar = 0

u'     = U
r'     = R
n'     = N
q'     = Q
theta' = theta - lr * g
"""


def numbers(dtype: torch.dtype, size: int = 8300) -> Tensor:
    """Numbers of every size that a dtype has, more of them than a block, and special ones."""
    generator = torch.Generator().manual_seed(5)
    special = [math.inf, -math.inf, math.nan, -0.0, 65504.0, 65519.0, 3.39e38, -3.4e38, 1e-41]
    spread = torch.randn(size, generator=generator, dtype=torch.float64).mul(9).exp()
    signs = torch.randn(size, generator=generator).sign()
    tiny = torch.randn(size, generator=generator, dtype=torch.float64) * 1e-7
    return torch.cat([torch.tensor(special), signs * spread, tiny]).to(dtype)


def taken(text: str, backend: str, start: list[Tensor], seed: int = 2**63 + 9, steps: int = 3,
          learn: LearnOption = True) -> list[dict[str, Tensor]]:  # fmt: skip
    """The parameters and their states after some steps."""
    make = optdsl.load if len(text.splitlines()) == 1 else optdsl.compile
    cls = make(text, backend=backend, learn=learn)
    held = [Parameter(p.clone()) for p in start]
    optimizer = cls(held, **({"seed": seed} if cls.compiled.draws else {}))
    for t in range(steps):
        for p in held:
            p.grad = (p.detach() * (0.1 + t)).roll(t)
        optimizer.step()
    return [{**optimizer.state[p], "theta": p.detach()} for p in held]


@pytest.mark.parametrize(
    ("dtype", "codec"),
    [
        (torch.bfloat16, "stochastic"),
        (torch.bfloat16, "compensated"),
        (torch.float16, "stochastic"),
        (torch.float32, "compensated"),
        (torch.float64, "stochastic"),
    ],
)
def test_codecs_round_to_the_bits_of_eager_code(dtype: torch.dtype, codec: str) -> None:
    text, start = MOVED.format(codec=codec), [numbers(dtype)]
    for one, other in zip(*(taken(text, b, start) for b in ("c", "eager")), strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name].dtype is value.dtype, name
            assert torch.equal(one[name].isnan(), value.isnan()), name
            assert torch.equal(one[name].nan_to_num(), value.nan_to_num()), name


@pytest.mark.parametrize("flags", ["", " -mno-avx2"])
def test_draws_are_the_numbers_of_eager_code(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors in any layout; also without the instructions that processors may lack."""
    if flags:
        monkeypatch.setenv("CC", f"cc{flags}")
    text = f"{DRAWN}# {flags}\n"  # another text is another class, which is built again
    images = torch.randn(4, 5, 6, 7).to(memory_format=torch.channels_last)
    start = [torch.randn(90, 99), torch.randn(33, 17).t(), images, torch.ones(()), torch.ones(0)]
    for one, other in zip(*(taken(text, b, start) for b in ("c", "eager")), strict=True):
        for name in "urq":
            assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one["n"], other["n"], rtol=3e-6, atol=3e-7)


def test_a_counter_that_is_no_number_changes_nothing() -> None:
    theta = Parameter(torch.ones(5))
    optimizer = optdsl.compile(DRAWN, backend="c")([theta], gap=0.0)
    theta.grad = torch.ones(5)
    with pytest.raises(ValueError, match="random numbers are drawn at a counter which is no"):
        optimizer.step()
    assert torch.equal(theta.detach(), torch.ones(5))


def test_parts_of_a_tensor_draw_what_the_whole_one_draws() -> None:
    """As shards do: of rows, of columns, of both, uneven, and of a dimension in the middle."""
    cls = optdsl.compile(DRAWN, backend="c")
    theta = torch.zeros(10, 7, 9)
    engine = cls.compiled.parts.whole.of(theta)
    assert isinstance(engine, CEngine)

    def drawn(part: Tensor, draws: Draws) -> dict[str, Tensor]:
        work = ParameterTask(part, torch.zeros_like(part), {}, {"lr": 1.0, "gap": 3.0}, draws)
        engine.advance([work], StepCache())
        return work.state

    whole = drawn(theta.clone(), Draws(7, 2))
    cuts = [((3, 10), (0, 7), (0, 9)), ((0, 10), (0, 7), (5, 9)), ((2, 5), (6, 7), (0, 9)),
            ((1, 9), (2, 7), (1, 2))]  # fmt: skip
    for ends in cuts:
        cut = tuple(slice(*end) for end in ends)
        part = theta[cut].contiguous()
        own = drawn(part, Draws(7, 2, (10, 7, 9), tuple(c.start for c in cut)))
        for name in "urn":
            assert torch.equal(own[name], whole[name][cut]), (cut, name)
        assert torch.equal(own["q"], whole["q"])


def test_chunks_with_numbers_that_are_not_finite_are_computed_again() -> None:
    """What the kernel for finite numbers has written is put back first, both buffers of it."""
    start = [torch.randn(700, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)]
    start[0][::200] = math.inf
    found = [taken("mada with kahan", b, start, steps=2, learn=False)[0] for b in ("c", "eager")]
    exact = ~found[1]["theta"].isfinite()
    assert 0 < int(exact.sum()) < 20
    for key in found[1].keys() - {"step"}:
        one, other = (f[key].float() for f in found)
        assert torch.equal(one.isnan(), other.isnan()), key
        away = (one - other).abs().nan_to_num() > 1e-6 + 0.01 * other.abs().nan_to_num(posinf=0)
        # Rounding of float32 may decide between neighbours, rarely.
        assert int(away.sum()) <= 2, key


def test_learning_rates_are_learned_as_by_eager_code() -> None:
    wish = {"lr": optdsl.Learn("sgd", lr=1e-4, bounds=(0.0, 1.0))}
    rates = []
    for backend in ("c", "eager"):
        theta = Parameter(torch.linspace(-1, 1, 300).to(torch.bfloat16))
        cls = optdsl.load("adamw with stochastic_rounding", learn=wish, backend=backend)
        optimizer = cls([theta])
        for t in range(6):
            theta.grad = theta.detach() + 0.1 * t
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] != 1e-3
    assert rates[0] == pytest.approx(rates[1], rel=1e-4)


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_what_is_beside_a_parameter_follows_its_precision(backend: str) -> None:
    theta = Parameter(numbers(torch.float32, 50)[9:])
    optimizer = optdsl.load("adamw with kahan", backend=backend)([theta])
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
        theta.grad = None
        theta.data = theta.data.to(dtype)
        theta.grad = torch.ones_like(theta)
        optimizer.step()
    assert optimizer.state[theta]["compensation/theta"].dtype is torch.bfloat16
