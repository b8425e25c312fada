"""Merges the states of a blend that are always equal.

Two states are merged if their initial values, and their values after a step, are computed by the
same operations from equal values, so that not a bit of any result changes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from optdsl.algebra.fix import live_states
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.numbering import coarsest
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, State, Value
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite

# The class of each state, by the state's name.
Partition = Mapping[str, int]


def partition(program: Program, names: Mapping[str, str] | None = None) -> Partition:
    """The coarsest partition into classes of states that are always equal.

    For `names`, see `identities`.
    """
    initial = identities(program, {s.name: 0 for s in program.states}, program.initial_values)

    def named(classes: list[int]) -> Partition:
        return {s.name: c for s, c in zip(program.states, classes, strict=True)}

    def after(classes: list[int]) -> list[int]:
        return identities(program, named(classes), [s.next for s in program.states], names)

    start = (
        (s.type, s.codec, s.name if s.input else "", i)
        for s, i in zip(program.states, initial, strict=True)
    )
    found = coarsest(start, after)
    assert found is not None
    return named(found)


def identities(
    program: Program,
    classes: Partition,
    roots: Sequence[Value],
    names: Mapping[str, str] | None = None,
) -> list[int]:
    """A number for each of some values; values with equal numbers are always equal.

    They are computed by the same operations from equal values, where states of one class are equal.
    By default, the name of an equation does not count. With `names`, which has the names that a
    blend of this blend will use for equations, values are equal only under equal names.
    """
    known: dict[Hashable, int] = {}
    found: list[int] = []
    for operation in program.operations:
        arguments = [found[a] for a in operation.arguments]
        name: Hashable = repr(operation.attribute)
        if operation.opcode == "define":
            if names is None:
                found += arguments
                continue
            name = names.get(str(operation.attribute), operation.attribute)
        elif operation.opcode == "state":
            name = classes[str(operation.attribute)]
        elif TABLE[operation.opcode].stage is Stage.TOTAL and not program.kind:
            # Where there are other kinds, what is equal in this one may differ in those.
            name = ""
        key = (operation.opcode, name, operation.type, *arguments)
        found.append(known.setdefault(key, len(known)))
    return [found[r] for r in roots]


def merge_states(program: Program, by_name: bool = False) -> Program:
    """The program with one state for each class of equal ones, and without unused states.

    With `by_name`, states are merged only if they stay equal whatever equations a blend of this
    blend redefines.
    """
    classes = partition(program)
    if by_name:
        classes = partition(program, _settled(program, lambda names: partition(program, names)))
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
    """A name for each class: the name of its states in their members.

    If several classes have the same name, the name of a member is added, except for a class that
    several members share, if it is the only one.
    """
    wanted: dict[str, list[int]] = defaultdict(list)
    # What is given to a step is given under the name of the input.
    names = {c: block[0].name for c, block in blocks.items() if block[0].input}
    for c, block in blocks.items():
        if c not in names:
            wanted[_plain(block[0].name)].append(c)
    taken = {h.name for h in program.hypers} | {*names.values()}
    for plain, claims in wanted.items():
        shared = [c for c in claims if len(blocks[c]) > 1]
        for c in claims:
            member = blocks[c][0].name.partition(".")[0].lower()
            own = len(claims) == 1 or shared == [c]
            name = plain if own else f"{plain}_{member}"
            numbered = (f"{name}_{number}" for number in itertools.count(2))
            names[c] = next(n for n in itertools.chain([name], numbered) if n not in taken)
            taken.add(names[c])
    return names


def _plain(name: str) -> str:
    return name.rpartition(".")[2]


def _meanings(
    program: Program, classes: Partition, names: Mapping[str, str] | None = None
) -> dict[str, int]:
    """A number for each equation, which is the same for equal ones; see `identities`."""
    defined = program.equations
    values = identities(program, classes, list(defined.values()), names)
    return dict(zip(defined, values, strict=True))


def _settled(program: Program, classes: Callable[[Mapping[str, str]], Partition]) -> dict[str, str]:
    """The equations of members that become equations of the blend, with their names there.

    The blend does not define such an equation itself, and all members that have it agree about it
    and about the equations that it uses. `classes` gives the class of each state, given the names
    that equations have.
    """
    equations = program.equations
    plain = {name: _plain(name) for name in equations if name.count(".") == 1}
    names, kept = dict[str, str](), {n: own for n, own in plain.items() if own not in equations}
    while kept != names:
        names = kept
        found = _by_plain(_meanings(program, classes(names), names))
        kept = {n: plain for n, plain in names.items() if len(found[plain]) == 1}
    return kept


def _by_plain(meanings: Mapping[str, int]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for name, meaning in meanings.items():
        found[_plain(name)].add(meaning)
    return found


def _hints(meanings: Mapping[str, int]) -> dict[str, str]:
    """Hints that have the member's name, for equations that mean different things in members."""
    found = _by_plain(meanings)
    hints = {}
    for name in meanings:
        member, _, plain = name.rpartition(".")
        if member and len(found[plain]) > 1:
            hints[name] = f"{plain}_{member.replace('.', '_').lower()}"
    return hints
