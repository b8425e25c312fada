"""The C backend: one C99 file with OpenMP, every tensor of a call in one pass over memory.

The elements of each tensor are cut into blocks of fixed size, the blocks are shared out among the
threads, and a block goes through one loop that the compiler vectorizes. Uniform values are doubles,
computed once a row of hyperparameters; values of a tensor are doubles, too; elements are float, or
double for parameters in double precision. Sums are accumulated in double precision by fixed lanes
of fixed blocks, and the blocks' sums are added in order: the result does not depend on the number
of threads. Kernels for finite numbers add up the products of a chunk in the precision of a step.
The file knows nothing of shapes, of how many tensors there are, or of Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optdsl.backends.base import SourceModule, needed_kernels
from optdsl.backends.c import dots
from optdsl.backends.c.coding import WIDENED, coding, drawing
from optdsl.backends.c.driver import driver
from optdsl.backends.c.expressions import ELEMENTS, functions, of_numbers, spelled_operations
from optdsl.backends.c.functions import Functions
from optdsl.backends.c.matrices.kernels import helpers, kernels_of, matrix_kernel
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.plan import KINDS, Kind
from optdsl.schedule import Kernel, Role

BLOCK, CHUNK, LANES = 8192, 128, 32
_ORIGIN = """ Random numbers are of its origin:
   the seed, its number, the index of its first element in the whole tensor, and of a shard that
   does not follow on in it how many dimensions it has, and their lengths and strides there."""
# In bytes: a line of the cache, and how far ahead memory is asked for.
_LINE, _AHEAD = 64, 1024
# By how many lines rows begin behind the parameter, as far as the last bits of addresses go; states
# begin behind it by multiples of `_PLACES` lines, see `optdsl.runtime.engines.state_allocation`.
_PLACES, _BEHIND = 8, 5
# So much of the next tensor is asked for while the last block of this one is computed. A processor
# finds out only after some lines that a loop reads on; where tensors are parts of a few pages each,
# which are samples of larger ones, steps would wait for those lines at every part.
_FIRST = 512

_ATTRIBUTES = """\
#ifdef __GNUC__
#define APART __attribute__((noinline, unused))
#define RARE __attribute__((noinline, cold, unused))
#define FETCH(p) __builtin_prefetch(p, 0, 2)
#else
#define APART
#define RARE
#define FETCH(p) ((void)(p))
#endif
"""

_COMMON = """\
/* The tensor that a block belongs to, given the first block of each. */
APART static int64_t holder(const int64_t *first, int64_t count, int64_t block) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (first[middle] <= block) low = middle;
    else high = middle;
  }
  return low;
}

/* Where rows begin in their room. A load waits for an earlier store whose address has the same last
   bits. Large tensors begin where the parameter does, but for multiples of PLACES lines; if rows
   began there, too, or shortly behind, what is read next would wait for what was stored last. */
static inline void *beside(void *room, const void *parameter) {
  const uintptr_t line = LINE * sizeof(real);
  const uintptr_t wanted = (uintptr_t)parameter / line * line + BEHIND * line;
  return (char *)room + (wanted - (uintptr_t)room) % (PLACES * line);
}

/* Asks for what a loop over the elements of a tensor reads first. */
static inline void soon(const tensor *x, int slots) {
  for (int k = 0; k < slots; k++)
    for (int o = 0; o < FIRST; o += LINE * (int)sizeof(real))
      FETCH((const void *)((uintptr_t)x->memory[k] + (uintptr_t)o));
}

