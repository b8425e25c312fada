"""Axes that members of a blend declare: one axis where they agree about it, else apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.blending.members import Member
from optdsl.blending.world import World
from optdsl.diagnostics import Report
from optdsl.ir.lengths import renamed_axes
from optdsl.ir.ops import APPLY
from optdsl.ir.program import Value, upstream
from optdsl.lower.expressions import Lowering
from optdsl.syntax import ast


def check_lengths(
    found: Mapping[str, Member], settled: World, lowering: Lowering, report: Report
) -> None:
    """Report what is bound to a hyperparameter that decides a length, and is not known from shapes.

    Args:
        found: the members.
        settled: what their hyperparameters are.
        lowering: receives the operations of what is bound.
        report: receives the mistakes.
    """
    for name, member in found.items():
        for axis, length in member.program.axes:
            for hyper in member.program.hypers_behind(length):
                bound = settled.bound[name, hyper]
                value = settled.value(lowering, name, hyper)
                if value is None or not isinstance(bound, ast.Binding):
                    continue
                if not _known(value, settled, lowering):
                    report.error(
                        "axis",
                        f"`{name}.{hyper}` decides how long the axis `{axis}` is",
                        bound.value.span,
                        label="this may change from step to step",
                        hint="bind it to numbers, and to hyperparameters with a domain such as "
                        "{1, ..., inf}",
                    )


def _known(value: Value, settled: World, lowering: Lowering) -> bool:
    """Whether a value is made of literals and choices alone."""
    hypers, operations = settled.declared.hypers, lowering.builder.operations
    for operation in (operations[v] for v in upstream(operations, (value,))):
        known = operation.opcode == "constant" or (
            operation.opcode == "hyper" and hypers[str(operation.attribute)].domain.discrete
        )
        if not (known or (operation.arguments and operation.opcode in APPLY)):
            return False
    return True


def apart(found: Mapping[str, Member], settled: World, lowering: Lowering) -> dict[str, Member]:
    """The members of a blend for one kind, with other names for axes about which they disagree.

    An axis that several members declare under one name is one axis if its length is the same
    expression of the blend's hyperparameters. Otherwise they are apart, and
    are called after their members.
    """
    lengths: dict[str, dict[str, Value]] = {}
    builder = lowering.builder
    for name, member in found.items():
        program = member.program
        for axis, length in program.axes:
            bound: dict[Value, Value] = {}
            for v in program.needed((length,)):
                operation = program.operations[v]
                if operation.opcode == "hyper":
                    value = settled.value(lowering, name, str(operation.attribute))
                    bound |= {} if value is None else {v: value}
            lengths.setdefault(axis, {})[name] = builder.copied(program, [length], bound)[length]
    taken = set(lengths)
    renamed: dict[str, dict[str, str]] = {name: {} for name in found}
    for axis, own in lengths.items():
        if len(set(own.values())) > 1:
            for name in own:
                new = f"{axis}_{name.lower()}"
                while new in taken:
                    new += "_"
                taken.add(new)
                renamed[name][axis] = new
    return {
        name: replace(member, program=renamed_axes(member.program, renamed[name]))
        for name, member in found.items()
    }
