"""Replace ``define`` and ``stop_gradient`` by their argument.

The first exists for blends, the second for differentiation; both are done when passes run.
"""

from __future__ import annotations

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.rewrite import rewrite


def forward_names(program: Program) -> Program:
    """The program without identity operations."""
    return rewrite(program, _forward)


def _forward(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    return arguments[0] if operation.opcode in {"define", "stop_gradient"} else None
