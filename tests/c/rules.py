"""The rules on which backends are compared, and the tensors on which they run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.compose import blend_source
from optdsl.diagnostics import Source
from optdsl.differentiate import differentiate, moves
from optdsl.ir.domain import Choice, Interval
from optdsl.ir.program import Program
from optdsl.specifications import library
from tests.oracles import every_operation, problems
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import read_spec, read_text

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

ORDERS = ("overlapped", "exact")
BACKENDS = ("eager", "c")


def device(backend: str) -> str:
    """Where the parameters of a test of a backend lie."""
    return "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# No state at all, and no number that is the same for all.
PLAIN = """\
optimizer Plain
hyper lr    = 0.1 in [0, inf)
hyper decay = 0.1 in [0, inf)
theta' = theta - lr * (g + decay * theta)
"""

TEXTS = {
    "plain": PLAIN,
    "every_operation": every_operation.TEXT,
    "blend": blend_source(["yogi", "lion", "adan"]).text,
}
RULES = (*ELEMENTWISE, *TEXTS)


@functools.cache
def read(name: str) -> Program:
    """A rule, lowered and nothing else."""
    return read_text(TEXTS[name]) if name in TEXTS else read_spec(name)


def source(name: str) -> Source:
    """The text of a rule."""
    return Source("<text>", TEXTS[name]) if name in TEXTS else library.open_source(name)


def continuous(name: str) -> list[str]:
    """The hyperparameters by which a step can be differentiated."""
    return problems.continuous(read(name))


def sharing(name: str, hyper: str) -> tuple[str, ...]:
    """A weight that takes what is taken from another one; none if it is no weight."""
    simplex = read(name).simplex_of(hyper)
    return () if simplex is None else tuple(h for h in simplex.hypers if h != hyper)[:1]


@functools.cache
def learnable(name: str) -> tuple[str, ...]:
    """What the rule says, or else the first that can be; never the rate, in which groups differ."""
    program = read(name)
    others = (h for h in continuous(name) if h != "lr" and moves(program, h))
    return tuple(x.hyper for x in program.learned) or tuple(itertools.islice(others, 3))


@functools.cache
def learning(name: str) -> dict[str, Learn]:
    """Measures the hyper-gradient of each of them, and moves none."""
    program = read(name)
    vectors = {h: v.name for v in program.simplexes for h in v.hypers}
    still = {}
    for hyper in learnable(name):
        bounds = None if hyper in vectors else _closed(program.hyper(hyper).domain)
        still[vectors.get(hyper, hyper)] = Learn("sgd", bounds=bounds, after=10**9)
    return still


def _closed(domain: Interval | Choice) -> tuple[float, float]:
    """Nearly all of an interval."""
    assert isinstance(domain, Interval)
    lower, upper = max(domain.lower, -1e3), min(domain.upper, 1e3)
    return lower + 1e-12 * domain.lower_open, upper - 1e-12 * domain.upper_open


@functools.cache
def differentiated(name: str) -> Program:
    """A rule with the tangents of `learning`."""
    return differentiate(read(name), learnable(name))


def load(name: str, **options: Any) -> type[CompiledOptimizer]:
    """The optimizer class of a rule."""
    if name in TEXTS:
        return optdsl.compile(TEXTS[name], **options)
    return optdsl.load(name, **options)


# --- tensors --------------------------------------------------------------------------------------

Layout = Callable[[Tensor], Tensor]


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _transposed(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _permuted(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1).contiguous().permute(1, 2, 0)


# Blocks have 8192 elements and chunks 256; no size below is a multiple of what a vector holds.
SHAPES: dict[str, tuple[tuple[int, ...], Layout]] = {
    "scalar": ((), torch.clone),
    "empty": ((0,), torch.clone),
    "vector": ((37,), torch.clone),
    "transposed": ((3, 5), _transposed),
    "chunks": ((273,), torch.clone),
    "one": ((1,), torch.clone),
    "strided": ((23,), _strided),
    "permuted": ((2, 3, 4), _permuted),
    "rare": ((6,), torch.clone),
    "blocks": ((8192 + 301,), torch.clone),
}
FIRST_GROUP = 5


def tensors(dtype: torch.dtype, seed: int = 0) -> list[nn.Parameter]:
    """A parameter of every kind."""
    generator = problems.seeded(seed)
    made = []
    for shape, layout in SHAPES.values():
        made.append(nn.Parameter(layout(problems.randn(generator, *shape).to(dtype))))
    return made


def gradients(dtype: torch.dtype, steps: int, seed: int = 1) -> list[list[Tensor | None]]:
    """For each step, a gradient of each, smaller where there are more elements.

    So each tensor has its part in hyper-gradients. One in eight elements is zero, some for good.
    """
    generator = problems.seeded(seed)
    made: list[list[Tensor | None]] = []
    for t in range(steps):
        row: list[Tensor | None] = []
        for name, (shape, layout) in SHAPES.items():
            g = problems.randn(generator, *shape)
            g = g / (1 + g.numel() / 20)
            g[problems.rand(generator, *shape) < 0.125] = 0.0
            if g.ndim and g.numel() > 5:
                g.view(-1)[1] = 0.0
            g = layout(g.to(dtype))
            if name == "transposed" and t % 2:
                g = g.contiguous()
            row.append(None if name == "rare" and t % 3 == 1 else g)
        made.append(row)
    return made


def hypers(name: str, steps: int, seed: int = 2) -> list[list[dict[str, float]]]:
    """For each step, the hyperparameters of the two groups, which share what is learned."""
    program, generator = read(name), problems.seeded(seed)

    def drawn() -> dict[str, float]:
        found = problems.interior_hypers(program, generator)
        # A decay is multiplied with the learning rate, and is to count nevertheless; a warm-up
        # takes several steps.
        larger = {"weight_decay": 4.0, "warmup_steps": 100.0}
        return {h: larger.get(h, 1.0) * x for h, x in found.items()}

    made = []
    for _ in range(steps):
        first, second = drawn(), drawn()
        made.append([first, {**second, **{h: first[h] for h in learnable(name)}}])
    return made


def by_parameter(groups: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The hyperparameters of each parameter."""
    return [groups[0]] * FIRST_GROUP + [groups[1]] * (len(SHAPES) - FIRST_GROUP)


def grouped(cls: type[CompiledOptimizer], parameters: Sequence[nn.Parameter]) -> CompiledOptimizer:
    """An optimizer of the parameters in two groups."""
    return cls([{"params": parameters[:FIRST_GROUP]}, {"params": parameters[FIRST_GROUP:]}])
