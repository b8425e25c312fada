"""A loop over the elements of a block in C, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.c.block import SIZE, Block
from optdsl.backends.c.chunk import Chunk, stored_type
from optdsl.backends.c.layout import braced, indented, listed
from optdsl.backends.c.values import Values
from optdsl.backends.c.watch import watched
from optdsl.ir.program import Value


@dataclass(frozen=True)
class Chunked(Block):
    """The functions of a loop with sums, or with a kernel for finite numbers.

    Summands are stored in rows of a small array. If there is a kernel for finite numbers, it
    computes every chunk first: results are written to memory, and the values that they replace are
    kept in rows. If a number was not finite, these are put back, and the chunk is computed by the
    exact kernel.

    Attributes:
        finite: the values of the kernel for finite numbers.
    """

    finite: Values | None = None

    def text(self) -> str:
        """The functions; the last one is for a block of one tensor."""
        values, sums = self.values, len(self.sums)
        quick, exact = self._quick, self._exact
        first = quick or exact
        buffers = dict.fromkeys([*first.buffers, *(["g"] if self.dots else [])])
        chunk = [
            "const int64_t n = begin + size - start < CHUNK ? begin + size - start : CHUNK;",
            *(self._start(b, b in first.homes) for b in buffers),
            *(self._soon(b) for b in buffers if self._only_read),
            # Read first, since a gradient may be the parameter itself.
            *([f"get(product, {values.buffer('g')}, n);"] if self.dots else []),
            *(self._alone() if quick is None else self._tried(quick)),
        ]
        for k, (value, dot) in enumerate(self.sums):
            place = self._row(value)
            call = "add_products" if dot else "add_values"
            chunk.append(f"{call}(acc[{k}], {'product, ' if dot else ''}out[{place}], n);")
        height = max(exact.height, first.height)
        lines = [
            "(void)u, (void)q, (void)s;",
            SIZE,
            *first.tables(),
            f"real out[{height}][CHUNK];",
            *(self._edges(quick) if quick else []),
            *([f"const int plain = usual(f, {max(1, first.reals)});"] if quick else []),
            *(["double product[CHUNK];"] if self.dots else []),
            *([f"double acc[{sums}][LANES];", "memset(acc, 0, sizeof acc);"] if sums else []),
            braced(
                "for (int64_t start = begin; start < begin + size; start += CHUNK)", indented(chunk)
            ).rstrip(),
            f"for (int k = 0; k < {sums}; k++) sums[k] = folded(acc[k]);"
            if sums
            else "(void)sums;",
        ]
        texts = [exact.text("APART")]
        if quick is not None:
            texts = [
                "/* A chunk of finite numbers. The last row is finite if they were. */",
                quick.text("APART"),
                "/* A chunk of any numbers. */",
                exact.text("RARE", own_tables=True),
                "/* The same for a chunk that was taken for finite, and was not. */",
                self._again(),
            ]
        return "\n".join([*texts, self.framed(indented(lines))])

    @cached_property
    def _summands(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for v, _ in self.sums))

    @cached_property
    def _exact(self) -> Chunk:
        """The chunk as the rule is written."""
        name = self.name("elements" if self.finite is None else "carefully")
        results = (*(r.value for r in self.stored), *self._summands)
        return Chunk(name, self.values, self.loop.body, results)

    @cached_property
    def _quick(self) -> Chunk | None:
        """The chunk for finite numbers; sums are in the same rows as those of the other one."""
        if self.finite is None:
            return None
        kernel, old = self.finite.kernel, self.values.kernel
        results = {r.name: r.value for r in kernel.results}
        dots = {o.value: n.value for o, n in zip(old.dots, kernel.dots, strict=True)}
        body = kernel.loops[-1].body
        rows = (*(results[r.name] for r in self.stored), *(dots[v] for v in self._summands))
        return Chunk(
            self.name("quickly"),
            self.finite,
            body,
            rows,
            watched=watched(kernel.program, body, rows),
            row="q",
            homes=self.homes,
            kept=frozenset(self.homes) & frozenset(self.read),
            whole=True,
        )

    def _row(self, value: Value) -> int:
        """The row of a summand."""
        return len(self.stored) + self._summands.index(value)

    # --- lines ----------------------------------------------------------------------------------

    def _left_out(self) -> list[str]:
        """The lines that set tangents to zero where the gradient is zero."""
        rows = dict.fromkeys(self._row(value) for value, dot in self.sums if dot)
        return [f"leave_out(product, out[{row}], n);" for row in rows]

    def _alone(self) -> list[str]:
        """The lines of a chunk if there is no kernel for finite numbers."""
        call = listed(f"{self._exact.name}(", self._exact.arguments(["f", "b"]), ");")
        return [call, *self._copied(range(len(self.homes))), *self._left_out()]

    def _tried(self, quick: Chunk) -> list[str]:
        """The lines that try the kernel for finite numbers, and then the exact one if needed."""
        pad, back = [], []
        for buffer in quick.buffers:
            name = self.values.buffer(buffer)
            sizes = f"n * sizeof *{name}, CHUNK * sizeof *{name}"
            pad.append(f"{name} = padded({name}EDGE, {name}, {sizes});")
            if buffer in quick.homes:
                _, memory = self.pointer(buffer, True)
                back.append(f"memcpy({memory} + start, {name}, n * sizeof *{name});")
        failed = ["!plain"]
        if quick.odd is not None:
            failed.append(f"odd(out[{quick.odd}], n)")
        again = f"{self.name('again')}(x, u, start, n, out, plain && n == CHUNK);"
        rare = braced(f"if ({' || '.join(failed)})", [again, *self._left_out()]).rstrip()
        return [
            braced("if (n < CHUNK)", pad).rstrip(),
            listed(f"if (plain) {quick.name}(", quick.arguments(["f", "b"]), ");"),
            rare,
            braced("else if (n < CHUNK)", back).rstrip(),
        ]

    def _edges(self, quick: Chunk) -> list[str]:
        """Room for a whole chunk of each buffer."""
        return [f"{stored_type(b)} {self.values.buffer(b)}EDGE[CHUNK];" for b in quick.buffers]

    def _again(self) -> str:
        """The function that restores the old contents of a chunk and computes it exactly."""
        kept = [k for k, home in enumerate(self.homes) if home in self.read]
        put_back = [braced("if (put_back)", self._copied(kept)).rstrip()] if kept else []
        head = listed(
            f"RARE static void {self.name('again')}(",
            ["const tensor *x", "const double *u", "int64_t start", "int64_t n",
             "real (*restrict out)[CHUNK]", "int put_back"],
        )  # fmt: skip
        lines = [
            "(void)put_back;",
            *put_back,
            *(self._start(b, False) for b in self._exact.buffers),
            listed(f"{self._exact.name}(", self._exact.arguments(["u"]), ");"),
            *self._copied(range(len(self.homes))),
        ]
        return braced(head, indented(lines))

    @cached_property
    def _only_read(self) -> bool:
        """Whether it adds up what it reads, and writes nothing: it waits for memory only."""
        return not (self.stored or self.dots or self.finite is not None)

    def _soon(self, buffer: str) -> str:
        """The line that asks for what later chunks read."""
        name = self.values.buffer(buffer)
        return f"for (int64_t o = 0; o < n; o += LINE) FETCH({name} + o + AHEAD);"

    def _start(self, buffer: str, written: bool) -> str:
        kind, pointer = self.pointer(buffer, written)
        return f"{kind}{self.values.buffer(buffer)} = {pointer} + start;"

    def _copied(self, numbers: Iterable[int]) -> list[str]:
        """The lines that copy rows to the homes of the results."""
        lines = []
        for k in numbers:
            _, pointer = self.pointer(self.homes[k], True)
            call = "put" if self.homes[k] == "theta" else "copy"
            lines.append(f"{call}({pointer} + start, out[{k}], n);")
        return lines