/* Sums in double precision, each lane for itself: in the same order everywhere. */
APART static void add_products(double *restrict acc, const double *restrict x,
                                const real *restrict y, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) acc[l] += x[i + l] * (double)y[i + l];
  for (int l = 0; i + l < n; l++) acc[l] += x[i + l] * (double)y[i + l];
}
/* An element has no part where its gradient is zero, whatever it is. */
RARE static void leave_out(const double *restrict gradient, real *restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = gradient[i] == 0 ? 0 : x[i];
}
APART static void copy(real *restrict to, const real *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}
RARE static void *padded(void *to, const void *from, size_t used, size_t size) {
  memcpy(to, from, used);
  memset((char *)to + used, 0, size - used);
  return to;
}
APART static void put(element *restrict to, const real *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = rounded(from[i]);
}
APART static void get(double *restrict to, const element *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = (double)load(from[i]);
}
APART static void add_values(double *restrict acc, const real *restrict x, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int l = 0; l < LANES; l++) acc[l] += (double)x[i + l];
  for (int l = 0; i + l < n; l++) acc[l] += (double)x[i + l];
}
APART static double folded(double *acc) {
  for (int w = LANES / 2; w > 0; w /= 2)
    for (int l = 0; l < w; l++) acc[l] += acc[l + w];
  return acc[0];
}
"""


class CBackend:
    """Emits C for the processor."""

    name = "c"

    def emit(
        self, kernels: Mapping[str, Kernel], dtype: str = "float32", order: str = "overlapped"
    ) -> SourceModule:
        """The file of a rule; see `optdsl.backends.base.Backend`."""
        if of_matrices(kernels[Role.STEP].program.kind):
            return matrix_module(kernels_of(kernels), dtype)
        emitted = [Functions(kernel, dtype) for kernel in needed_kernels(kernels, order)]
        program = kernels[Role.STEP].program
        texts = [driver(functions) for functions in emitted]
        slots = 2 + max(len(f.entry.states) for f in emitted)
        double, drawn = emitted[0].storage.double, any(f.entry.draws for f in emitted)
        header = _header(program, dtype, slots, double, drawn)
        quick = [f.kernel for f in emitted if f.finite is not None]
        helpers = [of_numbers(double)] if quick else []
        helpers += [dots.HELPERS] if any(kernel.dots for kernel in quick) else []
        text = "\n".join([header, *helpers, *texts])
        return SourceModule(program.name, "c", text, {f.entry.name: f.entry for f in emitted})

    @staticmethod
    def plans(program: Program) -> tuple[Kind, ...]:
        """Those with all tangents; where tensors are read as matrices, they are states."""
        return ("stored",) if of_matrices(program.kind) else KINDS

    spellings = staticmethod(spelled_operations)


def matrix_module(kernels: Sequence[Kernel], dtype: str) -> SourceModule:
    """The file of some kernels whose tensors are read as matrices."""
    emitted = [matrix_kernel(kernel, dtype) for kernel in kernels]
    program = kernels[0].program
    slots = 2 + max(len(entry.states) for _, entry in emitted)
    header = _header(program, dtype, slots, dtype == "float64", drawn=False)
    texts = [header, helpers(), *(text for text, _ in emitted)]
    entries = {entry.name: entry for _, entry in emitted}
    return SourceModule(program.name, "c", "\n".join(texts), entries)


def _header(program: Program, dtype: str, slots: int, double: bool, drawn: bool) -> str:
    # A citation is text, and must not end the comment.
    lines = [line.replace("*/", "* /") for line in (program.name, *program.documentation)]
    kind, size = ("double", 8) if double else ("float", 4)
    origin = " const int64_t *origin;" if drawn else ""
    wide = double and dtype != "float64"
    return "\n".join(
        [
            "/* " + "\n   ".join(lines) + " */",
            "#include <float.h>",
            "#include <math.h>",
            "#include <stdint.h>",
            "#include <stdlib.h>",
            "#include <string.h>",
            "",
            _ATTRIBUTES,
            f"typedef {kind} real;  /* what a step is calculated in */",
            f"typedef int{64 if double else 32}_t bits;",
            WIDENED if wide else ELEMENTS[dtype],
            f"enum {{ BLOCK = {BLOCK}, CHUNK = {CHUNK}, LANES = {LANES} }};",
            f"enum {{ LINE = {_LINE // size}, AHEAD = {_AHEAD // size}, FIRST = {_FIRST} }};",
            f"enum {{ PLACES = {_PLACES}, BEHIND = {_BEHIND} }};",
            "",
            "/* A tensor: its number of elements, its row of hyperparameters, and where it lies:",
            f"   the parameter, its gradient, its states.{_ORIGIN if drawn else ''} */",
            f"typedef struct {{ int64_t size, row; void *memory[{slots}];{origin} }} tensor;",
            "",
            functions(double),
            _COMMON,
            *coding(program, dtype, double),
            *([drawing(double)] if drawn else []),
        ]
    )
