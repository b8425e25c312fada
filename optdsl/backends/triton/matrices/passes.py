"""A pass over the elements of matrices in Triton: a kernel over tiles, and one that folds sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.axis_values import KernelPass
from optdsl.backends.named import PARAMETER_LIKE
from optdsl.backends.tiled_passes import COLS, ROWS, STACK, Reduction
from optdsl.backends.triton.layout import function
from optdsl.backends.triton.matrices.layout import COUNTS, OF_FOLDS, OF_TILES, head, launch
from optdsl.backends.triton.matrices.values import MatrixValues, joined, named, start
from optdsl.backends.triton.values import DOUBLE
from optdsl.ir.ops import LEAVES
from optdsl.ir.program import Value

_TILES = [
    "cols = width * UNIT",
    "across = (cols + WIDE - 1) // WIDE",
    "down = (rows + HIGH * TALL - 1) // (HIGH * TALL)",
]
# Half of the row of uniform values, which is known when all functions have said what they need.
HALF_HERE = "@HALF@"


@dataclass(frozen=True)
class MatrixPass(KernelPass[MatrixValues]):
    """The kernels of one pass.

    Attributes:
        element: the type of the elements of the parameter.
    """

    element: str

    @property
    def sums(self) -> tuple[int, int, int]:
        """How many reductions give values of rows, values of columns, and numbers."""
        return len(self._giving(ROWS)), len(self._giving(COLS)), len(self._whole)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do for elements."""
        return not (self.reductions or self.stored)

    @property
    def name(self) -> str:
        """The name of the kernel over tiles."""
        return f"{self.values.kernel.name}_pass{self.number}"

    @property
    def _fold_name(self) -> str:
        return f"{self.values.kernel.name}_fold{self.number}"

    @cached_property
    def _pointers(self) -> list[str]:
        read = [b for v in self.own.body if (b := self.values.buffer_of(v)) is not None]
        used = dict.fromkeys([*read, *map(self.values.kernel.home, self.stored)])
        return list(map(self.values.buffer, used))

    def call(self) -> list[str]:
        """The lines that launch its kernels."""
        if self.empty:
            return []
        folds = launch(self._fold_name, "c.folds", (), OF_FOLDS) if self.reductions else []
        return [*launch(self.name, "c.units", self._pointers, OF_TILES), *folds]

    def texts(self) -> list[str]:
        """Its kernels."""
        if self.empty:
            return []
        return [self._tiles(), *([self._fold()] if self.reductions else [])]

    def _giving(self, gives: str) -> list[tuple[Value, Reduction]]:
        return [(v, r) for v, r in self.reductions if r.gives == gives]

    @property
    def _whole(self) -> list[tuple[Value, Reduction]]:
        return [(v, r) for v, r in self.reductions if r.gives not in {ROWS, COLS}]

    def _kind(self, buffer: str) -> str:
        return self.element if buffer in PARAMETER_LIKE.values() else self.values.real

    # --- tiles ----------------------------------------------------------------------------------

    def _tiles(self) -> str:
        """The kernel over tiles: a program has some below each other."""
        values = self.values
        summands = [values.operation(v).arguments[0] for v in self.own.reductions]
        outside = [*(r.value for r in self.stored), *summands]
        computed = [v for v in self.own.body if values.operation(v).opcode not in LEAVES]
        fixed = values.fixed(computed, outside, values.real, set(self.own.body))
        along = values.along(self.own.body, outside)
        beside = [v for v in along if values.axis(v) == COLS]
        of_rows = [v for v in along if values.axis(v) == ROWS]
        lines = [
            f'"""Some tiles of a matrix, from top to bottom (pass {self.number})."""',
            *_TILES,
            "m = (tl.program_id(0) // (across * down)).to(tl.int64)",
            "below = tl.program_id(0) % (across * down) // across",
            "beside = tl.program_id(0) % across",
            *self._at(fixed),
            *fixed,
            "c = beside * WIDE + tl.arange(0, WIDE)[None, :]",
            "in_cols = c < cols",
            *(self._loaded(v, "c", "in_cols") for v in beside),
        ]
        for k, (_, found) in enumerate(self._giving(COLS)):
            lines.append(f"COL{k} = tl.full((1, WIDE), {start(found.kind)}, {DOUBLE})")
        for k, (_, found) in enumerate(self._whole):
            lines.append(f"ALL{k} = tl.full((), {start(found.kind)}, {DOUBLE})")
        lines.append("some = tl.minimum((rows + HIGH - 1) // HIGH - below * TALL, TALL)")
        lines += ["for k in range(some):", *(f"    {x}" for x in self._tile(of_rows, computed))]
        for k, _ in enumerate(self._giving(COLS)):
            place = f"(({k} * stack + m) * down + below) * cols + c"
            lines.append(f"tl.store(of_cols + {place}, COL{k}, mask=in_cols)")
        for k, _ in enumerate(self._whole):
            place = f"{k} * tl.num_programs(0) + tl.program_id(0)"
            lines.append(f"tl.store(of_all + {place}, ALL{k})")
        return function(head(self.name, self._pointers, OF_TILES), lines, COUNTS)

    def _tile(self, of_rows: Sequence[Value], computed: Sequence[Value]) -> list[str]:
        values, real = self.values, self.values.real
        lines = [
            "r = (below * TALL + k) * HIGH + tl.arange(0, HIGH)[:, None]",
            "in_rows = r < rows",
            "inside = in_rows & in_cols",
            "i = (m * rows + r) * cols + c",
            *(self._loaded(v, "r", "in_rows") for v in of_rows),
        ]
        for value in self.own.body:
            if (buffer := values.buffer_of(value)) is not None:
                cast = "" if self._kind(buffer) == real else f".to({real})"
                element = f"tl.load({values.buffer(buffer)} + i, mask=inside, other=0.0)"
                lines.append(f"{values.name(value)} = {element}{cast}")
        for value in computed:
            lines += values.assigned(value, real)
        for result in self.stored:
            home = values.kernel.home(result)
            x = f"{values.word(result.value, real)}.to({self._kind(home)})"
            lines.append(f"tl.store({values.buffer(home)} + i, {x}, mask=inside)")
        for k, (v, found) in enumerate(self._giving(ROWS)):
            place = f"(({k} * stack + m) * across + beside) * rows + r"
            lines.append(f"PART = {named('tile', found.kind)}({self._summand(v)}, inside, 1)")
            lines.append(f"tl.store(of_rows + {place}, PART, mask=in_rows)")
        for k, (v, found) in enumerate(self._giving(COLS)):
            part = f"{named('tile', found.kind)}({self._summand(v)}, inside, 0)"
            lines.append(f"COL{k} = {joined(found.kind, f'COL{k}', part)}")
        for k, (v, found) in enumerate(self._whole):
            part = f"{named('whole', found.kind)}({self._summand(v)}, inside)"
            lines.append(f"ALL{k} = {joined(found.kind, f'ALL{k}', part)}")
        return lines

    def _summand(self, value: Value) -> str:
        return self.values.word(self.values.operation(value).arguments[0], self.values.real)

    def _loaded(self, value: Value, index: str, inside: str) -> str:
        name, array = self.values.name(value), self.values.array(value)
        return f"{name} = tl.load({array} + {index}, mask={inside}, other=0.0)"

    def _at(self, lines: Sequence[str]) -> list[str]:
        real, found = self.values.real, []
        if any("u + " in line for line in lines):
            found.append(f"u = (uniforms + {HALF_HERE}).to(tl.pointer_type({real}))")
        if any("s + " in line for line in lines):
            found.append(f"s = scalars + m * {len(self.values.scalars)}")
        return found

    # --- sums -----------------------------------------------------------------------------------

    def _fold(self) -> str:
        """The kernel that makes results of the parts of tiles."""
        lines = [
            f'"""The reductions of pass {self.number}, of its parts in the order of the tiles."""',
            *_TILES,
            "above = (rows + BLOCK - 1) // BLOCK",
            "each = above + (cols + BLOCK - 1) // BLOCK + 1",
            "m = (tl.program_id(0) // each).to(tl.int64)",
            "part = tl.program_id(0) % each",
            "if part < above:",
            *(f"    {line}" for line in self._folded(ROWS, "part", "across", COLS)),
            "elif part < each - 1:",
            *(f"    {line}" for line in self._folded(COLS, "(part - above)", "down", ROWS)),
            "else:",
            *(f"    {line}" for line in self._numbers()),
        ]
        return function(head(self._fold_name, (), OF_FOLDS), lines, COUNTS)

    def _folded(self, axis: str, part: str, tiles: str, other: str) -> list[str]:
        values, lines = self.values, list[str]()
        for k, (v, found) in enumerate(self._giving(axis)):
            lines.append(f"parts = of_{axis} + ({k} * stack + m) * {tiles} * {axis} + i")
            sums = f"{named('layered', found.kind)}(parts, {axis}, {tiles}, inside)"
            mean = f" / {other}.to({DOUBLE})" if found.kind == "mean" else ""
            lines.append(f"to = {values.array(v)} + i")
            lines.append(f"tl.store(to, ({sums}{mean}).to({values.real}), mask=inside)")
        begun = [f"i = {part} * BLOCK + tl.arange(0, BLOCK)", f"inside = i < {axis}"]
        return [*begun, *lines] if lines else ["pass"]

    def _numbers(self) -> list[str]:
        values, count = self.values, len(self.values.scalars)
        lines = ["units = stack * across * down"]
        for k, (v, found) in enumerate(self._whole):
            whole = found.gives == STACK
            first = "0" if whole else "m * across * down"
            end = "units" if whole else "(m + 1) * across * down"
            place = f"of_all + {k} * units"
            sums = f"{named('gathered', found.kind)}({place}, 1, {first}, {end}, BLOCK)"
            size = f"rows.to({DOUBLE}) * cols{' * stack' if whole else ''}"
            mean = f" / ({size})" if found.kind == "mean" else ""
            x = f"({sums}{mean}).to({values.real}).to({DOUBLE})"
            lines.append(f"tl.store(scalars + m * {count} + {values.scalars.index(v)}, {x})")
        return lines if self._whole else ["pass"]
