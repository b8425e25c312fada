"""Removes operations that no result depends on."""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.program import Program, Value


def eliminate_dead(program: Program) -> Program:
    """The program with the operations that its results need, renumbered in order.

    Axes along which nothing extends are left out.
    """
    if program.axes:
        roots = replace(program, axes=()).results
        lengths = program.lengths_of(program.needed(roots))
        along = {axis for s in program.states for axis in s.type.own_axes}
        kept_axes = ((n, v) for n, v in program.axes if v in lengths or n in along)
        program = replace(program, axes=tuple(kept_axes))
    kept = program.needed(program.results)
    if len(kept) == len(program.operations):
        return program
    new = {old: Value(index) for index, old in enumerate(kept)}
    operations = (program.operations[old] for old in kept)
    moved = (replace(o, arguments=tuple(new[a] for a in o.arguments)) for o in operations)
    return program.rebuilt(tuple(moved), new)
