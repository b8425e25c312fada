"""The programs of a plan, made from what is kept of a step and from what is computed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from optdsl.ir.builder import Builder
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper, Program, State, Tangent, Value, upstream
from optdsl.ir.types import TENSOR, Extent
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes
from optdsl.plan.keys import pending, tangent
from optdsl.plan.rematerialization import Rematerialization

Kind = Literal["none", "live", "replay", "stored", "cut"]


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
    def computes_again(self) -> bool:
        """Whether a pending step is completed with its hyperparameters, which are noted for that.

        Tangents that are stored are what they are.
        """
        return self.kind not in {"none", "stored"}

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept between steps."""
        return self.advance.states


def planned(
    kind: Kind, program: Program, kept: Mapping[str, Value], lagging: bool, rounded: bool
) -> Plan | None:
    """The plan that keeps some values of a step; None if its tangents need others, too.

    The old parameter is computed from the new one where that is possible, and added to what is
    kept where it is needed otherwise.

    Args:
        kind: the kind of the plan.
        program: the step, with its tangents.
        kept: the values of the step that are kept beside the states of the rule, by the names of
            the states in which they are. A tangent whose state is among them is that state.
        lagging: whether the states of the rule stay as they were before the step until it is
            completed.
        rounded: whether the old parameter cannot be computed from the new one, since parameters
            are stored in less than the precision of the step.
    """
    again = Rematerialization(program)
    names = {value: name for name, value in kept.items()}
    leaves: dict[str, Value] = {}

    def keep(name: str, value: Value) -> None:
        leaves[name] = _leaf(again.builder, State(name, TENSOR, Value(0), Value(0)))
        again.alive[value] = leaves[name]

    for value, operation in ((Value(v), o) for v, o in enumerate(program.operations)):
        if lagging and operation.opcode == "state":
            again.alive[value] = again.builder.copy(operation, ())
        elif lagging and value in names:
            keep(names[value], value)
    if not lagging:
        for name, value in kept.items():
            keep(name, value)
        if kind != "stored":
            for state in program.states:
                if program.type(state.next).extent is Extent.TENSOR:
                    again.alive.setdefault(state.next, _leaf(again.builder, state))
    if kind != "stored":
        if any(
            program.type(v).extent is Extent.SCALAR for v in program.needed(program.step_values)
        ):
            # Reductions would have to be computed again, too.
            return None
        if not rounded:
            again.alive.setdefault(program.parameter, again.builder.emit("parameter"))
    advanced = program.states if lagging else ()
    roots = [*(s.next for s in advanced)]
    roots += [t.value for t in program.tangents if tangent(t.hyper) not in leaves]
    old = parameter_of(program)
    if (
        old is not None
        and old in upstream(program.operations, roots, again.alive)
        and (old not in kept.values())
    ):
        found = again.recovered(old) if recoverable(program, again, lagging, rounded) else None
        if found is None and old not in again.alive:
            kept = {**kept, pending("theta"): old}
            keep(pending("theta"), old)
        elif found is not None:
            again.alive[old] = found
    new = _from_the_old(program, again, roots) if old in kept.values() else again.values(roots)
    if new is None:
        return None
    nexts = {s.name: new[s.next] for s in advanced}
    found_tangents = [
        replace(t, value=leaves[tangent(t.hyper)] if tangent(t.hyper) in leaves else new[t.value])
        for t in program.tangents
    ]
    advance, states = _keeping(program, kept, lagging)
    return _plan(kind, advance, again, nexts, found_tangents, states)


def parameter_of(program: Program) -> Value | None:
    """The parameter before the step; None if nothing reads it."""
    opcodes = enumerate(program.operations)
    return next((Value(i) for i, o in opcodes if o.opcode == "parameter"), None)


def recoverable(program: Program, again: Rematerialization, lagging: bool, rounded: bool) -> bool:
    """Whether states allow that the old parameter is computed from the new one.

    If states are completed with it, its rounding errors would get into them.
    """
    old = parameter_of(program)
    nexts = [s.next for s in program.states] if lagging else []
    return not rounded and old not in upstream(program.operations, nexts, again.alive)


def _from_the_old(
    program: Program, again: Rematerialization, roots: Sequence[Value]
) -> dict[Value, Value] | None:
    """Values of a step whose old parameter is kept; None if one cannot be computed.

    They are not computed from the new parameter where they need not be: it is found as something
    else may have changed it between two steps. Differences between the old one, as it was, and the
    new one would change with it.
    """
    alive = again.alive
    again.alive = {value: found for value, found in alive.items() if value != program.parameter}
    new = again.values(roots)
    again.alive = alive
    return again.values(roots) if new is None else new


def _leaf(builder: Builder, state: State) -> Value:
    return builder.emit("state", attribute=state.name, type=state.type)


def _keeping(
    program: Program, kept: Mapping[str, Value], lagging: bool
) -> tuple[Program, list[State]]:
    """The step with the states that hold the values `kept`, by their names; and these states.

    If `lagging`, the step does not update its own states.
    """
    builder = Builder(program.operations)
    zero = builder.constant(0.0)
    states = [replace(s, next=_leaf(builder, s)) if lagging else s for s in program.states]
    added = [State(name, TENSOR, zero, value) for name, value in kept.items()]
    states += added
    program = replace(program, operations=builder.operations, states=tuple(states), tangents=())
    return program, added


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
