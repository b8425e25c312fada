"""NaN, infinities, zeros, subnormal and huge numbers: C does what eager does."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import problems

from . import rules

pytestmark = pytest.mark.broad(8)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

DTYPES = (torch.float32, torch.float64)
# For float32, and for float64.
SPECIAL = {
    "nan": (math.nan, math.nan),
    "inf": (math.inf, math.inf),
    "minus inf": (-math.inf, -math.inf),
    "subnormal": (1e-40, 1e-310),
    "zero": (0.0, 0.0),
    "huge": (1e38, 1e300),
    "minus huge": (-1e38, -1e300),
}
GATES = {
    "mada": ("c", "rho", "kappa", "gamma"),
    "mada_legacy": ("rho", "c", "gamma"),
    "adam_avgrad": ("rho",),
}
VECTORS = [name for name in rules.RULES if rules.read(name).simplexes]
# Their states start at numbers of their own, and move the parameter.
MOVING = {"every_operation", "yogi", "blend"}
Results = dict[str, Tensor]


@functools.cache
def loaded(rule: str, backend: str) -> type[CompiledOptimizer]:
    """Hyper-gradients are measured, and move nothing."""
    return rules.load(rule, backend=backend, learn=rules.learning(rule))


def gradients(dtype: torch.dtype, names: Sequence[str], size: int) -> list[Tensor]:
    """Steps with some special elements, with none, and with others."""
    generator = problems.seeded(0)
    drawn = [problems.randn(generator, size).to(dtype) for _ in range(4)]
    for at, name in enumerate(names):
        number = SPECIAL[name][dtype is torch.float64]
        drawn[0][at :: len(names) + 2] = number
        drawn[2][at + 1 :: len(names) + 2] = number
    return drawn


class Run:
    """What comes of some gradients: results after each step, and hyper-gradients."""

    def __init__(
        self,
        cls: type[CompiledOptimizer],
        start: Tensor,
        stream: Sequence[Tensor],
        hypers: Mapping[str, float],
        device: str = "cpu",
    ) -> None:
        parameter = nn.Parameter(start.clone().to(device))
        optimizer = cls([parameter], **hypers)
        self.lags = cls.compiled.parts.whole.of(parameter).plan.kind == "replay"
        self.steps: list[Results] = []
        self.metrics: list[dict[str, float]] = []
        for gradient in stream:
            parameter.grad = gradient.clone().to(device)
            optimizer.step()
            state = {k: x.cpu() for k, x in optimizer.state[parameter].items() if k != "step"}
            state = {k: x.clone() for k, x in state.items()}
            self.steps.append({"theta": parameter.detach().cpu().clone(), **state})
            self.metrics.append(optimizer.metrics())

    def after(self, t: int, names: Sequence[str]) -> Results:
        """The results of step `t`; states that lag are found one step later."""
        later = self.steps[t + self.lags]
        return {k: (later if k != "theta" else self.steps[t])[k] for k in names}


def differences(ours: Tensor, theirs: Tensor) -> dict[str, int]:
    """How many elements are special in one and not in the other."""
    tiny = torch.finfo(ours.dtype).smallest_normal * torch.finfo(ours.dtype).eps
    wrong = {
        "NaN": ours.isnan() != theirs.isnan(),
        "inf": ours.isposinf() != theirs.isposinf(),
        "-inf": ours.isneginf() != theirs.isneginf(),
        # Below this a single rounding may lose a subnormal number.
        "lost": (ours == 0) & (theirs.abs() > 16 * tiny),
    }
    return {name: int(mask.sum()) for name, mask in wrong.items() if mask.any()}


def compare(
    rule: str,
    dtype: torch.dtype,
    stream: Sequence[Tensor],
    hypers: Mapping[str, float],
    start: Tensor | None = None,
    backends: Sequence[str] = rules.BACKENDS,
) -> None:
    """Run both and find no difference."""
    if start is None:
        start = problems.randn(problems.seeded(1), *stream[0].shape).to(dtype)
    eager, c = (Run(loaded(rule, b), start, stream, hypers, rules.device(b)) for b in backends)
    names = ["theta", *(s.name for s in rules.read(rule).states)]
    for t in range(len(stream) - 1):
        ours, theirs = (run.after(t, names) for run in (c, eager))
        for name in names:
            found = differences(ours[name], theirs[name])
            assert not found, (name, t, found)
        for key, value in eager.metrics[t].items():
            mine = c.metrics[t][key]
            assert math.isnan(mine) == math.isnan(value), (key, t)
            assert math.isinf(mine) == math.isinf(value), (key, t)


def settings(rule: str, kind: str) -> dict[str, float]:
    program = rules.read(rule)
    if kind == "interior":
        return problems.interior_hypers(program, problems.seeded(3))
    return {h.name: h.default for h in program.hypers}


@pytest.mark.parametrize("kind", ["default", "interior"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", rules.RULES)
def test_special_gradients_side_by_side(rule: str, dtype: torch.dtype, kind: str) -> None:
    """Among ordinary ones, so in the middle of vectors and at the ends of chunks."""
    compare(rule, dtype, gradients(dtype, list(SPECIAL), 613), settings(rule, kind))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", rules.RULES)
def test_a_single_special_gradient(rule: str, dtype: torch.dtype) -> None:
    """So that what it does to sums, hyper-gradients among them, is its own."""
    for name in SPECIAL:
        compare(rule, dtype, gradients(dtype, [name], 3), settings(rule, "interior"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", rules.RULES)
def test_special_parameters(rule: str, dtype: torch.dtype) -> None:
    stream = gradients(dtype, [], 7)
    start = torch.tensor([math.nan, math.inf, -math.inf, 1e-40, 0.0, -0.0, 1e38]).to(dtype)
    compare(rule, dtype, stream, settings(rule, "interior"), start)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.exhaustive
def test_what_is_zero_stays_zero(rule: str, dtype: torch.dtype) -> None:
    """A parameter of zeros without gradients, with a gradient that is zero to the bit."""
    program = rules.read(rule)
    stream = [torch.zeros(300, dtype=dtype) for _ in range(3)]
    runs = [
        Run(loaded(rule, b), stream[0], stream, settings(rule, "default")) for b in rules.BACKENDS
    ]
    for name in ("theta", *(s.name for s in program.states)):
        eager, c = (run.after(1, [name])[name] for run in runs)
        if not eager.count_nonzero():
            assert not c.count_nonzero(), name
    if rule not in MOVING:
        assert not runs[1].steps[1]["theta"].count_nonzero()


def ends(rule: str) -> list[dict[str, float]]:
    """The hyperparameters at which a blend is one of its members."""
    if rule in GATES:
        gates = GATES[rule]
        choices = itertools.product((0.0, 1.0), repeat=len(gates))
        return [dict(zip(gates, x, strict=True)) for x in choices]
    return [
        {h: float(h == one) for h in simplex.hypers}
        for simplex in rules.read(rule).simplexes
        for one in simplex.hypers
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", [*GATES, *VECTORS])
def test_members_without_weight_do_not_count_whatever_they_are(
    rule: str, dtype: torch.dtype
) -> None:
    """A blend at its ends: a mean of parts of which some are infinite, or none at all."""
    stream = gradients(dtype, list(SPECIAL), 37)
    for end in ends(rule):
        compare(rule, dtype, stream, {**settings(rule, "default"), **end})
        compare(rule, dtype, stream, {**settings(rule, "interior"), **end})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", rules.BACKENDS)
@pytest.mark.parametrize(("sgd", "finite"), [(0.0, True), (0.5, False), (1.0, False)])
def test_an_infinite_member_counts_only_with_a_weight(
    sgd: float, finite: bool, backend: str, dtype: torch.dtype
) -> None:
    """Of an infinite gradient SGD makes an infinite step, and Lion one like any other."""
    parameter = nn.Parameter(torch.ones(10, dtype=dtype))
    parameter.grad = torch.full_like(parameter, math.inf)
    cls = rules.load("adaptivity", backend=backend, learn=False)
    cls([parameter], w_sgd=sgd, w_adamw=0.0, w_lion=1 - sgd).step()
    assert parameter.isfinite().all() == finite
    assert not parameter.isnan().any()
