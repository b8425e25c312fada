"""States that are always equal become one.

Two states are one buffer when their initial values and their recurrences are the same. The coarsest
such partition is found as the states of an automaton are minimised (Moore, 1956): start from equal
initial values, and split until recurrences agree. Equality is that of operations, so that every bit
is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from optdsl.algebra.fix import live_states
from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, State, Value
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite

# The class of each state, by the state's name.
Partition = Mapping[str, int]


def partition(program: Program, names: Mapping[str, str] | None = None) -> Partition:
    """The coarsest partition into states that are always equal; for `names` see `identities`."""
    initial = identities(program, {s.name: 0 for s in program.states}, program.initial_values)
    classes = _numbered((s.type, i) for s, i in zip(program.states, initial, strict=True))
    while True:
        named = {s.name: c for s, c in zip(program.states, classes, strict=True)}
        after = identities(program, named, [s.next for s in program.states], names)
        split = _numbered(zip(classes, after, strict=True))
        if max(split, default=0) == max(classes, default=0):
            return named
        classes = split


def partition_by_name(program: Program) -> Partition:
    """The coarsest partition into states that stay equal whatever a blend of this one redefines."""
    names = _candidates(program)
    while True:
        classes = partition(program, names)
        kept = _agreed(program, classes, names)
        if kept == names:
            return classes
        names = kept


def _numbered(keys: Iterable[object]) -> list[int]:
    """The keys as numbers, equal ones alike, in the order in which they come."""
    seen: dict[object, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


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
        if operation.opcode == "define" and names is None:
            new.append(arguments[0])
            continue
        if operation.opcode == "define" and names is not None:
            name = str(operation.attribute)
            operation = replace(operation, attribute=names.get(name, name))
        if operation.opcode == "state":
            known = classes[str(operation.attribute)]
            operation = replace(operation, attribute=str(known))
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
    plain = _settled(program, classes)
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
    defines = [(Value(i), o) for i, o in enumerate(program.operations) if o.opcode == "define"]
    values = identities(program, classes, [value for value, _ in defines], names)
    spelled = (str(operation.attribute) for _, operation in defines)
    return dict(zip(spelled, values, strict=True))


def _candidates(program: Program) -> dict[str, str]:
    """The members' equations that may be the blend's under a plain name: no slot has it."""
    names = [str(o.attribute) for o in program.operations if o.opcode == "define"]
    return {n: _plain(n) for n in names if n.count(".") == 1 and _plain(n) not in names}


def _agreed(program: Program, classes: Partition, names: Mapping[str, str]) -> dict[str, str]:
    """Of the equations that may have a plain name, those about which all members agree."""
    meanings = _meanings(program, classes, names)
    found = _by_plain(meanings)
    return {n: plain for n, plain in names.items() if len(found[plain]) == 1}


def _settled(program: Program, classes: Partition) -> dict[str, str]:
    """The members' equations that are the blend's, by the names that they have there.

    An equation that uses one about which members do not agree is none of them.
    """
    names = _candidates(program)
    while True:
        kept = _agreed(program, classes, names)
        if kept == names:
            return kept
        names = kept


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
