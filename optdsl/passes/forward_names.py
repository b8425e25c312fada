"""Replaces operations that are the identity by their argument.

``define`` exists for blends, and ``stop_gradient`` for differentiation; neither is needed later.
"""

from __future__ import annotations

from optdsl.ir.program import Program
from optdsl.passes.rewrite import rewrite


def forward_names(program: Program) -> Program:
    """The program without ``define``."""
    return _without(program, "define")


def forward_barriers(program: Program) -> Program:
    """The program without ``stop_gradient``."""
    return _without(program, "stop_gradient")


def _without(program: Program, opcode: str) -> Program:
    return rewrite(program, lambda _, operation, x: x[0] if operation.opcode == opcode else None)
