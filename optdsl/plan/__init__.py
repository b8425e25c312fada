"""How a step and the hyper-gradients of the step before fit together, and what is kept for it.

A hyper-gradient needs the tangent of step t when the gradient of step t+1 is known. There are
three ways to have it then, each a pair of ordinary programs on one set of states:

- live: what is alive after step t determines the tangent; it is computed from that.
- replay: the states lag by one step and the gradient is kept; step t is done again, this time
  with its tangents, while step t+1 is taken.
- stored: the tangents themselves are kept, one state each.

`complete` evaluates the tangents of the pending step and completes its states; `advance` takes a
step and leaves it pending; `fused` is one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optdsl.ir.builder import Builder
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper, Program, State, Tangent, Value, upstream
from optdsl.ir.types import TENSOR, Extent
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes
from optdsl.plan.keys import pending, tangent
from optdsl.plan.rematerialization import Rematerialization

__all__ = ["KINDS", "Kind", "Plan", "completing", "plans"]

Kind = Literal["none", "live", "replay", "stored"]
KINDS: tuple[Kind, ...] = ("live", "stored", "replay")


@dataclass(frozen=True)
class Plan:
    """The programs that run, all on the same states.

    Attributes:
        kind: how tangents are had; "none" when nothing is learned.
        advance: a step.
        complete: the tangents of the pending step, and its states completed; the parameter stays.
        fused: `complete`, then `advance`; the pending step's hyperparameters have names of their
            own (see `pending`).
        kept: the states that no rule declares, for what a pending step needs.
        hypers: the hyperparameters of a pending step that `complete` reads, "t" included.
    """

    kind: Kind
    advance: Program
    complete: Program | None = None
    fused: Program | None = None
    kept: tuple[str, ...] = ()
    hypers: tuple[str, ...] = ()

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept between steps."""
        return self.advance.states


def plans(program: Program, rounded: bool, kinds: Iterable[Kind] = KINDS) -> tuple[Plan, ...]:
    """The plans that there are for a differentiated program, in the order of `kinds`.

    Args:
        program: with its tangents.
        rounded: whether the parameter is stored in less than the precision of the step, so that
            what it was cannot be found from what it is.
        kinds: which to consider; "stored" is always possible.
    """
    if not program.tangents:
        return (Plan("none", program),)
    makers: dict[Kind, Callable[[Program, bool], Plan | None]] = {
        "live": _live,
        "replay": _replay,
        "stored": _stored,
    }
    found = (makers[kind](program, rounded) for kind in kinds)
    return tuple(plan for plan in found if plan is not None)


def completing(program: Program, kept: Iterable[str]) -> Plan | None:
    """The plan that completes a state which lags and holds `kept`; None where that is too little.

    It is for states of an optimizer that learned something else, or learned at all: the tangents
    are those of `program`, if any, and what they do not need is not looked at.
    """
    held = set(kept)
    # Where the old parameter was kept, it cannot be found from the new one.
    for rounded in (True, False) if pending("theta") in held else (False, True):
        plan = _replay(program, rounded)
        if plan is not None and set(plan.kept) <= held:
            return plan
    return None


def _stored(program: Program, rounded: bool) -> Plan:
    builder = _copied(program)
    zero = builder.constant(0.0)
    tangents = [State(tangent(t.hyper), TENSOR, zero, t.value) for t in program.tangents]
    advance = replace(
        program, operations=builder.operations, states=(*program.states, *tangents), tangents=()
    )
    again = Rematerialization(program)
    pairs = [(t.hyper, _leaf(again.builder, s)) for t, s in zip(program.tangents, tangents,
                                                                 strict=True)]  # fmt: skip
    return _plan("stored", advance, again, {}, pairs, tuple(s.name for s in tangents))


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
    """The plan that does a step again from what `again` has of it; None where that is too little.

    Args:
        kind: its kind.
        again: the step, done again.
        advanced: the states that lag, and are completed when the step is completed.
        kept: states for what else is needed.
        rounded: as of `plans`.
    """
    program = again.program
    if any(program.type(v).extent is Extent.SCALAR for v in program.needed(program.step_values)):
        # What is one number a tensor would have to be found again, too.
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
    pairs = [(t.hyper, new[t.value]) for t in program.tangents]
    return _plan(kind, advance, again, nexts, pairs, tuple(s.name for s in kept))


def _copied(program: Program) -> Builder:
    builder = Builder()
    for operation in program.operations:
        builder.append(operation)
    return builder


def _leaf(builder: Builder, state: State) -> Value:
    return builder.emit("state", attribute=state.name, type=state.type)


def _keeping(program: Program, kept: Sequence[State], lagging: bool) -> Program:
    """The step, which also keeps what it will need when it is pending.

    If `lagging`, it takes the states as they are and leaves them so: they lag from then on.
    """
    builder = _copied(program)
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
    tangents: Sequence[tuple[str, Value]],
    kept: tuple[str, ...],
) -> Plan:
    """The plan of a step and of what completes it: new states by name, and tangents."""
    builder = again.builder
    starting = builder.copied(advance, advance.initial_values, {})
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
        tangents=tuple(Tangent(hyper, value) for hyper, value in tangents),
        operations=(),
    )
    complete = run_passes(verify(replace(complete, operations=builder.operations)))
    advance = run_passes(verify(replace(advance, learned=())))
    fused = run_passes(verify(_fused(complete, advance)))
    return Plan(kind, advance, complete, fused, kept, tuple(renamed))


def _fused(complete: Program, advance: Program) -> Program:
    """One program that does what `complete` does and then what `advance` does."""
    builder = _copied(complete)
    completed = {s.name: s.next for s in complete.states}
    bound = {
        Value(v): completed[str(o.attribute)]
        for v, o in enumerate(advance.operations)
        if o.opcode == "state"
    }
    new = builder.copied(advance, advance.step_values, bound)
    states = (
        replace(s, initial=own.initial, next=new[s.next])
        for s, own in zip(advance.states, complete.states, strict=True)
    )
    return replace(
        complete,
        states=tuple(states),
        parameter=new[advance.parameter],
        operations=builder.operations,
    )
