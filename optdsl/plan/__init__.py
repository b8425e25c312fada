"""Plans: how hyper-gradients are computed along with steps, and what is kept for that.

A hyper-gradient is the dot product of the tangent of step t with the gradient of step t+1. There
are three ways to have the tangent when that gradient is known:

- live: the tangent is computed from the states and the parameter after step t.
- replay: the states lag by one step, and the gradient is kept; step t is computed again, this time
  with its tangents, when step t+1 is taken.
- stored: the tangents themselves are kept, in one state each.

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from optdsl.ir.builder import Builder
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper, Program, State, Tangent, Value, upstream
from optdsl.ir.types import TENSOR, Extent
from optdsl.ir.verify import verify
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.pipeline import run_passes
from optdsl.plan.keys import pending, tangent
from optdsl.plan.rematerialization import Rematerialization
from optdsl.plan.sampling import elementwise, plain

__all__ = ["KINDS", "Kind", "Plan", "completing", "elementwise", "plans"]

Kind = Literal["none", "live", "replay", "stored"]
KINDS: tuple[Kind, ...] = ("live", "stored", "replay")


@dataclass(frozen=True)
class Plan:
    """The programs that run, all on the same states.

    Attributes:
        kind: how tangents are computed; "none" if nothing is learned.
        advance: takes a step.
        complete: computes the tangents of the pending step, and completes its states; it does not
            change the parameter.
        fused: `complete`, then `advance`; the hyperparameters of the pending step have names of
            their own (see `pending`).
        kept: the states that the plan adds to those of the rule; they start at zero.
        hypers: the hyperparameters of a pending step that `complete` reads, "t" included.
        sample: hyper-gradients are estimated from one in so many elements of large tensors.
        outside: the step of elements that are not sampled, on the states of the rule; None where
            every element is.
        squared: whether the squared norm of the gradient is measured with hyper-gradients.
    """

    kind: Kind
    advance: Program
    complete: Program | None = None
    fused: Program | None = None
    kept: tuple[str, ...] = ()
    hypers: tuple[str, ...] = ()
    sample: int = 1
    outside: Program | None = None
    squared: bool = False

    @cached_property
    def traces(self) -> frozenset[str]:
        """The kept states that a step reads: tangents with a horizon."""
        operations = self.advance.operations
        read = {str(o.attribute) for o in operations if o.opcode == "state"}
        return frozenset(self.kept) & read if self.kind == "stored" else frozenset()

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept between steps."""
        return self.advance.states


def plans(program: Program, rounded: bool, kinds: Iterable[Kind] = KINDS) -> tuple[Plan, ...]:
    """The plans that are possible for a differentiated program, in the order of `kinds`.

    From a sample, only steps by element are computed again; tangents with a horizon are stored.

    Args:
        program: a program with its tangents.
        rounded: whether the parameter is stored in less than the precision of the step, so that
            the old parameter cannot be computed from the new one.
        kinds: the kinds to consider; "stored" is always possible.
    """
    program = _steps(program)
    if not program.tangents:
        return (Plan("none", program),)
    makers = {"live": _live, "replay": _replay, "stored": _stored}
    traced = any(x.horizon for x in program.learned)
    if traced or (program.sample > 1 and not elementwise(program)):
        # Neither could be computed again: what earlier steps have left, a step of some elements.
        kinds = [kind for kind in kinds if kind == "stored"]
    made = (makers[kind](program, rounded) for kind in kinds)
    squared = any(x.signal == "normalized" for x in program.learned)
    found = tuple(replace(plan, squared=squared) for plan in made if plan is not None)
    if program.sample == 1:
        return found
    outside = plain(program)
    return tuple(replace(plan, sample=program.sample, outside=outside) for plan in found)


def completing(program: Program, kept: Iterable[str]) -> Plan | None:
    """The plan that completes lagging states, of which `kept` were added; None if that is too few.

    It completes states of an optimizer that learned other hyperparameters than `program` does, if
    that learns any.
    """
    program, held = _steps(program), set(kept)
    # The old parameter was kept only if it could not be computed from the new one.
    for rounded in (True, False) if pending("theta") in held else (False, True):
        plan = _replay(program, rounded)
        if plan is not None and set(plan.kept) <= held:
            return plan
    return None


def _steps(program: Program) -> Program:
    """The program without its point of evaluation, which is no part of a step."""
    if program.evaluation is None:
        return program
    return eliminate_dead(replace(program, evaluation=None))


def _stored(program: Program, rounded: bool) -> Plan:
    builder = Builder(program.operations)
    zero = builder.constant(0.0)
    horizons = {x.hyper: x.horizon for x in program.learned}
    tangents = []
    for each in program.tangents:
        name, value = tangent(each.hyper), each.value
        if horizons.get(each.hyper):
            before = builder.emit("state", attribute=name, type=TENSOR)
            kept = builder.emit("mul", builder.constant(horizons[each.hyper]), before)
            value = builder.emit("add", kept, value)
        tangents.append(State(name, TENSOR, zero, value))
    states = (*program.states, *tangents)
    advance = replace(program, operations=builder.operations, states=states, tangents=())
    again = Rematerialization(program)
    both = zip(program.tangents, tangents, strict=True)
    stored = [replace(t, value=_leaf(again.builder, s)) for t, s in both]
    return _plan("stored", advance, again, {}, stored, tangents)


