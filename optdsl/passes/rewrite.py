"""Rewrites a program operation by operation, in order; all passes are built on this."""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value

# (builder, operation, its arguments as already rewritten) -> its replacement, or None to keep it.
Rule = Callable[[Builder, Operation, "tuple[Value, ...]"], "Value | None"]


def rewrite(program: Program, rule: Rule) -> Program:
    """Apply a rule to every operation; equal operations of the result become one.

    The replacement of an operation takes over its hint, and its place among the results.
    """
    builder = Builder()
    new: list[Value] = []
    for operation in program.operations:
        arguments = tuple(new[a] for a in operation.arguments)
        value = rule(builder, operation, arguments)
        if value is None:
            value = builder.copy(operation, arguments)
        builder.suggest(value, operation.hint)
        new.append(value)
    return program.rebuilt(builder.operations, new)
