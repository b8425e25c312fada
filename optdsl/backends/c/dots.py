"""Dot products of a chunk with the gradient in C, by the products of a basis.

The products of a chunk are added up in the precision of a step, in lanes as wide as a vector, and
the sums of chunks in double precision. The sum of a chunk is not finite if a factor is not, or if
a product is too large for its precision; the chunk then counts as one with such a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.c.basis import Basis, Product, nodes
from optdsl.backends.c.chunk import Chunk
from optdsl.backends.c.layout import braced, indented, listed
from optdsl.backends.c.stages import is_simple, tensors_of
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value

# The number of sums in one loop: processors have 16 registers, or 32.
_TOGETHER = 12

HELPERS = """\
/* The numbers of a vector, and those that its sums are kept in from chunk to chunk. */
#if defined __AVX512F__
enum { WIDE = 64 / sizeof(real), KEPT = WIDE / 2 };
#elif defined __AVX__
enum { WIDE = 32 / sizeof(real), KEPT = WIDE };
#else
enum { WIDE = 16 / sizeof(real), KEPT = WIDE };
#endif

/* The gradient of a chunk in the precision of a step, and from there in double precision. Inlined,
   since compilers merge equal functions, and one that only rare code calls is not vectorized. */
static inline void take(real *restrict to, const element *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = load(from[i]);
}
RARE static void widen(double *restrict to, const real *restrict from, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = (double)from[i];
}
"""


def recomputed(program: Program, basis: Basis) -> tuple[Value, ...]:
    """The factors that are one operation of other factors or of what is in memory, in order.

    To compute them again takes less time than to write and to read them.
    """
    operations = program.operations
    ready = set(basis.factors)

    def near(value: Value) -> bool:
        stored = TABLE[operations[value].opcode].stage is Stage.BUFFER
        return stored or value in ready

    def is_near(value: Value) -> bool:
        tensors = tensors_of(program, value)
        # The function of the sums has no uniform numbers but literal exponents.
        alone = operations[value].opcode == "pow" or tensors == operations[value].arguments
        return alone and all(map(near, tensors))

    return tuple(f for f in sorted(ready) if is_simple(program, f) and is_near(f))


@dataclass(frozen=True)
class Dots:
    """The function that adds up the products of a chunk, and what becomes of its sums.

    Attributes:
        name: its name.
        chunk: the chunk whose rows have the factors that are computed.
        basis: the products.
    """

    name: str
    chunk: Chunk
    basis: Basis

    @property
    def count(self) -> int:
        """The number of sums."""
        return len(self.basis.products)

    def text(self) -> str:
        """The function; it returns 0 and adds nothing if the sum of all sums is not finite.

        That is so if one of them is not; if only their sum is too large, the chunk is computed
        once more for nothing.
        """
        values, storage = self.chunk.values, self.chunk.values.storage
        changed = [b for b in self.buffers if b in self.chunk.changed]
        pointers = []
        for buffer in self.buffers:
            constant = "" if buffer in changed else "const "
            kind = storage.format(buffer).type
            pointers.append(f"{constant}{kind} *restrict {values.buffer(buffer)}")
        pointers += [f"const real *{row}" for row in self._rows]
        parameters = ["double (*restrict acc)[KEPT]", "real *restrict product",
                      *pointers, "real (*restrict out)[CHUNK]", "int64_t n"]  # fmt: skip
        lines = [
            f"real part[{self.count}][WIDE], all[KEPT];",
            f"for (int k = 0; k < {self.count}; k++)",
            "  for (int l = 0; l < WIDE; l++) part[k][l] = 0;",
            "if (n < CHUNK) {",
            "  memset(product + n, 0, (CHUNK - n) * sizeof *product);",
            f"  for (int k = 0; k < {self.chunk.height}; k++)",
            "    memset(out[k] + n, 0, (CHUNK - n) * sizeof *out[k]);",
            *(f"  memset({x} + n, 0, (CHUNK - n) * sizeof *{x});"
              for x in map(values.buffer, changed)),
            "}",
            *(line for group in self._groups for line in self._loop(group).split("\n")),
            f"for (int k = 0; k < {self.count}; k++)",
            "  for (int l = KEPT; l < WIDE; l++) part[k][l - KEPT] += part[k][l];",
            "for (int l = 0; l < KEPT; l++) all[l] = part[0][l];",
            f"for (int k = 1; k < {self.count}; k++)",
            "  for (int l = 0; l < KEPT; l++) all[l] += part[k][l];",
            "bits odds = 0;  /* the difference of an infinity and itself is no number */",
            "for (int l = 0; l < KEPT; l++) odds |= all[l] - all[l] == 0 ? 0 : -1;",
            "if (odds) return 0;",
            f"for (int k = 0; k < {self.count}; k++)",
            "  for (int l = 0; l < KEPT; l++) acc[k][l] += (double)part[k][l];",
            "return 1;",
        ]  # fmt: skip
        return braced(listed(f"APART static int {self.name}(", parameters), indented(lines))

    def call(self) -> str:
        """The call for a chunk."""
        values = self.chunk.values
        pointers = [values.buffer(b) for b in self.buffers]
        pointers += self._rows
        return f"{self.name}({', '.join(['near', 'product', *pointers, 'out', 'n'])})"

    def weighed(self, dot: int) -> str:
        """The expression of a dot product, of the sums of all chunks in `near`."""
        terms = [f"{self._coefficient(c)} * near[{k}][0]" for k, c in self.basis.weights[dot]]
        return " + ".join(terms) or "0"

    def folded(self) -> list[str]:
        """The lines that add up the lanes of each sum."""
        return [f"for (int k = 0; k < {self.count}; k++)",
                "  for (int l = 1; l < KEPT; l++) near[k][0] += near[k][l];"]  # fmt: skip

    def coefficients(self) -> list[str]:
        """The expressions of the coefficients, which have to be finite."""
        values = self.chunk.values
        found = (c for c in self.basis.coefficients if not values.constant(c))
        return [f"(real){values.location(c, self.chunk.row)}" for c in found]

    # --- parts ----------------------------------------------------------------------------------

    def _coefficient(self, value: Value) -> str:
        values = self.chunk.values
        if values.constant(value):
            return values.word(value, "double")
        return values.location(value, self.chunk.row)

    @cached_property
    def _groups(self) -> list[tuple[Product, ...]]:
        products = self.basis.products
        starts = range(0, len(products), _TOGETHER)
        return [products[start : start + _TOGETHER] for start in starts]

    @cached_property
    def _read(self) -> tuple[Value, ...]:
        """The values that the loops read, in order."""
        values, found = self.chunk.values, set(self.basis.factors)
        for value in recomputed(values.program, self.basis):
            found.discard(value)
            found.update(tensors_of(values.program, value))
        found.difference_update(recomputed(values.program, self.basis))
        return tuple(v for v in sorted(found) if values.operation(v).opcode != "gradient")

    @cached_property
    def _rows(self) -> tuple[str, ...]:
        """The rows of random numbers that they read."""
        values = self.chunk.values
        return tuple(dict.fromkeys(values.stream(v).row for v in self._read if values.drawn(v)))

    @cached_property
    def buffers(self) -> tuple[str, ...]:
        """The buffers that they read."""
        found = (self.chunk.at_end(v)[1] for v in self._read)
        parts = self.chunk.values.storage.parts
        return tuple(dict.fromkeys(part for b in found if b is not None for part in parts(b)))

    def _loop(self, group: tuple[Product, ...]) -> str:
        values, first = self.chunk.values, self.basis.products.index(group[0])
        lines = ["const int64_t i = o + l;"]
        again = recomputed(values.program, self.basis)
        wanted = {f for product in group for f in product}
        for value in reversed(again):
            wanted.update(tensors_of(values.program, value) if value in wanted else ())
        for value in sorted(wanted):
            if value in again:
                lines += values.assigned(value, "real")
            elif values.operation(value).opcode == "gradient":
                lines.append(f"const real {values.name(value)} = product[i];")
            else:
                text, _ = self.chunk.at_end(value)
                lines.append(f"const real {values.name(value)} = {text};")
        named: dict[Product, str] = {(): "product[i]"}
        for number, product in enumerate(nodes(group)):
            lines.append(f"const real PART{number} = {self._times(named, product)};")
            named[product] = f"PART{number}"
        for number, product in enumerate(group, start=first):
            lines.append(f"part[{number}][l] += {self._times(named, product)};")
        inner = braced("for (int l = 0; l < WIDE; l++)", lines).rstrip()
        head = "for (int64_t o = 0; o < CHUNK; o += WIDE)"
        # Not to be unrolled before it is vectorized: what becomes of that depends on the sums.
        return braced(head, ["#pragma omp simd", *inner.split("\n")]).rstrip()

    def _times(self, named: dict[Product, str], product: Product) -> str:
        if product in named:
            return named[product]
        *start, last = product
        return f"{named[tuple(start)]} * {self.chunk.values.name(last)}"
