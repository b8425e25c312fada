"""What the property tests of blends share: all that a user may choose, runs, and their bits."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import optdsl
from optdsl.blending.claims import Claim
from optdsl.compose import blend_source
from optdsl.ir.domain import Choice
from optdsl.ir.evaluate import number
from optdsl.ir.program import Hyper, Program
from optdsl.specifications import library
from tests.oracles.rules import ELEMENTWISE

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer
    from optdsl.specifications.library import Specification

SPECS = ELEMENTWISE
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Hypers = dict[str, float]
Rules = tuple[str, ...]


# --- rules and their blends -----------------------------------------------------------------------


@dataclass(frozen=True)
class Blend:
    """A blend of the library, by its name alone, or a mixture of several rules.

    Attributes:
        rules: the names.
    """

    rules: Rules

    def __str__(self) -> str:
        return "+".join(self.rules)

    @property
    def specification(self) -> Specification:
        return _specification(self.rules)

    @property
    def program(self) -> Program:
        return self.specification.program

    @property
    def optimizer(self) -> type[CompiledOptimizer]:
        """Its class, with all coefficients fixed."""
        return _optimizer(self.rules)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What it recovers."""
        return tuple(c for c in self.specification.claims if c.holds)

    def claim(self, rule: str) -> Claim:
        """What it says of a member."""
        return next(c for c in self.claims if c.rule == rule)


# To read a specification takes longer than to train with it for a few steps.
@functools.cache
def _specification(rules: Rules) -> Specification:
    source = library.open_source(rules[0]) if len(rules) == 1 else blend_source(rules)
    # That the claims hold is tested elsewhere, and takes longer than everything here.
    return library.specification(source, verify=False)


@functools.cache
def _optimizer(rules: Rules) -> type[CompiledOptimizer]:
    if len(rules) == 1:
        return optdsl.load(rules[0], learn=False, backend="eager")
    return optdsl.blend(*rules, learn=False, backend="eager")


def member(claim: Claim) -> type[CompiledOptimizer]:
    """The optimizer that a claim is about, with all coefficients fixed."""
    return _optimizer((claim.rule_source.removesuffix(".opt"),))


def bound(claim: Claim, hypers: Mapping[str, float]) -> Hypers:
    """The member's own hyperparameters where the blend has these."""
    return {name: number(claim.reference, value, hypers) for name, value in claim.bindings}


def _mixed() -> tuple[Rules, ...]:
    source = random.Random(0)
    circle = source.sample(SPECS, len(SPECS))
    pairs = zip(circle, [*circle[1:], circle[0]], strict=True)
    return (*pairs, *(tuple(source.sample(SPECS, 3)) for _ in range(5)))


# Each rule of the library with two others, and some triples: to make a blend takes longer than to
# train with it, so that tests that draw blends draw from few.
MIXED = _mixed()


def mixtures() -> st.SearchStrategy[Blend]:
    """Two or three rules of the library, blends among them, mixed."""
    return st.sampled_from(MIXED).map(Blend)


# --- hyperparameters ------------------------------------------------------------------------------


def _values(hyper: Hyper) -> st.SearchStrategy[float]:
    """Numbers in its domain: the default first, so that examples shrink to it."""
    domain = hyper.domain
    default = st.just(hyper.default)
    if isinstance(domain, Choice):
        return default | st.sampled_from(domain.values)
    ends = [x for x in (domain.lower, domain.upper) if math.isfinite(x) and x in domain]
    if math.isfinite(domain.lower) and math.isfinite(domain.upper):
        inside = st.floats(domain.lower, domain.upper).filter(lambda x: x in domain)
    else:
        magnitude = st.floats(-6, 1).map(lambda x: 10**x)
        inside = magnitude if domain.lower == 0 else magnitude | magnitude.map(lambda x: -x)
        inside = inside.filter(lambda x: x in domain)
    return default | inside | (st.sampled_from(ends) if ends else st.nothing())


def weights(count: int) -> st.SearchStrategy[list[float]]:
    """Points of a simplex: equal weights, corners, sides and the inside."""
    parts = st.lists(st.integers(0, 12), min_size=count, max_size=count).filter(any)
    return st.just([1 / count] * count) | parts.map(lambda x: [p / sum(x) for p in x])


@st.composite
def hypers(draw: st.DrawFn, /, program: Program, **strategies: st.SearchStrategy[float]) -> Hypers:
    """A value for every hyperparameter, drawn from its domain or as given."""
    found = {h.name: draw(strategies.get(h.name, _values(h))) for h in program.hypers}
    for simplex in program.simplexes:
        found |= dict(zip(simplex.hypers, draw(weights(len(simplex.hypers))), strict=True))
    return found


