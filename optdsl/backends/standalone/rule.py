"""What the standalone target emits: a rule with its kernels for each kind of tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.emitted import EmittedFunction
from optdsl.backends.standalone.grouped import emit_grouped
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, State, Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.stacks import stackable
from optdsl.ir.storage import CODECS, draws, stored
from optdsl.ir.types import TAPS
from optdsl.learning import Block
from optdsl.schedule import Kernel, Role


@dataclass(frozen=True)
class Part:
    """The rule for tensors of one kind, and of lengths for which some conditions hold.

    Attributes:
        name: ends the names of its functions; empty where there is one part only.
        kind: the kind of section; empty for a rule without sections.
        program: the rule for such tensors.
        kernels: its kernels by role.
        measures: for each stage of a step, what measures its part of totals; None if it has none.
        holds: which of the conditions on lengths hold, in order.
    """

    name: str
    kind: str
    program: Program
    kernels: Mapping[str, Kernel]
    measures: tuple[Kernel | None, ...] = ()
    holds: tuple[bool, ...] = ()

    @property
    def reads_taps(self) -> bool:
        """Whether its functions are given the number of positions of a tensor's kernel."""
        return any(h.name == TAPS for h in self.program.hypers)

    @property
    def widens(self) -> bool:
        """Whether the parameter has more precision than its dtype, by what is kept beside it."""
        codec = self.program.codec
        return bool(codec) and len(CODECS[codec].buffers) > 1


@dataclass(frozen=True)
class Conditions:
    """The conditions on lengths that divide the tensors of one kind.

    Attributes:
        program: the rule for the kind, before it is divided.
        values: the conditions.
    """

    program: Program
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Rule:
    """A rule as it is ejected.

    Attributes:
        program: the whole rule; in a rule with stages, totals are hyperparameters of it.
        parts: the rule for each kind of tensor.
        conditions: the conditions on lengths by kind, of kinds that have any.
        totals: for each stage of a step, the names of the totals that are measured before it.
        shared: the states that all tensors share.
        shared_kernels: what computes their values before the first step, and after a step.
        read_by_shared: the hyperparameters on which the shared states depend.
        origin: the specification, as a user would name it.
        version: of this package.
        fixed: the hyperparameters that the specification learns, and this file keeps fixed.
        inputs: the names of the rule's inputs, which are states that are set before a step.
        required: those of them that every step needs.
        blocks: the coefficients that the file learns.
        order: whether coefficients move before the step that measures them ("exact") or after it.
    """

    program: Program
    parts: tuple[Part, ...]
    conditions: Mapping[str, Conditions]
    totals: tuple[tuple[str, ...], ...]
    shared: tuple[State, ...]
    shared_kernels: tuple[Kernel, ...]
    origin: str
    version: str
    read_by_shared: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    order: str = "overlapped"

    @cached_property
    def grouped(self) -> dict[str, EmittedFunction]:
        """The steps of parts that are spelled for many tensors at once, by the parts' names."""
        plain = [p for p in self.parts if not (stored(p.program) or p.reads_taps)]
        found = {p.name: emit_grouped(p.kernels[Role.STEP], f"step{p.name}") for p in plain}
        return {name: function for name, function in found.items() if function is not None}

    @cached_property
    def batched(self) -> set[str]:
        """The names of parts of which small tensors of equal shapes are stepped as one batch."""
        # A stack does not have the shape of its tensors, of which the kernel is a part.
        others = [p for p in self.parts if p.name not in self.grouped and not p.reads_taps]
        return {part.name for part in others if stackable(part.program)}

    @property
    def gathers(self) -> bool:
        """Whether one call steps all tensors that are alike."""
        return bool(self.grouped or self.batched)

    @property
    def wholes(self) -> bool:
        """Whether steps look at whole tensors, and not at each element by itself."""
        programs = (part.program for part in self.parts)
        stages = {TABLE[o.opcode].stage for program in programs for o in program.operations}
        kinds = any(of_matrices(part.kind) for part in self.parts)
        more = bool(self.totals or self.blocks) or self.draws
        return kinds or more or any(s.mixes or s.of_matrices for s in stages)

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return draws(self.program)

    @property
    def widens(self) -> bool:
        """See `Part.widens`."""
        return any(part.widens for part in self.parts)

    @property
    def evaluates(self) -> bool:
        """Whether the model is evaluated at a point of the rule's own."""
        return any("evaluate" in part.kernels for part in self.parts)
