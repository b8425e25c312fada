"""Kernels of matrices in C: passes over tiles, and what is computed between them.

A matrix is cut into tiles of whole parts of rows. The tiles of all matrices of a stack are shared
out among the threads. Each has its own parts of sums along rows and columns, in double precision,
which are added up in the order of the tiles: the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.backends.base import EntryPoint, entry_point
from optdsl.backends.c.functions import uniform_function
from optdsl.backends.c.layout import braced
from optdsl.backends.c.matrices.between import between, over_matrices, written_beside
from optdsl.backends.c.matrices.passes import MatrixPass
from optdsl.backends.c.matrices.values import MatrixValues
from optdsl.backends.c.storage import Storage
from optdsl.backends.tiled_passes import COLS, ROWS, passes
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Role

# The longest part of a row in a tile, the elements of a tile, and the most tiles below each other.
WIDE, ELEMENTS, DOWN = 2048, 16384, 256

COMMON = """\
enum {{ WIDE = {wide} }};

/* How a stack of matrices is cut into tiles. */
typedef struct {{
  int64_t stack, rows, cols, high, wide, down, across, tiles, units;
}} grid;

APART static grid tiling(const int64_t *shape) {{
  grid x = {{.stack = shape[0], .rows = shape[1], .cols = shape[2]}};
  const int64_t parts = (x.cols + WIDE - 1) / WIDE, part = (x.cols + parts - 1) / parts;
  x.wide = (part + 15) / 16 * 16;
  x.across = (x.cols + x.wide - 1) / x.wide;
  x.high = {elements} / (x.wide < x.cols ? x.wide : x.cols);
  if (x.high < 32) x.high = 32;
  if (x.high < (x.rows + {down} - 1) / {down}) x.high = (x.rows + {down} - 1) / {down};
  x.down = (x.rows + x.high - 1) / x.high;
  x.tiles = x.down * x.across;
  x.units = x.tiles * x.stack;
  return x;
}}

/* The same mean as `mixed`, without branches: lines have no kernel for finite numbers, and of this
   compilers make vectors. */
static inline real mixed_evenly(real mean, real x, bits turned, real way) {{
  const real share = turned ? 1 + way : way, gap = x - mean, end = chosen(turned, x, mean);
  const real sum = mean + x, near = end + way * gap, far = (1 - share) * mean + share * x;
  const real finite = gap <= LARGEST && gap >= -LARGEST ? near : far;
  const real zero = end == 0 ? sum : end;  /* zeros have signs */
  return chosen(way == 0 ? -1 : 0, end, gap == 0 ? zero : finite);
}}

APART static void fill(double *to, double value, int64_t n) {{
  for (int64_t i = 0; i < n; i++) to[i] = value;
}}
"""

# What a file has for sums, for maxima and for minima: `~` is the name, `@` joins a double y to x.
_REDUCTIONS = """
APART static void gather_~(double *restrict acc, const real *restrict line, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const double x = acc[i], y = (double)line[i];
    acc[i] = @;
  }
}
APART static double folded_~(double *acc) {
  for (int w = LANES / 2; w > 0; w /= 2)
    for (int l = 0; l < w; l++) {
      const double x = acc[l], y = acc[l + w];
      acc[l] = @;
    }
  return acc[0];
}
APART static double line_of_~(const real *restrict line, double start, int64_t n) {
  if (n < LANES) {
    double x = start;
    for (int64_t i = 0; i < n; i++) {
      const double y = (double)line[i];
      x = @;
    }
    return x;
  }
  double acc[LANES];
  fill(acc, start, LANES);
  add_~(acc, line, n);
  return folded_~(acc);
}
APART static double total_of_~(const double *parts, int64_t n) {
  double x = parts[0];
  for (int64_t i = 1; i < n; i++) {
    const double y = parts[i];
    x = @;
  }
  return x;
}
APART static double spaced_~(const double *numbers, int64_t apart, double start, int64_t n) {
  double x = start;
  for (int64_t i = 0; i < n; i++) {
    const double y = numbers[i * apart];
    x = @;
  }
  return x;
}
/* The parts of tiles, each of n numbers, made one, divided and rounded. */
APART static void fold_~(double *parts, int64_t tiles, int64_t n, double divisor, real *to) {
  for (int64_t k = 1; k < tiles; k++)
    for (int64_t i = 0; i < n; i++) {
      const double x = parts[i], y = parts[k * n + i];
      parts[i] = @;
    }
  for (int64_t i = 0; i < n; i++) to[i] = (real)(parts[i] / divisor);
}
"""
_ADDED = """
APART static void add_~(double *restrict acc, const real *restrict line, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) {
      const double x = acc[l], y = (double)line[i + l];
      acc[l] = @;
    }
  for (int l = 0; i + l < n; l++) {
    const double x = acc[l], y = (double)line[i + l];
    acc[l] = @;
  }
}
"""
_JOINED = {"values": "x + y", "largest": "maximumd(x, y)", "smallest": "minimumd(x, y)"}

_HEAD = """\
/* Returns 0, or 1 when there is no memory, and then nothing has changed.
   shape: the number of matrices, of rows, of columns; none is zero.
   memory: where the parameter, its gradient and its states lie, matrix after matrix, row by row.
   hypers: {order}. */
