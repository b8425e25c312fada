"""Removes operations that no result depends on."""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.program import Program, Value


def eliminate_dead(program: Program) -> Program:
    """The program with the operations that its results need, renumbered in order."""
    kept = program.needed(program.results)
    new = {old: Value(index) for index, old in enumerate(kept)}
    operations = (program.operations[old] for old in kept)
    moved = (replace(o, arguments=tuple(new[a] for a in o.arguments)) for o in operations)
    return program.rebuilt(tuple(moved), new)
