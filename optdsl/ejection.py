"""Makes a standalone file of a specification: one Python file that needs nothing but PyTorch.

The stages are those of the compiler, up to kernels; `optdsl.backends.standalone` writes the file.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from optdsl import __version__
from optdsl.backends.standalone import emit
from optdsl.backends.standalone.dispatch import BEGIN, FINISH
from optdsl.backends.standalone.reading import slug
from optdsl.backends.standalone.rule import Conditions, Part, Rule
from optdsl.classes import elaborate, elaboration_of
from optdsl.diagnostics import Source
from optdsl.elaboration import Elaboration
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Interval
from optdsl.ir.lengths import reads_taps
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Hyper, Operation, Program, Value
from optdsl.ir.types import TAPS, UNIFORM
from optdsl.learn_option import LearnOption
from optdsl.learning import blocks
from optdsl.options import OptionError, compile_options
from optdsl.passes.lengths import conditions_on_lengths, with_taps, without_conditions
from optdsl.passes.pipeline import run_passes
from optdsl.passes.rewrite import rewrite
from optdsl.passes.specialize import specialize
from optdsl.passes.totals import TOTAL, Staged, staged
from optdsl.plan import plans
from optdsl.plan.keys import is_added
from optdsl.schedule import Kernel, Result, Role, evaluating, make_kernel, schedule
from optdsl.specifications import library, sources
from optdsl.specifications.search import Paths, searching

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

# Of so many conditions on lengths a file has the rule for each combination.
_MAX_CONDITIONS = 3


def eject(
    rule: str | os.PathLike[str] | type[CompiledOptimizer],
    *,
    learn: LearnOption = False,
    order: str = "overlapped",
    store: Mapping[str, str] | None = None,
    path: Paths = None,
) -> str:
    """An optimizer as the text of one Python file that needs nothing but PyTorch.

    The file has a `torch.optim.Optimizer` class of the rule's name. It takes the steps of
    ``load(rule, backend="eager", learn=learn, order=order)``, and belongs to the user, who may
    change it.

    Args:
        rule: a name or path as of `optdsl.load`, whose options decide what the file fixes, as in
            ``"muon(ns_steps = 3)"``; or a class that `load`, `compile` or `blend` made.
        learn: what the file learns, as of `load`, or for a class True for what it learns; nothing
            by default.
        order: of a step and of what is learned from it, as of `load`.
        store: how states, or the parameters, lie in memory, as of `load`.
        path: where specifications are found, too, as of `load`.

    Returns:
        The text of the file.

    Raises:
        UnknownSpecError, SpecClashError, OSError, SpecError: as `optdsl.load`.
        OptionError: (a ValueError) for a rule that needs more than the file could bring along:
            coefficients of single tensors, say.
    """
    order = compile_options("eager", order).order
    if not isinstance(rule, type):
        with searching(path):
            source = sources.open_source(rule)
            return _ejected(source, elaborate(source, learn, store=store), order)
    found = elaboration_of(rule)
    if learn not in (True, False):
        raise OptionError(f"learn={learn!r}: {rule.__name__} says itself what it learns; give True")
    if store is not None:
        raise OptionError(f"store={store!r}: {rule.__name__} says itself how it stores")
    source = sources.from_recipe(found.recipe)
    if not learn:
        found = elaborate(source, learn=False, store=dict(found.store) or None)
    return _ejected(source, found, order)


def _ejected(source: Source, found: Elaboration, order: str) -> str:
    """The text of a standalone file.

    Args:
        source: the specification.
        found: what the front half makes of it.
        order: of steps and learning.

    Raises:
        OptionError: for a rule that needs more than the file could bring along, with the reason.
    """
    whole = _decided(found.program)
    stages = staged(whole)
    _refuse(found)
    step = stages.program if stages is not None else whole
    parts: list[Part] = []
    conditions: dict[str, Conditions] = {}
    for number in range(len(step.sections) or 1):
        own, divided = _of_section(step, stages, number)
        parts += own
        if divided is not None:
            conditions[own[0].kind] = divided
    if len(parts) == 1:
        parts = [replace(parts[0], name="")]
    rule = Rule(
        program=whole,
        parts=tuple(parts),
        conditions=conditions,
        totals=stages.totals if stages is not None else (),
        shared=stages.shared if stages is not None else (),
        shared_kernels=_shared(stages),
        origin=_origin(source, whole),
        version=__version__,
        read_by_shared=stages.read_by_shared() if stages is not None else (),
        fixed=_fixed(source, found),
        inputs=stages.inputs if stages is not None else (),
        required=stages.required if stages is not None else (),
        blocks=blocks(found.coefficients, whole),
        order=order,
    )
    return emit(rule)


def _origin(source: Source, program: Program) -> str:
    """The specification by its name, or that of its file."""
    if source.name.startswith("<"):
        return program.name
    return os.path.basename(source.name).removesuffix(".opt")


def _fixed(source: Source, found: Elaboration) -> tuple[str, ...]:
    """What the specification learns, and the file does not."""
    own = {x.hyper for x in found.learned}
    return tuple(x.hyper for x in library.read(source).learned if x.hyper not in own)


def _decided(program: Program) -> Program:
    """A program in which hyperparameters that have decided its operations are numbers."""
    structure = dict(program.structure)

    def number(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode != "hyper" or operation.attribute not in structure:
            return None
        return builder.constant(structure[str(operation.attribute)])

    return rewrite(program, number) if structure else program


def _refuse(found: Elaboration) -> None:
    """Refuse what a standalone file cannot do.

    Raises:
        OptionError: with the reason and what to do.
    """
    reason = ""
    for coefficient in found.coefficients:
        if coefficient.learned.scope == "tensor":
            reason = f"learns {coefficient.name} for each tensor, and a file for groups at most"
    if found.program.sample > 1:
        reason = "learns from a sample of the elements, and a file from all of them"
    if any(x.horizon for x in found.program.learned):
        reason = "learns with a horizon, and a file from the last step alone"
    if any(TABLE[o.opcode].combined == "max" for o in found.program.operations):
        reason = "takes the largest number of all tensors, which such a file does not do"
    if reason:
        raise OptionError(
            f"{found.program.name} cannot be ejected, since it {reason}; use it with optdsl.load"
        )


def _of_section(
    step: Program, stages: Staged | None, number: int
) -> tuple[list[Part], Conditions | None]:
    """The parts for the tensors of a section, and the conditions that tell them apart."""
    program = _specialized(step, number)
    kind = program.kind if step.sections else ""
    name = f"_{slug(kind)}" if kind else ""
    conditions = conditions_on_lengths(program)
    if len(conditions) > _MAX_CONDITIONS:
        raise OptionError(
            f"{program.name} cannot be ejected, since {len(conditions)} conditions on lengths "
            f"divide its {kind}, of which a file has {_MAX_CONDITIONS} at most; use it with "
            f"optdsl.load"
        )
    measures = _measures(stages, number)
    if not conditions:
        return [_part(name, kind, program, measures)], None
    parts = []
    for holds in itertools.product((True, False), repeat=len(conditions)):
        own = run_passes(without_conditions(program, conditions, holds))
        ending = "".join(str(int(x)) for x in holds)
        part = _part(f"{name}_{ending}", kind, own, measures)
        parts.append(replace(part, holds=holds))
    return parts, Conditions(program, conditions)


def _specialized(step: Program, number: int) -> Program:
    return run_passes(replace(specialize(step, number), structure=()))


def _given_taps(program: Program) -> Program:
    """A program that is given the number of positions of a kernel as it is its hyperparameters."""
    if not reads_taps(program):
        return program
    given = Hyper(TAPS, 1.0, Interval(1.0, math.inf, whole=True))
    found = with_taps(program, lambda builder: builder.emit("hyper", attribute=TAPS, hint=TAPS))
    return replace(found, hypers=(*found.hypers, given))


def _part(name: str, kind: str, program: Program, measures: tuple[Kernel | None, ...]) -> Part:
    program = _given_taps(program)
    (plan,) = plans(program, rounded=False, kinds=("stored",))
    kernels: Mapping[str, Kernel] = schedule(plan)
    if program.points:
        kernels = {**kernels, **evaluating(program)}
    if plan.kept:
        # The derivatives of a step are there after it.
        program = plan.advance
        first = tuple(
            Result(s.name, s.initial, s.type) for s in program.states if not is_added(s.name)
        )
        kernels = {**kernels, Role.INITIALIZE: make_kernel(Role.INITIALIZE, program, first)}
    begun = kernels[Role.INITIALIZE].reads("hyper")
    early = any(s.input for s in program.states)
    early = early or any(m is not None and m.reads("state") for m in measures)
    if early and any(str(n).startswith(TOTAL) for n in begun):
        raise OptionError(
            f"{program.name} cannot be ejected, since its states start at sums over all tensors, "
            f"and states are needed to measure them; use it with optdsl.load"
        )
    kept = {s.name for s in program.states}
    if any(m is not None and not kept.issuperset(m.reads("state")) for m in measures):
        raise OptionError(
            f"{program.name} cannot be ejected, since it sums states over all tensors that not all "
            f"{kind} have; use it with optdsl.load"
        )
    return Part(name, kind, program, kernels, measures)


def _measures(stages: Staged | None, number: int) -> tuple[Kernel | None, ...]:
    """For each stage, what measures a section's part of its totals."""
    found: list[Kernel | None] = []
    for level, measure in enumerate(stages.measures if stages is not None else ()):
        program = _given_taps(_specialized(measure, number))
        totals = [s for s in program.states if s.name.startswith(TOTAL)]
        results = tuple(Result(s.name, s.next, s.type) for s in totals)
        kernel = make_kernel(f"measure_{level}", program, results) if totals else None
        found.append(kernel)
    return tuple(found)


def _shared(stages: Staged | None) -> tuple[Kernel, ...]:
    """What computes the numbers that all tensors share: before the first step, and after one."""
    if stages is None or not stages.shared:
        return ()
    program = stages.program
    first = tuple(Result(s.name, s.initial, UNIFORM) for s in stages.shared)
    after = tuple(Result(s.name, s.next, UNIFORM) for s in stages.shared)
    return make_kernel(BEGIN, program, first), make_kernel(FINISH, program, after)
