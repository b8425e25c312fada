"""What a rule means: the steps that it takes, whatever its text looks like.

Hyperparameters and states have names, because checkpoints do; equations are compared by what they
compute. Defaults, bounds, comments, the names of other equations, and what is learned by which rule
are no part of it.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from optdsl.ir.builder import Builder, TooManyOperations
from optdsl.ir.domain import EVERYTHING
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.text import IRSyntaxError, parse_program, print_program
from optdsl.ir.verify import InvalidProgram, verify
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite

# A text that says otherwise is none of ours.
MAX_TEXT = 2_000_000
# An error shows so many lines of what is different.
_SHOWN = 14


@dataclass(frozen=True)
class Meaning:
    """The meaning of a rule.

    Attributes:
        program: the rule, reduced to what it means.
    """

    program: Program

    @functools.cached_property
    def hash(self) -> str:
        """Equal hashes are equal steps to the bit, and hyperparameters in the same order."""
        program, digests = self.program, _digests(self.program)
        return _hash(
            *(h.name for h in program.hypers),
            "states",
            *sorted(
                _hash(s.name, str(s.type), digests[s.initial], digests[s.next])
                for s in program.states
            ),
            str(program.parameter_type),
            digests[program.parameter],
        )

    @functools.cached_property
    def entry(self) -> dict[str, str]:
        """What a checkpoint says of it, in plain strings: the hash, and the rule itself."""
        return {"hash": self.hash, "program": print_program(self.program)}

    @functools.cached_property
    def hypers(self) -> tuple[str, ...]:
        """The names of the hyperparameters, in order."""
        return tuple(h.name for h in self.program.hypers)

    @functools.cached_property
    def states(self) -> dict[str, str]:
        """The states, by name: whether each is a number, a number a tensor, or a tensor."""
        return {s.name: str(s.type) for s in self.program.states}


def meaning(program: Program) -> Meaning:
    """The meaning of a program, with tangents or without.

    Args:
        program: any; it keeps the order of its hyperparameters.
    """
    bare = replace(
        program,
        documentation=(),
        learned=(),
        tangents=(),
        simplexes=(),
        evaluation=None,
        hypers=tuple(replace(h, default=0.0, domain=EVERYTHING) for h in program.hypers),
        # How a state lies in memory changes no equation.
        states=tuple(replace(s, origins=(), codec="") for s in program.states),
        codec="",
    )
    return Meaning(eliminate_dead(rewrite(bare, _unnamed)))


def read(entry: object) -> Meaning | None:
    """The meaning that a checkpoint's entry tells of; None where it cannot be read."""
    text = entry.get("program") if isinstance(entry, dict) else None
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return None
    try:
        found = meaning(verify(parse_program(text)))
    except (IRSyntaxError, InvalidProgram, TooManyOperations):
        return None
    # No rule has a literal that is no number, and there is no algebra of it.
    literals = (o.attribute for o in found.program.operations if o.opcode == "constant")
    return None if any(isinstance(x, float) and math.isnan(x) for x in literals) else found


def named(rule: Meaning) -> set[str]:
    """The names of a rule's hyperparameters and states."""
    return {*rule.hypers, *rule.states}


def differences(saved: Meaning, own: Meaning, where: str = "in the checkpoint") -> list[str]:
    """What is not the same in two rules, a line each; empty where they take the same steps.

    The lines are for readers: which hyperparameters and states only one of them has, and which
    equations differ, as the first rule has them and as they are here. Equations are equal when
    their normal forms over the reals are.

    Args:
        saved: one rule.
        own: the other one, which is here.
        where: where the first one is.
    """
    if saved.hash == own.hash:
        return []
    lines = [
        *_only("hyperparameters", saved.hypers, own.hypers, where),
        *_only("states", saved.states, own.states, where),
    ]
    both = [name for name in own.states if name in saved.states]
    lines += [
        f"{name} is one {saved.states[name]} {where}, and one {own.states[name]} here"
        for name in both
        if saved.states[name] != own.states[name]
    ]
    # The algebra and the printer of equations are imported where something differs.
    from optdsl.runtime.core.different_equations import different_equations

    return lines + different_equations(saved.program, own.program, both, where)


def shortened(lines: list[str]) -> list[str]:
    """The first lines of what is different, and how many more there are."""
    if len(lines) <= _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} lines more"]


def _unnamed(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    # A barrier changes hyper-gradients, and no step; equal values have equal sums over all tensors.
    if TABLE[operation.opcode].stage is Stage.TOTAL:
        return builder.copy(replace(operation, attribute=""), arguments)
    return arguments[0] if TABLE[operation.opcode].laws.alias else None


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digests(program: Program) -> list[str]:
    """A digest of each value: of the operation, and of what it is made from."""
    found: list[str] = []
    for operation in program.operations:
        arguments = [found[a] for a in operation.arguments]
        if TABLE[operation.opcode].laws.commutative:
            arguments.sort()
        found.append(
            _hash(operation.opcode, repr(operation.attribute), str(operation.type), *arguments)
        )
    return found


def _only(what: str, saved: Collection[str], own: Collection[str], where: str) -> list[str]:
    sides = (
        (where, [x for x in saved if x not in own]),
        ("here", [x for x in own if x not in saved]),
    )
    return [f"{what} only {place}: {', '.join(names)}" for place, names in sides if names]
