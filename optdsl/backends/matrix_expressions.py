"""Values of a program of matrices as Python expressions.

Tensors are matrices or stacks of them: rows and columns are the last two dimensions. A value of one
axis has length 1 along the other one, and one number for a matrix is 1 by 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from optdsl.backends.base import BINARY
from optdsl.backends.fused_products import FusedProduct, FusedProducts
from optdsl.backends.lifetimes import Lifetimes
from optdsl.backends.matrix_helpers import MATRIX_HELPERS
from optdsl.backends.new_parameter import inverted, new_parameter, overwritable, spelled
from optdsl.backends.python_expressions import Printer
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.types import Extent, Type, side

_DIMENSIONS = {"rows": "-2", "cols": "-1"}
_ALL = "(-2, -1)"
# Along which dimensions a reduction of each name is.
_ALONG = {**_DIMENSIONS, "first": "-2", "last": "-1", "matrix": _ALL}
_PRODUCT, _ATOM = 3, 6
# The methods of tensors that overwrite what they are called on.
_OVERWRITING = {
    o: f"{o}_" for o in ("add", "sub", "mul", "div", "sqrt", "rsqrt", "exp", "log", "abs", "neg")
}
_EXCHANGEABLE = {"add", "mul"}


def spelled_operations() -> frozenset[str]:
    """The operations of matrices that have a spelling."""
    over = (*_DIMENSIONS, "tensor", "first", "last")
    along = {f"{r}_{axis}" for r in ("sum", "mean") for axis in over}
    along |= {f"{r}_{which}" for r in ("max", "min") for which in (*_ALONG, "tensor")}
    diagonals = {f"diagonal_{axis}" for axis in (*_DIMENSIONS, "own")}
    others = {"length", "identity", "indices", "section", "spread", "matmul", "transpose"}
    factorizations = {"eigenvectors", "inverse_root", "qr", "singular_vectors"}
    return frozenset({*along, *diagonals, *others, *factorizations, "bfloat16", "float32"})


class MatrixPrinter(Printer):
    """Spells the values of a program of matrices.

    Attributes:
        lifetimes: what is computed, and what is needed no more; None where nothing is overwritten.
        statement: the value whose statement is written.
        reused: the values in whose memory others are computed.
        parameter: the new parameter, which is computed where the caller wants it; None if the
            function has none, or no statement for it.
    """

    def __init__(
        self, program: Program, hypers: Mapping[str, str], states: Mapping[str, str]
    ) -> None:
        super().__init__(program, hypers, states)
        self._host = on_host(program)
        self._narrow = in_bfloat16(program, self._host)
        self._sums: dict[Value, FusedProduct] = {}
        self.lifetimes: Lifetimes | None = None
        self.statement: Value | None = None
        self.reused: set[Value] = set()
        self.parameter: Value | None = None
        self._inverted: set[Value] = set()

    def absorbed(self, uses: Mapping[Value, int]) -> frozenset[Value]:
        """The products and scaled matrices that are computed with a sum."""
        found = FusedProducts(self._program, uses, self._host, self._narrow)
        self._sums = found.sums
        self.alone = found.sums.keys()
        self._inverted = inverted(self._program, uses, self._host)
        return frozenset(found.absorbed)

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
        shape = f"*theta.shape[:-2], {self._shape(kind)}"
        if number:
            return f"theta.new_full(({shape}), {self.text(value)})"
        return f"{self._at(value, _ATOM)}.expand({shape})"

    def _length(self, axis: str) -> str:
        """The number of indices of an axis, as a whole number."""
        if axis in _DIMENSIONS:
            return f"theta.shape[{_DIMENSIONS[axis]}]"
        return f"int({self.text(dict(self._program.axes)[axis])})"

    def _shape(self, kind: Type) -> str:
        """The dimensions of a value of some axes, after those of the stack."""
        lengths = [self._length(axis) for axis in kind.spans]
        if len(kind.spans) == 1:
            lengths.insert(1 - side(kind.spans[0]), "1")
        return ", ".join(lengths or ["1", "1"])

    def _shape_of(self, kind: Type) -> str:
        if kind.extent is Extent.TENSOR:
            return ""
        return f"(*theta.shape[:-2], {self._shape(kind)})"

    def _spell(self, value: Value) -> tuple[str, int]:
        if value in self._bound:
            return self._bound[value], _ATOM
        if value in self._sums:
            return self._fused(self._sums[value]), _ATOM
        text = self._into_parameter(value) or self._in_place(value)
        if text is not None:
            return text, _ATOM
        operation = self._program.operations[value]
        x = operation.arguments
        match self._opcode(value):
            case "rsqrt":
                return self._call("torch.rsqrt", x[0])
            case "mul" if operation.opcode == "div":
                return f"{self._at(x[0], _PRODUCT)} * {self._at(x[1], _PRODUCT + 1)}", _PRODUCT
            case "length":
                return f"theta.shape[{_DIMENSIONS[str(operation.attribute)]}]", _ATOM
            case "size":
                return "(theta.shape[-2] * theta.shape[-1])", _ATOM
            case "identity":
                self.helpers.add("identity")
                return f"identity({self._length(operation.type.axes[0])}, theta)", _ATOM
            case "indices":
                length = self._length(operation.type.axes[0])
                indices = f"torch.arange({length}, dtype=theta.dtype, device=theta.device)"
                shape = f"*theta.shape[:-2], {self._shape(operation.type)}"
                return f"{indices}.unsqueeze(-1).expand({shape})", _ATOM
            case "singular_vectors":
                self.helpers.add("singular_vectors")
                count = self._length(operation.type.axes[1])
                return f"singular_vectors({self.text(x[0])}, {count})", _ATOM
            case "sum" | "mean" as opcode:
                squares = self._of_squares(opcode, x[0], f", {_ALL}")
                return (squares, _ATOM) if squares else self._reduced(opcode, x[0], _ALL)
            case "sum_tensor" | "mean_tensor" as opcode:
                name = opcode.partition("_")[0]
                text = self._of_squares(name, x[0], "") or f"torch.{name}({self.text(x[0])})"
                return f"{text}.expand(*theta.shape[:-2], 1, 1)", _ATOM
            case opcode if opcode.startswith(("max_", "min_")):
                name, _, which = opcode.partition("_")
                if which == "tensor":
                    text = f"torch.a{name}({self.text(x[0])})"
                    return f"{text}.expand(*theta.shape[:-2], 1, 1)", _ATOM
                return self._reduced(f"a{name}", x[0], _ALONG[which])
            case "sum_rows" | "sum_cols" | "mean_rows" | "mean_cols" as opcode:
                name, _, axis = opcode.partition("_")
                return self._reduced(name, x[0], _DIMENSIONS[axis])
            case "sum_first" | "sum_last" | "mean_first" | "mean_last" as opcode:
                name, _, which = opcode.partition("_")
                return self._reduced(name, x[0], "-2" if which == "first" else "-1")
            case "spread":
                return self._extended(x[0], operation.type, _ATOM), _ATOM
            case "matmul":
                left, right = self._factor(x[0], value, _PRODUCT), self._factor(x[1], value, 4)
                return f"{left} @ {right}", _PRODUCT
            case "transpose":
                return f"{self._at(x[0], _ATOM)}.mT", _ATOM
            case "diagonal_rows" | "diagonal_cols" | "diagonal_own" as opcode:
                beside = "-2" if opcode == "diagonal_cols" else "-1"
                inside = f"{self._at(x[0], _ATOM)}.diagonal(dim1=-2, dim2=-1)"
                return f"{inside}.unsqueeze({beside})", _ATOM
            case "where" if value in self._host:
                chosen = f"{self._at(x[1], 1)} if {self._at(x[0], 1)}"
                return f"{chosen} else {self._at(x[2], 0)}", 0
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

    def inline(self, value: Value) -> list[Value]:
        """As of every printer; of the new parameter, what its summand spells out."""
        if self._into_parameter(value) is None:
            return super().inline(value)
        found = new_parameter(self._program, value, self._host, self._bound)
        summand = found.first if found is not None and found.negated else value
        return [] if summand == value else super().inline(summand)

    def overwritten(self, value: Value) -> Value | None:
        """The subtrahend or divisor, where the difference or quotient takes its place."""
        operation = self._program.operations[value]
        if self._opcode(value) not in {"sub", "div"} or value in self._sums:
            return None
        if self._into_parameter(value) is not None:
            return None
        left, right = operation.arguments
        if self._free(left, value) or left in self._host or not self._free(right, value):
            return None
        return right

    def _in_place(self, value: Value) -> str | None:
        """The expression of a matrix that is computed where an argument was; None for others."""
        operation = self._program.operations[value]
        x, opcode = operation.arguments, self._opcode(value)
        if not x or len(operation.type.spans) != 2:
            return None
        method = _OVERWRITING.get(opcode)
        scaled = self._scaled_in_place(value, x) if opcode in {"add", "sub"} else None
        if scaled is not None:
            return scaled
        if method is not None and self._free(x[0], value):
            rest = ", ".join(self.text(a) for a in x[1:])
            return f"{self._at(x[0], _ATOM)}.{method}({rest})"
        if opcode in _EXCHANGEABLE and self._free(x[1], value):
            return f"{self._at(x[1], _ATOM)}.{method}({self.text(x[0])})"
        if self.overwritten(value) in self._bound:
            right = self.text(x[1])
            return f"torch.{opcode}({self.text(x[0])}, {right}, out={right})"
        if opcode in {"max", "min"} and x[1] in self._host and self._free(x[0], value):
            side = "min" if opcode == "max" else "max"
            return f"{self._at(x[0], _ATOM)}.clamp_({side}={self.text(x[1])})"
        return None

    def into(self, value: Value, name: str) -> str | None:
        """The expression that computes a value in the memory of a variable; None if it has none."""
        operation = self._program.operations[value]
        x = operation.arguments
        if operation.opcode not in BINARY or self._in_place(value) or value in self._sums:
            return None
        if self._into_parameter(value) is not None:
            return None
        x = x[::-1] if x[0] in self._host and operation.opcode in _EXCHANGEABLE else x
        if x[0] in self._host or operation.type.condition:
            return None
        return f"torch.{self._opcode(value)}({self.text(x[0])}, {self.text(x[1])}, out={name})"

    def _opcode(self, value: Value) -> str:
        """What is done for an operation: a product with a reciprocal for some quotients."""
        operation = self._program.operations[value]
        if value in self._inverted:
            return "rsqrt"
        if operation.opcode == "div" and operation.arguments[1] in self._inverted:
            return "mul"
        return operation.opcode

    def _into_parameter(self, value: Value) -> str | None:
        """The expression that computes the new parameter in `OUT`; None for other values."""
        if value != self.parameter or self.lifetimes is None:
            return None
        found = new_parameter(self._program, value, self._host, self._bound)
        parts = {value} if found is None else {value, found.first, found.second}
        if found is None or value in self._sums or parts & self._narrow:
            return None
        if not overwritable(self._program, self.lifetimes, value):
            return None
        if found.negated and self._negative(found.first) is None:
            return None
        return spelled(found, self.text, lambda x: self._negative(x) or "")

    def _negative(self, value: Value) -> str | None:
        """The expression of the negative of a matrix that makes no other one; None if it does."""
        operation = self._program.operations[value]
        if operation.opcode == "mul" and value not in self._bound:
            for number, matrix in (operation.arguments, operation.arguments[::-1]):
                if not self._program.type(number).spans and self._program.type(matrix).spans:
                    # Of a product with one number for each matrix, the number is negated.
                    negative = f"-{self._at(number, _ATOM)}"
                    if self._free(matrix, value):
                        return f"{self._at(matrix, _ATOM)}.mul_({negative})"
                    return f"{negative} * {self._at(matrix, _PRODUCT + 1)}"
        return f"{self._at(value, _ATOM)}.neg_()" if value not in self._bound else None

    def like_the_parameter(self, value: Value) -> bool:
        """Whether a value has the shape and the dtype of the parameter."""
        kind = self._program.type(value)
        return kind.extent is Extent.TENSOR and not kind.condition and value not in self._narrow

    def _scaled_in_place(self, value: Value, x: tuple[Value, ...]) -> str | None:
        """A sum or difference with a matrix times a number of the host, which is no matrix then."""
        negative = self._program.operations[value].opcode == "sub"
        for own, other in (x, x[::-1]):
            product = self._program.operations[other]
            if product.opcode != "mul" or other in self._bound or not self._free(own, value):
                continue
            for number, matrix in (product.arguments, product.arguments[::-1]):
                alike = (matrix in self._narrow) == (value in self._narrow)
                if number in self._host and matrix not in self._host and alike:
                    turned = negative and own == x[1]
                    text = f"{self._at(own, _ATOM)}{'.neg_()' if turned else ''}"
                    method = "sub_" if negative and not turned else "add_"
                    return f"{text}.{method}({self.text(matrix)}, alpha={self.text(number)})"
        return None

    def _free(self, argument: Value, value: Value) -> bool:
        """Whether a value can be computed in the memory of an argument."""
        if self.lifetimes is None or argument in self._host:
            return False
        if self._program.type(argument) != self._program.type(value):
            return False
        alike = (argument in self._narrow) == (value in self._narrow)
        free = alike and self.lifetimes.consumable(argument, value, value == self.statement)
        self.reused |= {argument} if free else set()
        return free

    def _fused(self, found: FusedProduct) -> str:
        self.helpers.add("add_product")
        scales = {
            "beta": self._product(found.added.factors, found.added.negative),
            "alpha": self._product(found.factors, found.negative),
        }
        parts = [self.text(x) for x in (found.added.value, found.left, found.right)]
        parts += [f"{name}={text}" for name, text in scales.items() if text != "1"]
        return f"add_product({', '.join(parts)})"

    def _product(self, factors: tuple[Value, ...], negative: bool) -> str:
        texts = [self._at(x, _PRODUCT + (i > 0)) for i, x in enumerate(factors)] or ["1"]
        if negative:
            texts[0] = f"-{self._at(factors[0], _PRODUCT + 1)}" if factors else "-1"
        return " * ".join(texts)

    def _of_squares(self, name: str, x: Value, dimensions: str) -> str | None:
        """A reduction of squares that nothing else needs; None for others."""
        operation = self._program.operations[x]
        if x in self._bound or operation.opcode != "pow":
            return None
        base, exponent = operation.arguments
        if self._program.operations[exponent].attribute != 2.0 or base in self._host:
            return None
        helper = f"{name}_of_squares"
        self.helpers.add(helper)
        return f"{helper}({self.text(base)}{dimensions})"

    def _reduced(self, name: str, x: Value, dimensions: str) -> tuple[str, int]:
        return f"torch.{name}({self.text(x)}, {dimensions}, keepdim=True)", _ATOM

    def _factor(self, x: Value, product: Value, level: int) -> str:
        """A factor of a product, in the precision of the other one."""
        if x in self._narrow and product not in self._narrow:
            return f"{self._at(x, _ATOM)}.to(theta.dtype)"
        return self._at(x, level)


def on_host(program: Program) -> frozenset[Value]:
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


def in_bfloat16(program: Program, host: frozenset[Value]) -> frozenset[Value]:
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
