"""Leave out operations that no result depends on."""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.program import Program, Value


def eliminate_dead(program: Program) -> Program:
    """The program with the operations that its results need, renumbered in order."""
    kept = program.needed((*program.initial_values, *program.step_values))
    new = {old: Value(index) for index, old in enumerate(kept)}
    operations = []
    for old in kept:
        operation = program.operations[old]
        arguments = tuple(new[a] for a in operation.arguments)
        operations.append(replace(operation, arguments=arguments))
    return replace(
        program,
        operations=tuple(operations),
        states=tuple(replace(s, initial=new[s.initial], next=new[s.next]) for s in program.states),
        parameter=new[program.parameter],
        tangents=tuple(replace(t, value=new[t.value]) for t in program.tangents),
    )
