"""Which steps can be spelled for many tensors at once."""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

_UNARY = {"sqrt", "exp", "log", "tanh", "cos", "sin", "floor", "abs", "neg"}
_BINARY = {"add", "sub", "mul", "div"}
_EXTREMA = {"max", "min"}


def groupable(kernel: Kernel) -> bool:
    """Whether a step can be spelled for many tensors at once."""
    program = kernel.program
    stages = {TABLE[program.operations[v].opcode].stage for v in kernel.values}
    if stages & {Stage.LENGTH, Stage.SHAPE}:
        return False  # each tensor has another number there
    for value in kernel.body:
        operation = program.operations[value]
        if operation.type.extent is not Extent.TENSOR:
            return False
        if not operation.arguments or operation.opcode in _UNARY | _BINARY | {"sign"}:
            continue
        if operation.opcode in _EXTREMA:
            continue
        if operation.opcode == "pow" and uniform(kernel, operation.arguments[1]):
            continue
        if not _in_finite(kernel, value):
            return False
    return _results_apart(kernel)


def _results_apart(kernel: Kernel) -> bool:
    """Whether results have memory of their own: they are computed, or are what they were."""
    seen = set[Value]()
    for result in kernel.results:
        operation = kernel.program.operations[result.value]
        if uniform(kernel, result.value) or result.value in seen:
            return False
        seen.add(result.value)
        if not operation.arguments and operation.attribute != result.name:
            return False
    return True


def uniform(kernel: Kernel, value: Value) -> bool:
    """Whether a value is one number for all tensors."""
    return kernel.program.type(value).extent is Extent.UNIFORM


def _finite_part(kernel: Kernel, value: Value) -> bool:
    """Whether a value is 0 where its argument is not finite, and only scaled and added."""
    operation = kernel.program.operations[value]
    found = kernel.program.is_finite_part(operation)
    if not found or kernel.program.operations[operation.arguments[2]].attribute != 0.0:
        return False
    products = list(users(kernel, value))
    if len(products) != 1 or kernel.program.operations[products[0]].opcode != "mul":
        return False
    product = products[0]
    scaled = any(uniform(kernel, a) for a in kernel.program.operations[product].arguments)
    sums = list(users(kernel, product))
    added = len(sums) == 1 and kernel.program.operations[sums[0]].opcode == "add"
    return scaled and added and product not in {r.value for r in kernel.results}


def _in_finite(kernel: Kernel, value: Value) -> bool:
    """Whether a value is a finite part, or the condition of one."""
    if kernel.program.operations[value].opcode == "where":
        return _finite_part(kernel, value)
    found = list(users(kernel, value))
    return bool(found) and all(_finite_part(kernel, u) for u in found)


def users(kernel: Kernel, value: Value) -> Iterator[Value]:
    """The values that are computed from a value."""
    for user in kernel.body:
        if value in kernel.program.operations[user].arguments:
            yield user
