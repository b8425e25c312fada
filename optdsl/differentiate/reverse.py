"""Reverse accumulation: from the new parameter back, once for all hyperparameters.

Where every operation between the hyperparameters and the new parameter is elementwise, each
element of the new parameter depends on that element of the values only. Then the derivatives of
the new parameter by the values (the adjoints) are one number an element, and the tangent by a
hyperparameter is the sum, over all places where uniform values that depend on it meet the
elements, of adjoint times local derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.differentiate import forward
from optdsl.ir.builder import Builder
from optdsl.ir.derivatives import plus, times
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.types import Extent


def applies(program: Program, hypers: Sequence[str]) -> bool:
    """Whether the step is elementwise and smooth wherever it depends on `hypers`."""
    return all(
        program.type(value).extent is not Extent.SCALAR
        and (
            program.type(value).extent is Extent.UNIFORM
            or TABLE[program.operations[value].opcode].laws.smooth
        )
        for value in _dependent(program, hypers)
    )


def tangents(builder: Builder, program: Program, hypers: Sequence[str]) -> list[Value | None]:
    """The same as `forward.tangents`, for a program to which this `applies`."""
    needed = program.needed((program.parameter,))
    uniform = [v for v in needed if program.type(v).extent is Extent.UNIFORM]
    rates = [forward.along(builder, program, uniform, "hyper", x) for x in hypers]
    dependent = _dependent(program, hypers)
    adjoints: dict[Value, Value | None] = {program.parameter: builder.constant(1.0)}
    # For each hyperparameter, the factors of each adjoint are added up before they are multiplied
    # by it: (m - g) * a loses less to cancellation than m * a - g * a.
    sums: list[dict[Value, Value | None]] = [{} for _ in hypers]
    if program.type(program.parameter).extent is Extent.UNIFORM:
        return [rate[program.parameter] for rate in rates]
    for value in reversed(needed):
        adjoint = adjoints.get(value)
        if adjoint is None or value not in dependent or value in rates[0]:
            continue
        operation = program.operations[value]
        for index, rate in enumerate(rates):
            local = tuple(rate.get(a) for a in operation.arguments)
            slope = _derived(builder, program, value, local)
            if slope is not None:
                sums[index][adjoint] = plus(builder, sums[index].get(adjoint), slope)
        for position, argument in enumerate(operation.arguments):
            if argument in dependent and argument not in rates[0]:
                one = [None] * len(operation.arguments)
                seeded = (*one[:position], adjoint, *one[position + 1 :])
                part = _derived(builder, program, value, seeded)
                adjoints[argument] = plus(builder, adjoints.get(argument), part)
                hint = program.operations[argument].hint
                forward.suggest(builder, adjoints[argument], "theta_next", hint)
    totals = [_total(builder, products) for products in sums]
    for total, hyper in zip(totals, hypers, strict=True):
        forward.suggest(builder, total, "theta_next", hyper)
    return totals


def _dependent(program: Program, hypers: Sequence[str]) -> frozenset[Value]:
    """The values between `hypers` and the new parameter."""
    found: set[Value] = set()
    for value in program.needed((program.parameter,)):
        operation = program.operations[value]
        named = operation.opcode == "hyper" and operation.attribute in hypers
        if named or any(a in found for a in operation.arguments):
            found.add(value)
    return frozenset(found)


def _derived(
    builder: Builder, program: Program, value: Value, seeds: tuple[Value | None, ...]
) -> Value | None:
    """The derivative of an operation, given the derivatives of its arguments."""
    if all(seed is None for seed in seeds):
        return None
    operation = program.operations[value]
    return TABLE[operation.opcode].derivative(builder, value, operation.arguments, seeds)


def _total(builder: Builder, products: dict[Value, Value | None]) -> Value | None:
    total: Value | None = None
    for adjoint, slope in products.items():
        total = plus(builder, total, times(builder, slope, adjoint))
    return total
