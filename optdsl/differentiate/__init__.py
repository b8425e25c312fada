"""Differentiates one step: the derivatives of the new parameter by hyperparameters.

The old state is held constant, as in Ozkara et al. (2024, section 3): the hyper-gradient at step
t+1 is the dot product of the new gradient with the tangent of step t. Derivatives come from the
rows of the operations' table, so any rule and any hyperparameter differentiates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optdsl.differentiate import forward, reverse
from optdsl.differentiate.factorizations import check, held
from optdsl.ir.builder import Builder
from optdsl.ir.derivatives import NoDerivative
from optdsl.ir.program import Program, Tangent

__all__ = ["differentiate", "held", "moves"]


def differentiate(program: Program, hypers: Iterable[str]) -> Program:
    """The program with the tangents of its new parameter by `hypers` as further results.

    A tangent that is always zero (see `moves`) is the constant 0. Arguments of factorizations are
    held constant, as the old state is. Several tangents of a step that
    is smooth and elementwise are computed by reverse accumulation, which shares nearly all of their
    work; other tangents are computed in forward mode.

    Raises:
        KeyError: for a name that is no hyperparameter.
        NoDerivative: for one that moves the parameter only through factorizations, of the tensors
            of some section at least.
    """
    names = tuple(hypers)
    for name in names:
        program.hyper(name)
        check(program, name)
    builder = Builder(program.operations)
    backward = len(names) > 1 and reverse.applies(program, names)
    found = (reverse if backward else forward).tangents(builder, program, names)
    values = [builder.constant(0.0) if value is None else value for value in found]
    pairs = tuple(Tangent(name, value) for name, value in zip(names, values, strict=True))
    return replace(program, operations=builder.operations, tangents=pairs)


def moves(program: Program, hyper: str) -> bool:
    """Whether the tangent by `hyper` is not always zero.

    It is always zero if the new parameter depends on the hyperparameter only through functions that
    are flat almost everywhere (`sign`, a condition), through `stop_gradient`, or not at all.
    """
    try:
        derived = differentiate(program, [hyper])
    except NoDerivative:
        return True
    operation = derived.operations[derived.tangents[0].value]
    return not (operation.opcode == "constant" and operation.attribute == 0.0)
