"""Values of a program of matrices as Python expressions.

Tensors are matrices or stacks of them: rows and columns are the last two dimensions. A value of one
axis has length 1 along the other one, and one number for a matrix is 1 by 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from optdsl.backends.python_expressions import Printer
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.types import Extent, Type

_EIGENVECTORS = '''\
def eigenvectors(s: Tensor) -> Tensor:
    """The eigenvectors of symmetric matrices as columns, that of the largest eigenvalue first."""
    return torch.linalg.eigh(s).eigenvectors.flip(-1)'''

_INVERSE_ROOT = '''\
def inverse_root(s: Tensor, p: float) -> Tensor:
    """s^(-1/p) of symmetric matrices; eigenvalues that rounding made of zero are cut off."""
    values, q = torch.linalg.eigh(s)
    least = values[..., -1:] * (s.shape[-1] * torch.finfo(s.dtype).eps)
    return (q * (torch.maximum(values, least) ** (-1 / p)).unsqueeze(-2)) @ q.mT'''

_QR = '''\
def qr(x: Tensor, order: Tensor) -> Tensor:
    """The columns of x made orthonormal in descending order, each staying in its place."""
    places = order.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    index = places.unsqueeze(-2).expand_as(x)
    q, r = torch.linalg.qr(x.gather(-1, index))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(x)
    return torch.empty_like(x).scatter_(-1, index, q * signs.unsqueeze(-2))'''

_NARROWED = '''\
def narrowed(x: Tensor) -> Tensor:
    """x in bfloat16 where products are faster in it, which is on a GPU."""
    return x.to(torch.bfloat16) if x.is_cuda else x'''

MATRIX_HELPERS = {
    "eigenvectors": _EIGENVECTORS,
    "inverse_root": _INVERSE_ROOT,
    "qr": _QR,
    "narrowed": _NARROWED,
}

_DIMENSIONS = {"rows": "-2", "cols": "-1"}
_ALL = "(-2, -1)"
# Dimensions of the shape of a value of some axes, after those of the stack.
_SHAPES = {
    (): "1, 1",
    ("rows",): "theta.shape[-2], 1",
    ("cols",): "1, theta.shape[-1]",
    ("rows", "rows"): "theta.shape[-2], theta.shape[-2]",
    ("cols", "cols"): "theta.shape[-1], theta.shape[-1]",
    ("cols", "rows"): "theta.shape[-1], theta.shape[-2]",
}
_PRODUCT, _ATOM = 3, 6


def spelled_operations() -> frozenset[str]:
    """The operations of matrices that have a spelling."""
    along = {f"{r}_{axis}" for r in ("sum", "mean") for axis in (*_DIMENSIONS, "tensor")}
    diagonals = {f"diagonal_{axis}" for axis in _DIMENSIONS}
    others = {"length", "identity", "section", "spread", "matmul", "transpose"}
    return frozenset(
        {*along, *diagonals, *others, "bfloat16", "float32", *MATRIX_HELPERS} - {"narrowed"}
    )


class MatrixPrinter(Printer):
    """Spells the values of a program of matrices."""

    def __init__(
        self, program: Program, hypers: Mapping[str, str], states: Mapping[str, str]
    ) -> None:
        super().__init__(program, hypers, states)
        self._host = _on_host(program)
        self._narrow = _in_bfloat16(program, self._host)

    def extent(self, value: Value) -> Extent:
        """A number that follows from shapes and hyperparameters is one of the host's."""
        return Extent.UNIFORM if value in self._host else super().extent(value)

    def _extended(self, value: Value, kind: Type, demanded: int) -> str:
        own = self._program.type(value)
        number = value in self._host
        if not number and own == kind:
            return self._at(value, demanded)
        if kind.extent is Extent.UNIFORM:
            return self._at(value, demanded)
        if kind.extent is Extent.TENSOR:
            text = self.text(value)
            if not number:
                return f"{self._at(value, _ATOM)}.expand_as(theta)"
            return "torch.zeros_like(theta)" if text == "0" else f"torch.full_like(theta, {text})"
        shape = f"*theta.shape[:-2], {_SHAPES[kind.axes]}"
        if number:
            return f"theta.new_full(({shape}), {self.text(value)})"
        return f"{self._at(value, _ATOM)}.expand({shape})"

    def _spell(self, value: Value) -> tuple[str, int]:
        if value in self._bound:
            return self._bound[value], _ATOM
        operation = self._program.operations[value]
        x = operation.arguments
        match operation.opcode:
            case "length":
                return f"theta.shape[{_DIMENSIONS[str(operation.attribute)]}]", _ATOM
            case "size":
                return "(theta.shape[-2] * theta.shape[-1])", _ATOM
            case "identity":
                length = f"theta.shape[{_DIMENSIONS[operation.type.axes[0]]}]"
                eye = f"torch.eye({length}, dtype=theta.dtype, device=theta.device)"
                return f"{eye}.expand(*theta.shape[:-2], -1, -1)", _ATOM
            case "sum" | "mean" as opcode:
                return self._reduced(opcode, x[0], _ALL)
            case "sum_tensor" | "mean_tensor" as opcode:
                text = f"torch.{opcode.partition('_')[0]}({self.text(x[0])})"
                return f"{text}.expand(*theta.shape[:-2], 1, 1)", _ATOM
            case "sum_rows" | "sum_cols" | "mean_rows" | "mean_cols" as opcode:
                name, _, axis = opcode.partition("_")
                return self._reduced(name, x[0], _DIMENSIONS[axis])
            case "spread":
                return self._extended(x[0], operation.type, _ATOM), _ATOM
            case "matmul":
                left, right = self._factor(x[0], value, _PRODUCT), self._factor(x[1], value, 4)
                return f"{left} @ {right}", _PRODUCT
            case "transpose":
                return f"{self._at(x[0], _ATOM)}.mT", _ATOM
            case "diagonal_rows" | "diagonal_cols" as opcode:
                beside = "-1" if opcode == "diagonal_rows" else "-2"
                inside = f"{self._at(x[0], _ATOM)}.diagonal(dim1=-2, dim2=-1)"
                return f"{inside}.unsqueeze({beside})", _ATOM
            case "bfloat16":
                return self._call("narrowed", x[0])
            case "float32":
                return (f"{self._at(x[0], _ATOM)}.to(theta.dtype)", _ATOM)
            case "eigenvectors" | "inverse_root" | "qr" as opcode:
                return self._call(opcode, *x)
            case _:
                return super()._spell(value)

    def _call(self, name: str, *arguments: Value) -> tuple[str, int]:
        if name in MATRIX_HELPERS:
            self.helpers.add(name)
        return super()._call(name, *arguments)

    def _reduced(self, name: str, x: Value, dimensions: str) -> tuple[str, int]:
        return f"torch.{name}({self.text(x)}, {dimensions}, keepdim=True)", _ATOM

    def _factor(self, x: Value, product: Value, level: int) -> str:
        """A factor of a product, in the precision of the other one."""
        if x in self._narrow and product not in self._narrow:
            return f"{self._at(x, _ATOM)}.to(theta.dtype)"
        return self._at(x, level)


def _on_host(program: Program) -> frozenset[Value]:
    """The values that are numbers of the host: made of hyperparameters, `t` and lengths."""
    found: set[Value] = set()
    for index, operation in enumerate(program.operations):
        stage = TABLE[operation.opcode].stage
        if operation.arguments:
            host = stage is Stage.ELEMENTWISE and found.issuperset(operation.arguments)
        else:
            given = {Stage.LITERAL, Stage.HOST, Stage.LENGTH}
            host = stage in given or operation.opcode == "length"
        if host:
            found.add(Value(index))
    return frozenset(found)


def _in_bfloat16(program: Program, host: frozenset[Value]) -> frozenset[Value]:
    """The values that may be in bfloat16: made of such values and of numbers of the host."""
    found: set[Value] = set()
    for index, operation in enumerate(program.operations):
        x = operation.arguments
        others = [a for a in x if a not in host]
        narrow = operation.opcode == "bfloat16" or (
            bool(others)
            and operation.opcode != "float32"
            and TABLE[operation.opcode].stage is not Stage.FACTORIZATION
            and found.issuperset(others)
        )
        if narrow:
            found.add(Value(index))
    return frozenset(found)