int {name}(const int64_t *shape, void *const *memory, const double *hypers, int threads) {{
  const grid layout = tiling(shape), *const x = &layout;
  double *u = malloc({uniforms} * sizeof *u);
  double *scalars = malloc((size_t)(x->stack * {scalars} + 1) * sizeof *scalars);
  real *row_values = malloc((size_t)(x->stack * x->rows * {rows} + 1) * sizeof *row_values);
  real *col_values = malloc((size_t)(x->stack * x->cols * {cols} + 1) * sizeof *col_values);
  double *of_rows =
      malloc((size_t)(x->stack * x->across * x->rows * {of_rows} + 1) * sizeof *of_rows);
  double *of_cols =
      malloc((size_t)(x->stack * x->down * x->cols * {of_cols} + 1) * sizeof *of_cols);
  double *of_all = malloc((size_t)(x->units * {of_all} + 1) * sizeof *of_all);
  const int failed =
      !u || !scalars || !row_values || !col_values || !of_rows || !of_cols || !of_all;
  threads = threads < x->units ? threads : (int)x->units;
  if (!failed) {{
"""
_PASS = """\
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
for (int64_t unit = 0; unit < x->units; unit++)
  {name}_tile{k}(x, memory, unit, u, scalars, row_values, col_values, of_rows, of_cols, of_all);
"""
_FOOT = """\
  }
  free(u), free(scalars), free(row_values), free(col_values);
  free(of_rows), free(of_cols), free(of_all);
  return failed;
}
"""


def helpers() -> str:
    """The functions that every kernel of matrices uses."""
    texts = [COMMON.format(wide=WIDE, elements=ELEMENTS, down=DOWN)]
    for name, joined in _JOINED.items():
        text = _REDUCTIONS if name == "values" else _ADDED + _REDUCTIONS
        texts.append(text.replace("~", name).replace("@", joined))
    return "".join(texts)


def matrix_kernel(kernel: Kernel, dtype: str) -> tuple[str, EntryPoint]:
    """The functions of a kernel, the last of which is the entry point; and what it takes.

    Every result is written to the memory of the parameter or the state itself.
    """
    kernel = replace(kernel, rotates=False)
    entry = entry_point(kernel, takes_step=True)
    values = MatrixValues(kernel, Storage(kernel, dtype), ("theta", "g", *entry.states))
    found = passes(kernel)
    made = [
        MatrixPass(values, number, own, number == len(found) - 1, entry)
        for number, own in enumerate(found)
    ]
    bodies = [p.text() for p in made if not p.empty]
    steps: list[str] = []
    for step in made:
        steps += between(values, entry, step.own.before)
        if not step.empty:
            steps += _PASS.format(name=kernel.name, k=step.number).rstrip().split("\n")
            steps += over_matrices(values, step.folds())
    beside: list[str] = []
    for result in kernel.stored:
        if result.type.extent is not Extent.TENSOR:
            beside += braced("", written_beside(values, entry, result)).strip().split("\n")
    steps += over_matrices(values, beside)
    uniform = uniform_function(values, entry, "uniform", "u")
    order = ", ".join(("t", *entry.hypers))
    lines = [f"    {line}" for line in (f"{kernel.name}_uniform(hypers, u);", *steps)]
    head = _HEAD.format(
        name=kernel.name,
        order=order,
        uniforms=len(values.places) + 1,
        scalars=len(values.scalars),
        rows=len(values.arrays[ROWS]),
        cols=len(values.arrays[COLS]),
        of_rows=max(len(p.giving(ROWS)) for p in made),
        of_cols=max(len(p.giving(COLS)) for p in made),
        of_all=max(len(p.giving("matrix", "stack")) for p in made),
    )
    body = "\n".join(lines)
    return "\n".join([uniform, *bodies, f"{head}{body}\n{_FOOT}"]), entry


def kernels_of(kernels: Mapping[str, Kernel]) -> list[Kernel]:
    """The kernels that steps of matrices call."""
    return [kernels[name] for name in (Role.INITIALIZE, Role.STEP) if name in kernels]
