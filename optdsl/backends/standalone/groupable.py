"""Which steps can be spelled for many tensors at once."""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.backends.standalone.reading import is_read
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

_ELEMENTWISE = {"sqrt", "exp", "log", "tanh", "cos", "sin", "floor", "abs", "neg", "sign"}
_ELEMENTWISE |= {"add", "sub", "mul", "div", "pow", "max", "min"}
_ELEMENTWISE |= {"where", "mix", "stop_gradient", "define", "lt", "le", "gt", "ge", "eq", "ne"}
_REDUCTIONS = {"sum", "mean"}


def groupable(kernel: Kernel) -> bool:
    """Whether a step can be spelled for many tensors at once."""
    program = kernel.program
    stages = {TABLE[program.operations[v].opcode].stage for v in kernel.values}
    if stages & {Stage.LENGTH, Stage.SHAPE} or is_read(program.kind):
        return False  # each tensor has another number there, or another shape
    matrices = of_matrices(program.kind)
    for value in kernel.body:
        operation = program.operations[value]
        if operation.type.extent is not Extent.TENSOR and (
            matrices or operation.type.extent is not Extent.SCALAR
        ):
            return False
        reduces = operation.opcode in _REDUCTIONS and not matrices
        if operation.arguments and operation.opcode not in _ELEMENTWISE and not reduces:
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
        own = operation.opcode == "gradient" or operation.attribute == result.name
        if not operation.arguments and not own:
            return False
        if operation.type.extent is not result.type.extent:
            return False
    return True


def uniform(kernel: Kernel, value: Value) -> bool:
    """Whether a value is one number for all tensors."""
    return kernel.program.type(value).extent is Extent.UNIFORM


def zeroed(kernel: Kernel, value: Value) -> bool:
    """Whether a value is its argument, or 0 where that is not finite."""
    operation = kernel.program.operations[value]
    if not kernel.program.is_finite_part(operation):
        return False
    x, other = operation.arguments[1:]
    of_tensor = kernel.program.type(x).extent is Extent.TENSOR
    return of_tensor and kernel.program.operations[other].attribute == 0.0


def finite_part(kernel: Kernel, value: Value) -> bool:
    """Whether a value is 0 where its argument is not finite, and only scaled and added."""
    if not zeroed(kernel, value) or value in {r.value for r in kernel.results}:
        return False
    products = list(users(kernel, value))
    if len(products) != 1 or kernel.program.operations[products[0]].opcode != "mul":
        return False
    product = products[0]
    scaled = any(uniform(kernel, a) for a in kernel.program.operations[product].arguments)
    sums = list(users(kernel, product))
    added = len(sums) == 1 and kernel.program.operations[sums[0]].opcode == "add"
    return scaled and added and product not in {r.value for r in kernel.results}


def users(kernel: Kernel, value: Value) -> Iterator[Value]:
    """The values that are computed from a value."""
    for user in kernel.body:
        if value in kernel.program.operations[user].arguments:
            yield user
