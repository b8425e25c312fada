"""States that are always equal become one.

Two states are one buffer when their initial values and their recurrences are the same operations of
the same things, so that every bit is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from optdsl.algebra.fix import live_states
from optdsl.ir.builder import Builder
from optdsl.ir.numbering import coarsest
from optdsl.ir.program import Operation, Program, State, Value
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite

# The class of each state, by the state's name.
Partition = Mapping[str, int]


def partition(program: Program, names: Mapping[str, str] | None = None) -> Partition:
    """The coarsest partition into states that are always equal; for `names` see `identities`."""
    initial = identities(program, {s.name: 0 for s in program.states}, program.initial_values)

    def named(classes: list[int]) -> Partition:
        return {s.name: c for s, c in zip(program.states, classes, strict=True)}

    def after(classes: list[int]) -> list[Value]:
        return identities(program, named(classes), [s.next for s in program.states], names)

    start = ((s.type, i) for s, i in zip(program.states, initial, strict=True))
    found = coarsest(start, after)
    assert found is not None
    return named(found)


def partition_by_name(program: Program) -> Partition:
    """The coarsest partition into states that stay equal whatever a blend of this one redefines."""
    return partition(program, _settled(program, lambda names: partition(program, names)))


def identities(
    program: Program,
    classes: Partition,
    roots: Sequence[Value],
    names: Mapping[str, str] | None = None,
) -> list[Value]:
    """Numbers for some values, the same for those that are the same operation of equal things.

    States of one class are equal, and so is a value under two names; unless `names` are given, as
    which a blend of this one will know the equations, and which count.
    """
    builder = Builder()
    new: list[Value] = []
    for operation in program.operations:
        arguments = tuple(new[a] for a in operation.arguments)
        name = str(operation.attribute)
        match operation.opcode:
            case "define" if names is None:
                new.append(arguments[0])
                continue
            case "define" if names is not None:
                operation = replace(operation, attribute=names.get(name, name))
            case "state":
                operation = replace(operation, attribute=str(classes[name]))
        new.append(builder.copy(operation, arguments))
    return [new[r] for r in roots]


def merge_states(program: Program, by_name: bool = False) -> Program:
    """The program with one state for each class, under readable names, dead ones left out.

    With `by_name`, only states stay one that do so whatever a blend of this one redefines.
    """
    classes = partition_by_name(program) if by_name else partition(program)
    whole: dict[int, list[State]] = defaultdict(list)
    for state in program.states:
        whole[classes[state.name]].append(state)
    program = eliminate_dead(live_states(program))
    alive = {classes[s.name] for s in program.states}
    blocks = {c: states for c, states in whole.items() if c in alive}
    names = _names(blocks, program)
    plain = _settled(program, lambda names: classes)
    hints = _hints(_meanings(program, classes)) | {
        f"{state.name}'": f"{names[c]}'" for c, states in blocks.items() for state in states
    }

    def rule(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode == "state":
            name = names[classes[str(operation.attribute)]]
            return builder.emit("state", attribute=name, type=operation.type, hint=name)
        if operation.opcode == "define":
            name = str(operation.attribute)
            renamed = replace(operation, attribute=plain.get(name, name))
            return builder.copy(replace(renamed, hint=hints.get(name, operation.hint)), x)
        return None

    states: list[State] = []
    for state in program.states:
        c = classes[state.name]
        if all(s.name != names[c] for s in states):
            origins = tuple(o for s in blocks[c] for o in s.origins)
            states.append(replace(state, name=names[c], origins=origins))
    return eliminate_dead(rewrite(replace(program, states=tuple(states)), rule))


def _names(blocks: Mapping[int, Sequence[State]], program: Program) -> dict[int, str]:
    """A name for each class: the states' own, with a member's name where several classes want it.

    Of those, one that several members share keeps the plain name, if there is no other such one.
    """
    wanted: dict[str, list[int]] = defaultdict(list)
    for c, block in blocks.items():
        wanted[_plain(block[0].name)].append(c)
    names: dict[int, str] = {}
    taken = {h.name for h in program.hypers}
    for plain, claims in wanted.items():
        shared = [c for c in claims if len(blocks[c]) > 1]
        for c in claims:
            member = blocks[c][0].name.partition(".")[0].lower()
            own = len(claims) == 1 or shared == [c]
            name = fresh(plain if own else f"{plain}_{member}", taken)
            taken.add(name)
            names[c] = name
    return names


def fresh(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken."""
    number = 1
    found = name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _plain(name: str) -> str:
    return name.rpartition(".")[2]


def _meanings(
    program: Program, classes: Partition, names: Mapping[str, str] | None = None
) -> dict[str, Value]:
    """What each equation computes, as a number that equal ones share; see `identities`."""
    defined = program.equations
    values = identities(program, classes, list(defined.values()), names)
    return dict(zip(defined, values, strict=True))


def _candidates(program: Program) -> dict[str, str]:
    """The members' equations that may be the blend's under a plain name: no slot has it."""
    names = program.equations
    return {n: _plain(n) for n in names if n.count(".") == 1 and _plain(n) not in names}


def _settled(program: Program, classes: Callable[[Mapping[str, str]], Partition]) -> dict[str, str]:
    """The members' equations that are the blend's, by the names that they have there.

    All members must agree about such an equation, and about those that it uses.

    Args:
        program: the blend.
        classes: the class of each state, given the names that equations have.
    """
    names, kept = dict[str, str](), _candidates(program)
    while kept != names:
        names = kept
        found = _by_plain(_meanings(program, classes(names), names))
        kept = {n: plain for n, plain in names.items() if len(found[plain]) == 1}
    return kept


def _by_plain(meanings: Mapping[str, Value]) -> dict[str, set[Value]]:
    found: dict[str, set[Value]] = defaultdict(set)
    for name, meaning in meanings.items():
        found[_plain(name)].add(meaning)
    return found


def _hints(meanings: Mapping[str, Value]) -> dict[str, str]:
    """For members' equations of one name and several meanings: the name with the member's."""
    found = _by_plain(meanings)
    hints = {}
    for name in meanings:
        member, _, plain = name.rpartition(".")
        if member and len(found[plain]) > 1:
            hints[name] = f"{plain}_{member.replace('.', '_').lower()}"
    return hints