# --- tensors --------------------------------------------------------------------------------------

SHAPES = st.sampled_from([(), (1,), (3,), (0,), (2, 2)])
# Hypothesis has no bfloat16, which rounds what is drawn.
_WIDTHS: dict[torch.dtype, Literal[16, 32, 64]] = {
    torch.float64: 64,
    torch.float32: 32,
    torch.bfloat16: 32,
    torch.float16: 16,
}


@dataclass(frozen=True)
class Problem:
    """Parameters and their gradients, step by step; None where a parameter has none.

    All are in the dtype of training.
    """

    dtype: torch.dtype
    theta: list[Tensor]
    gradients: list[list[Tensor | None]]


def ordinary(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Zeros of both signs, and numbers of moderate size."""
    return st.sampled_from([0.0, 1.0, -1.0, -0.0]) | st.floats(-8, 8, width=_WIDTHS[dtype])


def tiny(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Zeros, denormals, and numbers whose squares are nothing."""
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps
    some = [0.0, least, -least, 3 * least, info.smallest_normal, -info.smallest_normal / 4, -0.0]
    return st.sampled_from(some)


def huge(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Zeros, and numbers whose squares or sums are infinite, if not here then in float32."""
    largest = torch.finfo(dtype).max
    some = [0.0, largest, -largest, largest / 2, -largest / 16]
    return st.sampled_from(some) | ordinary(dtype)


def anything(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """NaN and infinities, too."""
    return st.floats(width=_WIDTHS[dtype])


def _tensors(
    shape: tuple[int, ...], dtype: torch.dtype, elements: st.SearchStrategy[float]
) -> st.SearchStrategy[Tensor]:
    size = math.prod(shape)
    return st.lists(elements, min_size=size, max_size=size).map(
        lambda x: torch.tensor(x, dtype=torch.float64).reshape(shape).to(dtype)
    )


Kind = Callable[[torch.dtype], st.SearchStrategy[float]]
KINDS: tuple[Kind, ...] = (ordinary, tiny, huge, anything)


@st.composite
def problems(
    draw: st.DrawFn,
    dtypes: Sequence[torch.dtype] = DTYPES,
    kinds: Sequence[Kind] = KINDS,
    steps: tuple[int, int] = (1, 10),
    tensors: int = 3,
) -> Problem:
    """Several tensors of one dtype, with gradients of one kind each."""
    dtype = draw(st.sampled_from(dtypes))
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=tensors))
    theta = [draw(_tensors(shape, dtype, ordinary(dtype))) for shape in shapes]
    streams = []
    for shape in shapes:
        kind = draw(st.sampled_from(kinds))
        streams.append(_tensors(shape, dtype, kind(dtype)))
    # None shrinks last: a step without a gradient is the less usual one.
    one = st.tuples(*(st.one_of(*[stream] * 4, st.none()) for stream in streams))
    low, high = steps
    count = draw(st.integers(low, high))
    gradients = [list(draw(one)) for _ in range(count)]
    _begin(gradients)
    return Problem(dtype, theta, gradients)


def _begin(gradients: list[list[Tensor | None]]) -> None:
    """Let the first step be one: with zeros only, and a learning rate of 0, it may be none.

    `torch.distributed.checkpoint` takes such a step to see what an optimizer keeps.
    """
    for step in gradients:
        present = [g for g in step if g is not None and g.numel()]
        if present:
            if not any(g.any() for g in present):
                present[0].fill_(1.0)
            return


# --- runs -----------------------------------------------------------------------------------------


def run(
    optimizer: type[CompiledOptimizer], hypers: Mapping[str, float], problem: Problem
) -> list[list[Tensor]]:
    """The parameters after each step."""
    parameters = [nn.Parameter(x.clone()) for x in problem.theta]
    stepping = optimizer(parameters, **hypers)
    found = []
    for gradients in problem.gradients:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        stepping.step()
        found.append([p.detach().clone() for p in parameters])
    return found


_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def same_bits(x: Tensor, y: Tensor) -> Tensor:
    """Element by element: one pattern of bits, or NaN both."""
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    kind = _INTEGERS[x.element_size()]
    return (x.view(kind) == y.view(kind)) | (x.isnan() & y.isnan())


def same_numbers(x: Tensor, y: Tensor) -> Tensor:
    """Element by element: equal, where a zero may have either sign, or NaN both."""
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    return (x == y) | (x.isnan() & y.isnan())