def _live(program: Program, rounded: bool) -> Plan | None:
    again = Rematerialization(program)
    for state in program.states:
        if program.type(state.next).extent is Extent.TENSOR:
            again.alive.setdefault(state.next, _leaf(again.builder, state))
    if not rounded:
        again.alive.setdefault(program.parameter, again.builder.emit("parameter"))
    return _planned("live", again, (), [], rounded)


def _replay(program: Program, rounded: bool) -> Plan | None:
    again = Rematerialization(program)
    gradient = State(pending("g"), TENSOR, Value(0), Value(0))
    for value, operation in enumerate(program.operations):
        if operation.opcode == "gradient":
            again.alive[Value(value)] = _leaf(again.builder, gradient)
        elif operation.opcode == "state":
            again.alive[Value(value)] = again.builder.copy(operation, ())
    if not rounded:
        again.alive.setdefault(program.parameter, again.builder.emit("parameter"))
    return _planned("replay", again, program.states, [gradient], rounded)


def _planned(
    kind: Kind,
    again: Rematerialization,
    advanced: Sequence[State],
    kept: list[State],
    rounded: bool,
) -> Plan | None:
    """A plan that computes a step again from the values that `again` has; None if it has too few.

    Args:
        kind: the kind of the plan.
        again: the step that is computed again.
        advanced: the states that lag, and are completed when the step is completed.
        kept: states that are added.
        rounded: as for `plans`.
    """
    program = again.program
    if any(program.type(v).extent is Extent.SCALAR for v in program.needed(program.step_values)):
        # Reductions would have to be computed again, too.
        return None
    roots = (*(s.next for s in advanced), *(t.value for t in program.tangents))
    old = next(
        (Value(i) for i, o in enumerate(program.operations) if o.opcode == "parameter"), None
    )
    if old is not None and old in upstream(program.operations, roots, again.alive):
        states_move = old in upstream(program.operations, [s.next for s in advanced], again.alive)
        found = None if rounded or states_move else again.recovered(old)
        if found is None and old not in again.alive:
            kept = [*kept, State(pending("theta"), TENSOR, Value(0), Value(0))]
            found = _leaf(again.builder, kept[-1])
        if found is not None:
            again.alive[old] = found
    new = again.values(roots)
    if new is None:
        return None
    advance = _keeping(program, kept, lagging=bool(advanced))
    nexts = {s.name: new[s.next] for s in advanced}
    tangents = [replace(t, value=new[t.value]) for t in program.tangents]
    return _plan(kind, advance, again, nexts, tangents, kept)


def _leaf(builder: Builder, state: State) -> Value:
    return builder.emit("state", attribute=state.name, type=state.type)


def _keeping(program: Program, kept: Sequence[State], lagging: bool) -> Program:
    """The step with the states `kept` added, which hold its gradient and its old parameter.

    If `lagging`, the step does not update its own states.
    """
    builder = Builder(program.operations)
    zero = builder.constant(0.0)
    leaves = {pending("g"): "gradient", pending("theta"): "parameter"}
    states = [replace(s, next=_leaf(builder, s)) if lagging else s for s in program.states]
    states += [replace(s, initial=zero, next=builder.emit(leaves[s.name])) for s in kept]
    return replace(program, operations=builder.operations, states=tuple(states), tangents=())


def _plan(
    kind: Kind,
    advance: Program,
    again: Rematerialization,
    nexts: dict[str, Value],
    tangents: Sequence[Tangent],
    kept: Sequence[State],
) -> Plan:
    """The plan of a step, whose completion gives the states `nexts` and the tangents."""
    builder = again.builder
    lengths = [length for _, length in advance.axes]
    starting = builder.copied(advance, (*advance.initial_values, *lengths), {})
    read = [str(o.attribute) for o in builder.operations if o.opcode == "hyper"]
    steps = Interval(1.0, float("inf"), False, True)
    own = [Hyper("t", 1.0, steps), *advance.hypers]
    renamed = {h.name: replace(h, name=pending(h.name)) for h in own if pending(h.name) in read}
    complete = replace(
        advance,
        learned=(),
        hypers=(*advance.hypers, *renamed.values()),
        states=tuple(
            replace(s, initial=starting[s.initial], next=nexts.get(s.name, _leaf(builder, s)))
            for s in advance.states
        ),
        parameter=builder.emit("parameter"),
        tangents=tuple(tangents),
        axes=tuple((name, starting[length]) for name, length in advance.axes),
    )
    complete = run_passes(verify(replace(complete, operations=builder.operations)))
    advance = run_passes(verify(replace(advance, learned=())))
    fused = run_passes(verify(_fused(complete, advance)))
    return Plan(kind, advance, complete, fused, tuple(s.name for s in kept), tuple(renamed))


def _fused(complete: Program, advance: Program) -> Program:
    """The program that does what `complete` does, and then what `advance` does."""
    builder = Builder(complete.operations)
    completed = {s.name: s.next for s in complete.states}
    reads = ((Value(v), o) for v, o in enumerate(advance.operations) if o.opcode == "state")
    bound = {value: completed[str(operation.attribute)] for value, operation in reads}
    new = builder.copied(advance, (*advance.step_values, *(v for _, v in advance.axes)), bound)
    both = zip(advance.states, complete.states, strict=True)
    states = tuple(replace(s, initial=own.initial, next=new[s.next]) for s, own in both)
    parameter, operations = new[advance.parameter], builder.operations
    # Completing a step may need fewer axes than the step itself.
    lengths = {name: new[length] for name, length in advance.axes} | dict(complete.axes)
    changed = replace(complete, states=states, parameter=parameter, axes=tuple(lengths.items()))
    return replace(changed, operations=operations)
