"""Replace operations that are the identity by their argument.

``define`` exists for blends and ``stop_gradient`` for differentiation; each goes when that is done.
"""

from __future__ import annotations

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.rewrite import rewrite


def forward_names(program: Program) -> Program:
    """The program without ``define``."""
    return rewrite(program, _names)


def forward_barriers(program: Program) -> Program:
    """The program without ``stop_gradient``."""
    return rewrite(program, _barriers)


def _names(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    return arguments[0] if operation.opcode == "define" else None


def _barriers(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    return arguments[0] if operation.opcode == "stop_gradient" else None
