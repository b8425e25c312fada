"""Plans: how hyper-gradients are computed along with steps, and what is kept for that.

A hyper-gradient is the dot product of the tangent of step t with the gradient of step t+1. When
that gradient is known, the tangent is computed from what is kept of step t, or has been kept
itself. What a plan keeps is a cut through the program of the step, between what the step starts
from and what it gives: the tangents and the new states. Some cuts have names:

- live: the tangent is computed from the states and the parameter after step t.
- replay: the states lag by one step, and the gradient is kept; step t is computed again, this time
  with its tangents, when step t+1 is taken.
- stored: the tangents themselves are kept, in one state each.
- cut: like live or replay, and values of the step are kept that would be expensive to compute
  again, or that could not be computed again; `optdsl.plan.cut` finds which.

Until its tangents have been used, a step is called pending. A plan is a pair of programs on the
same states: `complete` computes the tangents of the pending step, and completes its states;
`advance` takes a step and leaves it pending. `fused` does both, one after the other.

A tangent may have a horizon: then those of earlier steps are not dropped but decay
(`optdsl.ir.program.Learned.horizon`), so that a step reads the tangents that it finds. Such
tangents are stored, with all others of the rule.

Where hyper-gradients are estimated from a sample of the elements, these programs are for the
sampled elements, of which alone something is kept for a pending step; all others take the step
`outside`, which leaves nothing pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.program import Program, Value
from optdsl.ir.types import TENSOR
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.plan import cut
from optdsl.plan.keys import pending, tangent
from optdsl.plan.programs import Kind, Plan, planned
from optdsl.plan.sampling import elementwise, plain

__all__ = ["KINDS", "Kind", "Plan", "completing", "cuts", "elementwise", "plans"]

KINDS: tuple[Kind, ...] = ("live", "stored", "replay")


def plans(program: Program, rounded: bool, kinds: Iterable[Kind] = KINDS) -> tuple[Plan, ...]:
    """The plans with names that are possible for a differentiated program, in the order of `kinds`.

    From a sample, only steps by element are computed again; tangents with a horizon are stored.

    Args:
        program: a program with its tangents.
        rounded: whether the parameter is stored in less than the precision of the step, so that
            the old parameter cannot be computed from the new one.
        kinds: the kinds to consider, of `KINDS`; "stored" is always possible.
    """
    program = _steps(program)
    if not program.tangents:
        return (Plan("none", program),)
    if not _again(program):
        kinds = [kind for kind in kinds if kind == "stored"]
    return _sampled(program, (_named(kind, program, rounded) for kind in kinds))


def cuts(program: Program, rounded: bool) -> tuple[Plan, ...]:
    """Plans that keep more than `plans` would and compute less again; none where none can.

    Args, samples: as of `plans`.
    """
    program = _steps(program)
    if not program.tangents or not _again(program):
        return ()
    made: list[Plan | None] = []
    for lagging in (False, True):
        step, start = _gradient_kept(program) if lagging else (program, {})
        for kept in cut.choices(step, start, lagging, rounded):
            made.append(planned("cut", step, kept, lagging, rounded))
    return _sampled(program, made)


def _again(program: Program) -> bool:
    """Whether a step can be computed again: what earlier steps left and some elements' cannot."""
    traced = any(x.horizon for x in program.learned)
    return not traced and (program.sample == 1 or elementwise(program))


def _sampled(program: Program, made: Iterable[Plan | None]) -> tuple[Plan, ...]:
    """The plans that are possible, for the elements from which hyper-gradients are estimated."""
    squared = any(x.signal == "normalized" for x in program.learned)
    found = tuple(replace(plan, squared=squared) for plan in made if plan is not None)
    if program.sample == 1:
        return found
    outside = plain(program)
    return tuple(replace(plan, sample=program.sample, outside=outside) for plan in found)


def _named(kind: Kind, program: Program, rounded: bool) -> Plan | None:
    """The plan of a kind that has a name."""
    if kind == "live":
        return planned(kind, program, {}, False, rounded)
    if kind == "replay":
        return planned(kind, *_gradient_kept(program), True, rounded)
    return planned(kind, *_tangents_kept(program), False, rounded)


def _tangents_kept(program: Program) -> tuple[Program, dict[str, Value]]:
    """A program whose tangents include what decays of earlier ones, and these as what is kept."""
    builder = Builder(program.operations)
    builder.constant(0.0)
    horizons = {x.hyper: x.horizon for x in program.learned}
    kept: dict[str, Value] = {}
    for each in program.tangents:
        name, value = tangent(each.hyper), each.value
        if horizons.get(each.hyper):
            before = builder.emit("state", attribute=name, type=TENSOR)
            left = builder.emit("mul", builder.constant(horizons[each.hyper]), before)
            value = builder.emit("add", left, value)
        kept[name] = value
    return replace(program, operations=builder.operations), kept


def _gradient_kept(program: Program) -> tuple[Program, dict[str, Value]]:
    """A program that reads its gradient, and the gradient as what is kept."""
    builder = Builder(program.operations)
    gradient = builder.emit("gradient")
    return replace(program, operations=builder.operations), {pending("g"): gradient}


def completing(program: Program, kept: Iterable[str]) -> Plan | None:
    """The plan that completes a pending step of which `kept` is there; None if that is too few.

    It may be a step of an optimizer that learned other hyperparameters than `program` does, if
    that learns any. The states of the rule lag if the gradient is kept under its name.
    """
    held = set(kept)
    program, lagging = _steps(program), pending("g") in held
    step, found = _gradient_kept(program) if lagging else (program, {})
    names = cut.names(step) if any(map(cut.is_name, held)) else {}
    more = {name: value for value, name in names.items() if name in held}
    # The old parameter was kept only if it could not be computed from the new one.
    for rounded in (True, False) if pending("theta") in held else (False, True):
        plan = planned(
            "cut" if more else "replay" if lagging else "live",
            step,
            {**found, **more},
            lagging,
            rounded,
        )
        if plan is not None and set(plan.kept) <= held:
            return plan
    return None


def _steps(program: Program) -> Program:
    """The program without its point of evaluation, which is no part of a step."""
    if program.evaluation is None:
        return program
    return eliminate_dead(replace(program, evaluation=None))
