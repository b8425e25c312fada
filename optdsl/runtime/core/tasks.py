"""How the kernels of a rule are run over parameters: what every way has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from optdsl.ir.program import Program
from optdsl.ir.storage import added, stored
from optdsl.learning import SQUARE, square_keys
from optdsl.plan import Plan
from optdsl.plan.keys import pending
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.step_cache import StepCache

# The precision in which a parameter of each dtype is updated and its states are kept.
COMPUTE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
# The names of those dtypes in the compiler.
NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in COMPUTE}
# The types of tensors that wrap no others.
PLAIN = (Tensor, torch.nn.Parameter)
# Where a parameter's state keeps t and the hyperparameters of its pending step, in the program's
# order, in double precision.
PENDING_HYPERS = pending("hypers")


def check_dtype(rule: str, dtype: torch.dtype) -> None:
    """Refuse to step parameters of a dtype that no kernel takes.

    Raises:
        ValueError: with what to do.
    """
    if dtype in COMPUTE:
        return
    if dtype.is_complex:
        raise ValueError(
            f"{rule} cannot step complex parameters; optimize torch.view_as_real(p), "
            f"or freeze them with requires_grad_(False)"
        )
    known = ", ".join(NAMES.values())
    raise ValueError(
        f"{rule} steps parameters of {known}, not {dtype}; those of other dtypes must be frozen"
    )


@dataclass(frozen=True)
class Place:
    """Where the elements of a shard are in the whole tensor.

    Attributes:
        whole: the shape of the whole tensor.
        offset: where the shard begins in each dimension.
    """

    whole: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def of_all(cls, x: Tensor) -> Place:
        """That of a tensor that is all there is, and whose states others cut as they cut it."""
        return cls(tuple(x.shape), (0,) * x.dim())


class ParameterTask(NamedTuple):
    """A parameter that has a gradient.

    Attributes:
        parameter: of any shape and layout, of a dtype in `COMPUTE`.
        gradient: of the same shape and device, strided.
        state: what the optimizer keeps for it.
        hypers: the hyperparameters of its group, by name; one object for all of a group.
        draws: what draws random numbers for it; None where a rule draws none.
        place: where a shard is in its whole tensor, for a rule that learns from a sample of the
            elements; None for a tensor that is all there is.
    """

    parameter: Tensor
    gradient: Tensor
    state: dict[str, Any]
    hypers: dict[str, float]
    draws: Draws | None = None
    place: Place | None = None


# The state of a task.
STATE = itemgetter(ParameterTask._fields.index("state"))
# Its hyperparameters.
HYPERS = itemgetter(ParameterTask._fields.index("hypers"))

# Hyper-gradients by hyperparameter; where one is learned by its cosine, also the squared norms of
# gradient and tangent, over the tensors that have both (see `square_keys`); and the squared norm of
# the gradient, where a hyper-gradient is normalized (`SQUARE`).
HyperGradients = dict[str, float]


class Engine(Protocol):
    """A way to run a rule on the parameters of one device and dtype."""

    plan: Plan
    shape: Shape

    def __hash__(self) -> int:
        """Of its identity: what is kept for an engine is found by it."""

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """The hyper-gradients of the pending steps of `works`, which are completed."""

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """A step of each of `works`, none of which has one pending."""

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """The same right after `complete`, with the same gradients."""

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Both, one after the other or at once."""


class Shape:
    """What the states of a plan look like.

    Attributes:
        complete: the keys of a state with no step pending.
        pending: those of one with a step pending; None where no step is ever pending.
        coded: those that are stored by a codec.
    """

    def __init__(self, plan: Plan) -> None:
        """See the class."""
        self.coded = frozenset({*stored(plan.advance), *added(plan.advance)})
        names = {s.name for s in plan.states} | {"step"} | added(plan.advance).keys()
        self.pending: frozenset[str] | None = None
        self.complete = frozenset(names - set(plan.kept))
        if plan.kind == "stored":
            self.pending = frozenset(names)
        elif plan.computes_again:
            self.pending = frozenset(names | {PENDING_HYPERS})


def pending_hypers(program: Program, t: float, hypers: dict[str, float]) -> list[float]:
    """What `PENDING_HYPERS` holds after a step."""
    return [t, *(hypers[h.name] for h in program.hypers)]


def unpacked(program: Program, packed: Tensor) -> dict[str, float]:
    """The hyperparameters of a pending step, under the names by which programs call them."""
    names = ("t", *(h.name for h in program.hypers))
    return dict(zip(map(pending, names), packed.tolist(), strict=True))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """A dot product, accumulated in double precision where the device has it; shape ()."""
    return unwrapped(torch.dot(accurate(x), accurate(y)))


def accurate(x: Tensor) -> Tensor:
    """The elements of a tensor in double precision where the device has it; of one dimension."""
    return x.reshape(-1).to(torch.float32 if x.device.type == "mps" else torch.float64)


def unwrapped(x: Tensor) -> Tensor:
    """A plain tensor of the numbers of one that wraps others; any other tensor as it is."""
    if type(x) is Tensor or without_values(x) or not is_traceable_wrapper_subclass(x):
        return x
    return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)


def counted_part(gradient: Tensor, tangent: Tensor) -> Tensor:
    """A tangent with zeros for what has no part in a hyper-gradient.

    That is an element that is not finite where the gradient is zero: the derivative of an update
    may be undefined where the parameter is infinite, and zero times it would be no number.
    """
    return torch.where((gradient == 0) & ~tangent.isfinite(), 0, tangent)


def squares(program: Program, gradient: Tensor, tangents: Mapping[str, Tensor]) -> HyperGradients:
    """The squared norms that the signals of a program need, of one tensor; empty without any.

    Args:
        program: it says by which signals something is learned.
        gradient: the gradient.
        tangents: the pending tangents, by hyperparameter.
    """
    sums: HyperGradients = {}
    if tangents and normalizes(program):
        sums[SQUARE] = float(dot(gradient, gradient))
    for name in cosines(program):
        if name in tangents:
            for key, x in zip(square_keys(name), (gradient, tangents[name]), strict=True):
                sums[key] = float(dot(x, x))
    return sums


def cosines(program: Program) -> tuple[str, ...]:
    """The hyperparameters that are learned by their cosine."""
    return tuple(x.hyper for x in program.learned if x.signal == "cosine")


def normalizes(program: Program) -> bool:
    """Whether something is learned by its normalized hyper-gradient."""
    return any(x.signal == "normalized" for x in program.learned)


def keep(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Copy a value into memory that is the state's own."""
    if name not in state:
        # The value may be a view of one number, or the same tensor as another state.
        state[name] = torch.empty_like(value, memory_format=torch.contiguous_format)
    state[name].copy_(value)


def check_dense(optimizer: str, gradients: Iterable[Tensor]) -> None:
    """Refuse sparse gradients.

    Raises:
        RuntimeError: with what to do.
    """
    if set(map(attrgetter("layout"), gradients)) - {torch.strided}:
        raise RuntimeError(
            f"{optimizer} does not take sparse gradients; make the layer with sparse=False"
        )
