"""The tensors, hyperparameters and runs of the battery over the library."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.ir.domain import Choice, Interval
from optdsl.ir.program import Program
from optdsl.ir.sections import KINDS, OTHERWISE, name_of, section_of
from optdsl.ir.storage import draws
from optdsl.ir.types import Extent
from optdsl.passes.totals import SHARED, required_inputs
from optdsl.specifications import library
from tests.oracles import problems
from tests.oracles.rules import PROGRAMS
from tests.oracles.together import Held, Together

STEPS = 4
# The step before which a training is saved and loaded; every tensor has taken one by then.
RESUMED = 2
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NARROW = (torch.bfloat16, torch.float16)


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _turned(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# Two of one shape are stepped together as a stack; "rare" has no gradient in the second step.
SHAPES: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "scalar": ((), torch.clone),
    "empty": ((0,), torch.clone),
    "no rows": ((0, 3), torch.clone),
    "vector": ((5,), torch.clone),
    "strided": ((7,), _strided),
    "matrix": ((3, 4), torch.clone),
    "twin": ((3, 4), torch.clone),
    "turned": ((4, 3), _turned),
    "row": ((1, 4), torch.clone),
    "kernel": ((3, 2, 2, 2), _channels_last),
    "rare": ((2, 3), torch.clone),
}


class Tensors:
    """The parameters that a rule takes, in groups by kind, and what a step gives them."""

    def __init__(self, program: Program, dtype: torch.dtype, plain: bool = False) -> None:
        """Draw them.

        Args:
            program: the rule.
            dtype: of the parameters and of what is given to them.
            plain: whether all of them are contiguous.
        """
        self.dtype, self.program, self._plain = dtype, program, plain
        named = [k for k in program.sections if k not in (*KINDS, OTHERWISE)]
        shapes = {
            name: shape
            for name, (shape, _) in SHAPES.items()
            if not program.sections or section_of(program.sections, shape) is not None
        }
        self.kinds: list[str | None] = [*[None] * len(shapes), *map(name_of, named)]
        self.names = [*shapes, *["matrix"] * len(named)]
        generator = problems.seeded(0)
        self.held = [nn.Parameter(self._drawn(generator, name)) for name in self.names]

    def _drawn(self, generator: torch.Generator, name: str, zeros: float = 0.0) -> Tensor:
        shape, layout = SHAPES[name]
        x = problems.randn(generator, *shape)
        x[problems.rand(generator, *shape) < zeros] = 0.0
        return x.to(self.dtype) if self._plain else layout(x.to(self.dtype))

    def groups(self) -> list[dict[str, Any]]:
        """The parameters in their groups."""
        own = [p for p, kind in zip(self.held, self.kinds, strict=True) if kind is None]
        rest = [(p, k) for p, k in zip(self.held, self.kinds, strict=True) if k is not None]
        return [{"params": own}] * bool(own) + [{"params": [p], "kind": k} for p, k in rest]

    def give(self, step: int, zeros: float = 0.125, to_all: bool = False) -> dict[str, Any] | None:
        """Give the parameters the gradients of a step, from 0; the inputs of the step."""
        generator = problems.seeded(100 + step)
        for p, name in zip(self.held, self.names, strict=True):
            g = self._drawn(generator, name, zeros)
            p.grad = None if name == "rare" and step == 1 and not to_all else g
        inputs = [s for s in self.program.states if s.input]
        required = required_inputs(self.program)
        found: dict[str, Any] = {}
        for s in inputs:
            if step % 2 and s.name not in required:
                continue
            if s.type.extent is Extent.TENSOR:
                found[s.name] = {
                    p: problems.rand(generator, *p.shape).to(self.dtype) for p in self.held
                }
            else:
                found[s.name] = float(problems.rand(generator))
        return found or None

    def given(
        self, inputs: Mapping[str, Any] | None
    ) -> tuple[dict[str, list[Tensor]], dict[str, float]]:
        """Inputs for each tensor that has a gradient, and those that are numbers."""
        tensors, numbers = {}, {}
        for name, x in (inputs or {}).items():
            if isinstance(x, dict):
                tensors[name] = [x[p] for p in self.held if p.grad is not None]
            else:
                numbers[SHARED + name] = x
        return tensors, numbers

    def copied(self) -> Tensors:
        """The same tensors again."""
        return copy.deepcopy(self)


def settings(rule: str, variant: int) -> dict[str, float]:
    """Hyperparameters with which everything in a rule counts.

    Args:
        rule: its name.
        variant: how far each choice is from its default.
    """
    program = PROGRAMS[rule]
    found = {}
    for hyper in program.hypers:
        domain, value = hyper.domain, hyper.default
        if isinstance(domain, Choice):
            values = domain.values
            value = values[(values.index(value) + variant) % len(values)]
        elif program.simplex_of(hyper.name) is None and isinstance(domain, Interval):
            # What is added is left out by default, and rates are small beside narrow dtypes.
            if value == 0.0 and domain.upper > 0.1:
                value = 0.1
            elif hyper.name in {"lr", "d0"}:
                value = max(value, 0.03)
        found[hyper.name] = value
    return found


@functools.cache
def together(rule: str, structure: tuple[tuple[str, float], ...]) -> Together:
    """The interpreter for a rule, at values of what decides its operations."""
    program = PROGRAMS[rule]
    choices = tuple(sorted(set(structure) - set(program.structure)))
    if choices:
        program = library.read(library.open_source(rule), verify=False, choices=choices)
    return Together(program)


def of_settings(rule: str, hypers: Mapping[str, float]) -> Together:
    """The same for hyperparameters."""
    names = dict(PROGRAMS[rule].structure)
    return together(rule, tuple((n, hypers[n]) for n in names))


def steps(
    optimizer: Any, tensors: Tensors, numbers: Sequence[int], zeros: float = 0.125
) -> Iterator[int]:
    """Take steps of an optimizer, with those numbers, from 0."""
    for step in numbers:
        inputs = tensors.give(step, zeros)
        optimizer.step(**({"inputs": inputs} if inputs else {}))
        yield step


def trained(cls: Any, rule: str, dtype: torch.dtype, hypers: Mapping[str, float]) -> list[Tensor]:
    """Parameters after some steps; contiguous ones, since layouts decide the order of sums."""
    tensors = Tensors(PROGRAMS[rule], dtype, plain=True)
    for _ in steps(cls(tensors.groups(), **hypers), tensors, range(STEPS)):
        pass
    return [p.detach() for p in tensors.held]


def before(optimizer: Any, tensors: Tensors, all_of_them: bool = False) -> list[Held]:
    """The tensors with gradients, or all of them, as they are before a step."""
    order = [p for group in optimizer.param_groups for p in group["params"]]
    found = []
    for p, kind in zip(tensors.held, tensors.kinds, strict=True):
        if p.grad is None and not all_of_them:
            continue
        g = torch.zeros_like(p) if p.grad is None else p.grad
        own = optimizer.state.get(p, {})
        state = {k: v.detach().clone() for k, v in own.items() if isinstance(v, Tensor)}
        t = int(state.pop("step", torch.zeros(()))) + 1
        number = next(n for n, q in enumerate(order) if q is p)
        found.append(Held(p.detach().double().clone(), g.detach().double(), t, state, kind, number))
    return found


def same(x: Tensor, y: Tensor) -> bool:
    """To the bit; NaN is NaN."""
    return x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num())


def loaded(rule: str, backend: str, **options: Any) -> Any:
    """The class of a rule; Triton's kernels draw nothing, and say so."""
    if backend == "triton" and draws(PROGRAMS[rule.partition(" ")[0]]):
        with pytest.raises(ValueError, match="random"):
            optdsl.load(rule, backend=backend, **options)
        pytest.skip(f"{rule} draws random numbers")
    return optdsl.load(rule, backend=backend, **options)
