"""A pass over the elements of matrices in C: a function for part of a row, and one for a tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.axis_values import KernelPass
from optdsl.backends.base import EntryPoint
from optdsl.backends.c.chunk import loaded, table, written
from optdsl.backends.c.layout import braced, indented, listed, slot
from optdsl.backends.c.matrices.values import MatrixValues
from optdsl.backends.tiled_passes import COLS, ROWS, Reduction
from optdsl.ir.program import Value

# By the kind of a reduction: its part in the names of functions, and what it starts from.
KINDS = {
    "sum": ("values", "0"),
    "mean": ("values", "0"),
    "max": ("largest", "-INFINITY"),
    "min": ("smallest", "INFINITY"),
}


@dataclass(frozen=True)
class MatrixPass(KernelPass[MatrixValues]):
    """The functions of one pass.

    Attributes:
        entry: its entry point.
    """

    entry: EntryPoint

    @cached_property
    def homes(self) -> tuple[str, ...]:
        """The buffers that they are written to."""
        return tuple(map(self.values.kernel.home, self.stored))

    def giving(self, *gives: str) -> list[tuple[Value, Reduction]]:
        """The reductions that give something, in order."""
        return [(v, r) for v, r in self.reductions if r.gives in gives]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do for elements."""
        return not (self.reductions or self.stored)

    def text(self) -> str:
        """Both functions."""
        return f"{self._line()}{self._tile()}"

    # --- what is read ---------------------------------------------------------------------------

    @cached_property
    def _outside(self) -> list[Value]:
        """The values that are written or reduced."""
        return [*(r.value for r in self.stored), *self._summands]

    @cached_property
    def _summands(self) -> list[Value]:
        operations = self.values.program.operations
        return list(dict.fromkeys(operations[v].arguments[0] for v in self.own.reductions))

    @cached_property
    def _table(self) -> dict[str, tuple[str, str]]:
        return table(self.values, self.own.body, self._outside)

    @cached_property
    def _along(self) -> dict[str, list[Value]]:
        found = self.values.along(self.own.body, self._outside)
        return {axis: [v for v in found if self.values.axis(v) == axis] for axis in (ROWS, COLS)}

    @cached_property
    def _buffers(self) -> list[str]:
        names = [b for v in self.own.body if (b := self.values.buffer_of(v)) is not None]
        return list(dict.fromkeys([*names, *self.homes]))

    def _pointer(self, buffer: str) -> str:
        constant = "" if buffer in self.homes else "const "
        return f"{constant}{self.values.storage.format(buffer).type} *"

    @property
    def _name(self) -> str:
        return self.values.kernel.name

    # --- the functions --------------------------------------------------------------------------

    def _line(self) -> str:
        """A part of a row, element by element."""
        values, body = self.values, self.own.body
        parameters = ["const int64_t n", "const real *restrict f", "const bits *restrict b"]
        parameters += [f"const real {values.name(v)}" for v in self._along[ROWS]]
        parameters += [f"{self._pointer(b)}restrict {values.buffer(b)}" for b in self._buffers]
        parameters += [f"const real *restrict {values.name(v)}_AT" for v in self._along[COLS]]
        parameters += ["real (*restrict out)[WIDE]"]
        lines = ["(void)f, (void)b, (void)out;"]
        counts = {"real": 0, "bits": 0}
        for name, (kind, _) in self._table.items():
            lines.append(f"const {kind} {name} = {'f' if kind == 'real' else 'b'}[{counts[kind]}];")
            counts[kind] += 1
        loop = [line for v in body for line in loaded(values, v)]
        names = map(values.name, self._along[COLS])
        loop += [f"const real {name} = {name}_AT[i];" for name in names]
        computed = [v for v in body if not values.given(v)]
        loop += [line for v in computed for line in values.assigned(v, "real")]
        for result, home in zip(self.stored, self.homes, strict=True):
            loop += written(values, home, result.value)
        for place, value in enumerate(self._summands):
            loop.append(f"out[{place}][i] = {values.word(value, 'real')};")
        lines += braced("for (int64_t i = 0; i < n; i++)", loop).rstrip().split("\n")
        head = listed(f"static void {self._name}_line{self.number}(", parameters)
        return braced(head, indented(lines))

    def _tile(self) -> str:
        """A tile, row by row, and its part of the reductions."""
        values = self.values
        parameters = ["const grid *x", "void *const *memory", "const int64_t unit",
                      "const double *u", "const double *scalars", "const real *row_values",
                      "const real *col_values", "double *of_rows", "double *of_cols",
                      "double *of_all"]  # fmt: skip
        numbers = len(values.scalars)
        lines = [
            "(void)u, (void)row_values, (void)col_values, (void)of_rows, (void)of_cols, "
            "(void)of_all;",
            "const int64_t m = unit / x->tiles, down = unit % x->tiles / x->across;",
            "const int64_t across = unit % x->across;",
            "const int64_t top = down * x->high, left = across * x->wide;",
            "const int64_t high = x->rows - top < x->high ? x->rows - top : x->high;",
            "const int64_t n = x->cols - left < x->wide ? x->cols - left : x->wide;",
            "const int64_t begin = (m * x->rows + top) * x->cols + left;",
            f"const double *s = scalars + m * {numbers};",
            "(void)s;",
        ]
        for word, kind in (("f", "real"), ("b", "bits")):
            texts = [text for k, text in self._table.values() if k == kind] or ["0"]
            lines.append(listed(f"const {kind} {word}[] = {{", texts, "};"))
        for buffer in self._buffers:
            kind, place = self._pointer(buffer), slot(self.entry, buffer)
            lines.append(f"{kind}{values.buffer(buffer)} = ({kind})memory[{place}] + begin;")
        for axis, offset in ((ROWS, "top"), (COLS, "left")):
            for v in self._along[axis]:
                lines.append(f"const real *{values.name(v)}_AT = {values.array(v)} + {offset};")
        lines.append(f"real out[{max(1, len(self._summands))}][WIDE];")
        lines += self._begun()
        arguments = ["n", "f", "b", *(f"{values.name(v)}_AT[row]" for v in self._along[ROWS])]
        arguments += [f"{values.buffer(b)} + row * x->cols" for b in self._buffers]
        arguments += [*(f"{values.name(v)}_AT" for v in self._along[COLS]), "out"]
        loop = [listed(f"{self._name}_line{self.number}(", arguments, ");"), *self._added()]
        head = "for (int64_t row = 0; row < high; row++)"
        lines += braced(head, indented(loop)).rstrip().split("\n")
        lines += self._ended()
        head = listed(f"static void {self._name}_tile{self.number}(", parameters)
        return braced(head, indented(lines))

    # --- reductions -----------------------------------------------------------------------------

    @property
    def _lanes(self) -> list[tuple[Value, Reduction]]:
        return [(v, r) for v, r in self.reductions if r.gives not in {ROWS, COLS}]

    def _row(self, value: Value) -> str:
        argument = self.values.operation(value).arguments[0]
        return f"out[{self._summands.index(argument)}]"

    def _begun(self) -> list[str]:
        lines = []
        for k, (_, found) in enumerate(self.giving(COLS)):
            part = f"({k} * x->stack + m) * x->down + down"
            lines.append(f"double *col{k} = of_cols + ({part}) * x->cols + left;")
            lines.append(f"fill(col{k}, {KINDS[found.kind][1]}, n);")
        for k, _ in enumerate(self.giving(ROWS)):
            part = f"({k} * x->stack + m) * x->across + across"
            lines.append(f"double *row{k} = of_rows + ({part}) * x->rows + top;")
        for k, (_, found) in enumerate(self._lanes):
            lines += [f"double all{k}[LANES];", f"fill(all{k}, {KINDS[found.kind][1]}, LANES);"]
        return lines

    def _added(self) -> list[str]:
        lines = []
        for k, (v, found) in enumerate(self.giving(COLS)):
            lines.append(f"gather_{KINDS[found.kind][0]}(col{k}, {self._row(v)}, n);")
        for k, (v, found) in enumerate(self.giving(ROWS)):
            name, start = KINDS[found.kind]
            lines.append(f"row{k}[row] = line_of_{name}({self._row(v)}, {start}, n);")
        for k, (v, found) in enumerate(self._lanes):
            lines.append(f"add_{KINDS[found.kind][0]}(all{k}, {self._row(v)}, n);")
        return lines

    def _ended(self) -> list[str]:
        return [
            f"of_all[{k} * x->units + unit] = folded_{KINDS[found.kind][0]}(all{k});"
            for k, (_, found) in enumerate(self._lanes)
        ]

    def folds(self) -> list[str]:
        """The lines that make the results of the reductions of the parts of tiles."""
        values = self.values
        lines = []
        for gives, tiles, across in ((ROWS, "across", COLS), (COLS, "down", ROWS)):
            for k, (v, found) in enumerate(self.giving(gives)):
                name = KINDS[found.kind][0]
                divisor = f"(double)x->{across}" if found.kind == "mean" else "1"
                parts = f"of_{gives} + ({k} * x->stack + m) * x->{tiles} * x->{gives}"
                call = [parts, f"x->{tiles}", f"x->{gives}", divisor, values.array(v)]
                lines.append(listed(f"fold_{name}(", call, ");"))
        for k, (v, found) in enumerate(self._lanes):
            stack = found.gives == "stack"
            begin, count = ("0", "x->units") if stack else ("m * x->tiles", "x->tiles")
            size = f"((double)x->rows * (double)x->cols{' * (double)x->stack' if stack else ''})"
            divided = f" / {size}" if found.kind == "mean" else ""
            total = f"total_of_{KINDS[found.kind][0]}(of_all + {k} * x->units + {begin}, {count})"
            place = values.scalars.index(v)
            text = f"(real)({total}{divided})"
            text = f"m ? scalars[{place}] : {text}" if stack else text
            lines.append(f"scalars[m * {len(values.scalars)} + {place}] = {text};")
        return lines
