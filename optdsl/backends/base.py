"""The interface of all backends, and the modules that they emit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from optdsl.ir.ops import DRAWS
from optdsl.ir.program import Learned, Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import PARAMETER, compiles, stored
from optdsl.options import OptionError
from optdsl.passes.specialize import in_kind
from optdsl.plan import Kind, elementwise
from optdsl.plan.sampling import gathers_traces
from optdsl.schedule import Kernel, Role

# How the elements of a parameter may be stored.
DTYPES = ("float32", "float64", "bfloat16", "float16")
# What the eager backend calls the step of pieces of tensors.
PIECES = "step_of_pieces"
# The same where hyper-gradients are estimated from a sample, for elements outside of it.
PIECES_OUTSIDE = "step_of_pieces_outside"
# The operators that C and Python have in common.
BINARY = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip


@dataclass(frozen=True)
class EntryPoint:
    """A function of an emitted module: what it takes and what it returns, in order.

    Attributes:
        name: the function's name.
        states: the states it takes by position, after the parameter and its gradient.
        hypers: the hyperparameters it takes.
        keywords: the keywords under which it takes them.
        takes_step: whether it takes the step count, as keyword ``t`` or before the others.
        results: the names of what it returns: ``theta`` and states.
        dots: what it sums over all elements, by hyperparameter.
        buffers: in whose memory a state is afterwards, where that is another state's.
        writes: whether it takes, as keyword ``out``, the memory for the new parameter, which may be
            that of the old one.
        draws: whether it takes what draws random numbers, as keyword ``draws`` or with a tensor.
    """

    name: str
    states: tuple[str, ...]
    hypers: tuple[str, ...]
    keywords: tuple[str, ...]
    takes_step: bool
    results: tuple[str, ...]
    dots: tuple[str, ...] = ()
    buffers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False
    draws: bool = False


@dataclass(frozen=True)
class SourceModule:
    """Emitted source text and its entry points by name."""

    name: str
    language: str
    text: str
    entries: Mapping[str, EntryPoint]


def needed_kernels(kernels: Mapping[str, Kernel], order: str) -> list[Kernel]:
    """The kernels of a rule that steps call when coefficients move in an order."""
    after = (Role.COMPLETE, Role.STEP_COMPLETED) if order == "exact" else (Role.FUSED,)
    outside = kernels.get(Role.STEP_OUTSIDE)
    if outside is not None and elementwise(outside.program):
        after = (*after, Role.STEP_OUTSIDE)
    elif outside is not None and order == "overlapped":
        # Sums are over sampled elements, and a step is of whole tensors.
        after = (Role.COMPLETE,)
    return [kernels[name] for name in (Role.INITIALIZE, Role.STEP, *after) if name in kernels]


def entry_point(kernel: Kernel, takes_step: bool) -> EntryPoint:
    """The entry point of a kernel that writes its results into the memory of states."""
    names = {str(s) for s in kernel.reads("state")}
    homes = set(map(kernel.home, kernel.stored))
    names |= homes
    # Before the first step nothing stands beside the parameter.
    moves = homes | ({PARAMETER} if kernel.reads("parameter") else set())
    beside = [
        buffer.key(name)
        for name, codec in stored(kernel.program).items()
        for buffer in codec.buffers[1:]
        if name in moves and kernel.name != Role.INITIALIZE
    ]
    used = set(kernel.reads("hyper"))
    hypers = tuple(h.name for h in kernel.program.hypers if h.name in used)
    return EntryPoint(
        kernel.name,
        (*(s.name for s in kernel.program.states if s.name in names), *beside),
        hypers,
        hypers,
        takes_step,
        tuple(r.name for r in kernel.results),
        tuple(d.name for d in kernel.dots),
        {name: home for name, home in kernel.buffers.items() if name != home},
    )


def check_backend(backend: str, program: Program, learned: Iterable[Learned]) -> None:
    """Check that a backend can run a rule, and learn some hyperparameters.

    Raises:
        OptionError: with "c" or "triton", whose kernels do not compute the norms of tangents that
            the signal "cosine" needs, nor sampled tangents with a horizon where elements have to do
            with each other, and take no largest number of a tensor; and with "triton",
            whose kernels draw no random numbers, and read and write states as they are computed.
    """
    what = "draws random numbers" if any(o.opcode in DRAWS for o in program.operations) else ""
    for name, codec in stored(program).items():
        what = f"stores {name} as {codec.name}"
    largest = _takes_extrema(program)
    if largest:
        what = "takes the largest or the smallest number of a tensor"
    if (backend == "triton" and what) or (backend == "c" and largest):
        raise OptionError(
            f'{program.name} {what}, which backend="{backend}" does not do: take backend="auto" '
            f'or "eager"'
        )
    if backend in {"c", "triton"} and gathers_traces(program):
        raise OptionError(
            f"{program.name} learns with a horizon from a sample of the elements, which "
            f'backend="{backend}" does only where elements have nothing to do with each other: '
            f'take backend="auto" or "eager", or the sample 1/1'
        )
    names = [x.hyper for x in learned if x.signal == "cosine"]
    if backend in {"c", "triton"} and names:
        raise OptionError(
            f'{names[0]} is learned by its cosine, which backend="{backend}" does not measure: '
            f'take backend="auto" or "eager", or the signal "normalized" or "sign"'
        )


def _takes_extrema(program: Program) -> bool:
    """Whether tensors that are no matrices have operations that no compiled kernel has."""
    if compiles(program):
        return False
    numbers = range(len(program.sections) or 1)
    parts = [in_kind(program, program.sections, number) for number in numbers]
    return not all(of_matrices(p.kind) or compiles(p) for p in parts)


class Backend(Protocol):
    """A way to spell kernels in some language."""

    name: str

    def plans(self, program: Program) -> tuple[Kind, ...]:
        """The kinds of plans for tangents that it supports for a program of one section."""

    def emit(
        self, kernels: Mapping[str, Kernel], dtype: str, order: str = "overlapped"
    ) -> SourceModule:
        """The source text of a rule's kernels.

        Args:
            kernels: by name, as `schedule` makes them.
            dtype: of `DTYPES`, that of the parameters.
            order: when coefficients move, which says what kernels are needed.
        """

    def spellings(self) -> frozenset[str]:
        """The operations that the backend can spell."""
