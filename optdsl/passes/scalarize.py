"""Turns a rule for tensors into a rule for one number, which runs on the host.

The parameter, its gradient and every state become uniform. Coefficients are learned by such rules.
The pass is not part of the default pipeline.
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import UNIFORM
from optdsl.passes.rewrite import rewrite


def scalarize(program: Program) -> Program:
    """The rule on a tensor of one element, as arithmetic on host numbers."""
    rewritten = rewrite(program, _scalarize)
    # A coefficient is kept in double precision.
    states = tuple(replace(s, type=UNIFORM, codec="") for s in rewritten.states)
    # It acts where it is trained.
    return replace(rewritten, states=states, parameter_type=UNIFORM, evaluation=None, codec="")


def _scalarize(
    builder: Builder, operation: Operation, arguments: tuple[Value, ...]
) -> Value | None:
    match TABLE[operation.opcode].stage:
        case Stage.BUFFER:
            return builder.copy(replace(operation, type=UNIFORM), ())
        case Stage.REDUCTION:
            return arguments[0]
        case Stage.LENGTH:
            return builder.constant(1.0)
        case _:
            return None
