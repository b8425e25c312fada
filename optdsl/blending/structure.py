"""Hyperparameters that decide what the operations of a rule are, where another text binds them.

How often a function calls itself is known when a program is made. A rule that a blend uses, or that
a claim is about, is made for the values that the blend or the claim gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optdsl.blending.members import Member
from optdsl.blending.world import World
from optdsl.diagnostics import Report
from optdsl.ir.builder import Builder
from optdsl.ir.domain import spell_in
from optdsl.ir.evaluate import number
from optdsl.ir.program import Hyper, Program, Value, upstream
from optdsl.lower.expressions import Lowering
from optdsl.lower.wide import plain
from optdsl.syntax import ast

# Makes a rule, by its name, for other values of what decides what its operations are.
Again = Callable[[str, Mapping[str, float]], Program]
# One value may decide which others are asked for.
_ROUNDS = 8


class Undecided(Exception):
    """What a rule's hyperparameter is bound to is not known when programs are made."""

    def __init__(self, hyper: str) -> None:
        super().__init__(hyper)
        self.hyper = hyper


@dataclass(frozen=True)
class Made:
    """A rule that was made for what it is given.

    Attributes:
        program: the rule.
        structure: the hyperparameters, of the text that uses it, that decided what its operations
            are, and their values.
    """

    program: Program
    structure: Mapping[str, float]


def choices(hypers: Mapping[str, Hyper], given: Mapping[str, float]) -> dict[str, float]:
    """The values of the hyperparameters that are known when a program is made."""
    return {n: given.get(n, h.default) for n, h in hypers.items() if h.domain.discrete}


def made(
    program: Program,
    value: Callable[[str], Value | None],
    builder: Builder,
    known: Mapping[str, float],
    again: Callable[[Mapping[str, float]], Program],
) -> Made:
    """A rule for what its hyperparameters are bound to.

    Args:
        program: the rule as it is by default.
        value: what a hyperparameter of the rule is bound to; None after a mistake.
        builder: has these values.
        known: see `choices`.
        again: makes the rule for other values.

    Raises:
        Undecided: where a hyperparameter that decides is bound to what is not known.
    """
    structure: dict[str, float] = {}
    for _ in range(_ROUNDS):
        structure, wanted = {}, dict(program.structure)
        for hyper, own in program.structure:
            bound = value(hyper)
            if bound is None:
                continue
            behind = [builder[v] for v in upstream(builder.operations, (bound,))]
            used = {str(o.attribute) for o in behind if o.opcode == "hyper"}
            if any(o.opcode == "step" for o in behind) or not used <= known.keys():
                raise Undecided(hyper)
            given = number(Program(operations=builder.operations), bound, known)
            # A value out of bounds is reported where it is given.
            wanted[hyper] = given if given in program.hyper(hyper).domain else own
            structure |= {name: known[name] for name in sorted(used)}
        if wanted == dict(program.structure):
            break
        program = again(wanted)
    return Made(program, structure)


def made_members(
    members: Mapping[str, Member],
    settled: World,
    lowering: Lowering,
    given: Mapping[str, float],
    again: Again,
    report: Report,
) -> tuple[dict[str, Member], dict[str, float]]:
    """The members of a blend as it binds them, and what decides what its operations are.

    Args:
        members: as they are by default.
        settled: what their hyperparameters are.
        lowering: receives the operations of what is bound.
        given: values of the blend's hyperparameters that are not the defaults.
        again: makes a member's rule for other values.
        report: receives the mistakes.
    """
    known = choices(settled.declared.hypers, given)
    found, structure = dict[str, Member](), dict[str, float]()
    for name, member in members.items():
        try:
            own = made(
                member.program,
                lambda hyper, name=name: settled.value(lowering, name, hyper),  # type: ignore[misc]
                lowering.builder,
                known,
                lambda wanted, name=name: again(name, wanted),  # type: ignore[misc]
            )
        except Undecided as error:
            bound = settled.bound[name, error.hyper]
            report.error(
                "structure",
                f"`{name}.{error.hyper}` decides what the operations are",
                bound.value.span if isinstance(bound, ast.Binding) else member.span,
                label="not known when the optimizer is made",
                hint="bind it to numbers, and to hyperparameters with a domain such as {0, ..., 9}",
            )
            continue
        found[name] = Member(name, own.program, member.span)
        structure |= own.structure
    return found, structure


def check_kinds(node: ast.Claim, rule: Program, own: Program, report: Report) -> None:
    """A specification and a rule that both have sections must have the same ones.

    The rule's may be for wide matrices where the specification's are for matrices as they are.
    """
    same = own.sections in {rule.sections, plain(rule.sections)}
    if own.sections and rule.sections and not same:
        report.error(
            "section",
            f"`{node.rule.text}` tells other kinds of tensors apart",
            node.rule.span,
            label=f"it is for {', '.join(rule.sections)}",
            hint=f"this file is for {', '.join(own.sections)}; a claim is settled kind by kind",
        )


def check_made(
    node: ast.Claim, own: Program, settings: Mapping[str, float], report: Report
) -> None:
    """A claim is about the operations that the specification has by default."""
    for name, value in own.structure:
        if settings.get(name, value) != value:
            report.error(
                "structure",
                f"`{name}` decides what the operations are",
                node.span,
                label=f"claims are settled for {name} = {spell_in(own.hyper(name).domain, value)}",
                hint="take it out of the claim, or change its default",
            )
