"""Sums of a matrix and a product, which torch computes in one call: ``b * p + a * x @ y``.

Factors of the host, wherever they stand, are arguments of that call, so that no matrix is made for
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optdsl.ir.program import Program, Value

HELPER = '''\
def add_product(p: Tensor, x: Tensor, y: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * p + alpha * x @ y, of matrices or of stacks of them."""
    if beta == 0 or alpha == 0:
        return beta * p + alpha * (x @ y)  # torch would leave out NaN and infinities
    if p.dim() == 2:
        return torch.addmm(p, x, y, beta=beta, alpha=alpha)
    stacks = (z.flatten(0, -3) for z in (p, x, y))
    return torch.baddbmm(*stacks, beta=beta, alpha=alpha).view(p.shape)'''


@dataclass(frozen=True)
class Scaled:
    """A value times numbers of the host; the product of no numbers is 1."""

    value: Value
    factors: tuple[Value, ...] = ()
    negative: bool = False


@dataclass(frozen=True)
class FusedProduct:
    """``added + left @ right``, the last two scaled as `factors` says."""

    added: Scaled
    left: Value
    right: Value
    factors: tuple[Value, ...]
    negative: bool


class FusedProducts:
    """The sums of a program that are computed together with their products.

    Attributes:
        sums: what each such sum is.
        absorbed: the values that are parts of them alone.
    """

    def __init__(
        self,
        program: Program,
        uses: Mapping[Value, int],
        host: Collection[Value],
        narrow: Collection[Value],
    ) -> None:
        """Look for them.

        Args:
            program: the program.
            uses: how often each value is used.
            host: the values that are numbers of the host.
            narrow: the values that may be in bfloat16.
        """
        self._program, self._uses, self._host, self._narrow = program, uses, host, narrow
        self._inside: set[Value] = set()
        self.sums: dict[Value, FusedProduct] = {}
        self.absorbed: set[Value] = set()
        for value in uses:
            self._inside = set()
            found = None if value in self.absorbed else self._sum(value)
            if found is not None:
                self.sums[value] = found
                self.absorbed |= self._inside

    def _sum(self, value: Value) -> FusedProduct | None:
        operation = self._program.operations[value]
        if operation.opcode not in {"add", "sub"} or len(operation.type.spans) != 2:
            return None
        minus = operation.opcode == "sub"
        for place in (1, 0):
            self._inside = set()
            product = self._scaled(operation.arguments[place])
            added = self._scaled(operation.arguments[1 - place])
            matmul = self._program.operations[product.value]
            alone = matmul.opcode == "matmul" and self._alone(product.value)
            if not alone or self._program.type(added.value) != operation.type:
                continue
            left, right = (self._scaled(x) for x in matmul.arguments)
            parts = {left.value, right.value, added.value, product.value, value}
            if len({x in self._narrow for x in parts}) != 1:
                continue  # torch takes matrices of one dtype
            self._inside.add(product.value)
            negative = product.negative ^ left.negative ^ right.negative ^ (minus and place == 1)
            if minus and place == 0:
                added = Scaled(added.value, added.factors, not added.negative)
            factors = (*product.factors, *left.factors, *right.factors)
            return FusedProduct(added, left.value, right.value, factors, negative)
        return None

    def _scaled(self, value: Value) -> Scaled:
        """A value without the factors of the host that are written only here."""
        operation = self._program.operations[value]
        if value in self.sums or not self._alone(value):
            return Scaled(value)
        if operation.opcode == "neg":
            self._inside.add(value)
            inner = self._scaled(operation.arguments[0])
            return Scaled(inner.value, inner.factors, not inner.negative)
        if operation.opcode == "mul":
            for number, other in (operation.arguments, operation.arguments[::-1]):
                if number in self._host and other not in self._host:
                    self._inside.add(value)
                    inner = self._scaled(other)
                    return Scaled(inner.value, (number, *inner.factors), inner.negative)
        return Scaled(value)

    def _alone(self, value: Value) -> bool:
        return self._uses.get(value, 0) == 1 and self._program.operations[value].hint is None
