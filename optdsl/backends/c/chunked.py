"""A loop over the elements of a block in C, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from optdsl.backends.c.basis import Basis
from optdsl.backends.c.block import SIZE, Block
from optdsl.backends.c.chunk import Chunk
from optdsl.backends.c.dots import Dots, recomputed
from optdsl.backends.c.finite import FiniteValues
from optdsl.backends.c.layout import braced, indented, listed
from optdsl.backends.c.stages import tensors_of
from optdsl.backends.c.storage import Stream
from optdsl.backends.c.watch import watched
from optdsl.ir.program import Value, upstream
from optdsl.ir.types import SCALAR


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

    finite: FiniteValues | None = None

    def text(self) -> str:
        """The functions; the last one is for a block of one tensor."""
        values, sums = self.values, len(self.sums)
        quick, exact = self._quick, self._exact
        first = quick or exact
        buffers = dict.fromkeys([*first.buffers, *(["g"] if self.dots else []), *self._further])
        chunk = [
            "const int64_t n = begin + size - start < CHUNK ? begin + size - start : CHUNK;",
            *(self._start(b, b in first.changed) for b in buffers),
            *(self._soon(b) for b in buffers if self._only_read),
            *(self._drawn(s) for s in self._streams),
            # Read first, since a gradient may be the parameter itself.
            *([f"{'get' if quick is None else 'take'}(product, {values.buffer('g')}, n);"]
              if self.dots else []),
            *(self._alone() if quick is None else self._tried(quick)),
        ]  # fmt: skip
        chunk += self._added("product", dots=quick is None)
        height = max(exact.height, first.height)
        lines = [
            "(void)u, (void)q, (void)s;",
            SIZE,
            *first.tables([] if self._dots is None else self._dots.coefficients()),
            f"real room[{height} * CHUNK + PLACES * LINE];",
            "real (*const out)[CHUNK] = beside(room, x->memory[0]);",
            *(line for s in self._streams for line in self._opened(s)),
            *(self._edges(quick) if quick else []),
            *(self._plain(quick) if quick else []),
            *([f"{'double' if quick is None else 'real'} product[CHUNK];"] if self.dots else []),
            *(
                [f"double near[{self._dots.count}][KEPT];", "memset(near, 0, sizeof near);"]
                if self._dots
                else []
            ),
            *([f"double acc[{sums}][LANES];", "memset(acc, 0, sizeof acc);"] if sums else []),
            braced(
                "for (int64_t start = begin; start < begin + size; start += CHUNK)", indented(chunk)
            ).rstrip(),
            f"for (int k = 0; k < {sums}; k++) sums[k] = folded(acc[k]);"
            if sums
            else "(void)sums;",
            *(self._weighed(self._dots) if self._dots else []),
        ]
        texts = [exact.text("APART")]
        if quick is not None:
            texts = [
                "/* A chunk of finite numbers. The last row is finite if they were. */",
                quick.text("APART"),
                *([self._dots.text()] if self._dots else []),
                "/* A chunk of any numbers. */",
                exact.text("RARE", own_tables=True),
                "/* The same for a chunk that was taken for finite, and was not. */",
                self._again(),
            ]
        return "\n".join([*texts, self.framed(indented(lines))])

    @cached_property
    def _summands(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for v, _ in self.sums))

    @property
    def _results(self) -> tuple[Value, ...]:
        return (*(r.value for r in self.stored), *self._summands)

    @cached_property
    def _exact(self) -> Chunk:
        """The chunk as the rule is written."""
        name = self.name("elements" if self.finite is None else "carefully")
        made = Chunk(name, self.values, self.loop.body, self._results)
        if self.finite is not None or not any(map(self.coded, self.homes)) or made.cut_up:
            return made
        # One loop reads an element before it writes it; what is more than rounded has its own.
        direct = tuple(home for home in self.homes if not self.coded(home))
        return replace(made, homes=direct)

    @cached_property
    def _quick(self) -> Chunk | None:
        """The chunk for finite numbers; sums are in the same rows as those of the other one."""
        if self.finite is None:
            return None
        kernel = self.finite.kernel
        loop = kernel.loops[self.number]
        named = {r.name: r.value for r in kernel.results}
        stored = tuple(named[r.name] for r in self.stored)
        again = recomputed(kernel.program, self._basis) if self._basis else ()
        factors = {d.value for d in kernel.dots if self.last}.difference(again)
        shown = factors.union(*(tensors_of(kernel.program, v) for v in again))
        wanted = shown.difference(again)
        summands = dict.fromkeys(kernel.program.operations[v].arguments[0] for v in loop.reductions)
        needed = upstream(kernel.program.operations, (*stored, *shown, *summands))
        body = tuple(v for v in loop.body if v in needed)
        # What memory holds as it was computed needs no row.
        made = Chunk(self.name("quickly"), self.finite, body, stored, homes=self.homes)
        exact = {stored[k] for k in made.exact}
        rows = (v for v in sorted(wanted) if not self.finite.given(v) and v not in exact)
        results = (*stored, *summands, *rows)
        return replace(
            made,
            results=results,
            watched=watched(kernel.program, body, results, wanted),
            row="q",
            kept=frozenset(self.homes) & frozenset(self.read),
            whole=True,
            learns=bool(factors),
        )

    @cached_property
    def _dots(self) -> Dots | None:
        """The sums of the chunk for finite numbers."""
        quick, basis = self._quick, self._basis
        if quick is None or basis is None or not basis.products:
            return None
        return Dots(self.name("added"), quick, basis)

    @property
    def _basis(self) -> Basis | None:
        return self.finite.kernel.basis if self.finite is not None and self.last else None

    @property
    def _further(self) -> tuple[str, ...]:
        """What only sums read."""
        return self._dots.buffers if self._dots else ()

    def _row(self, value: Value) -> int:
        """The row of a summand."""
        return len(self.stored) + self._summands.index(value)

    # --- lines ----------------------------------------------------------------------------------

    def _left_out(self, gradient: str) -> list[str]:
        """The lines that set tangents to zero where the gradient is zero."""
        rows = dict.fromkeys(self._row(value) for value, dot in self.sums if dot)
        return [f"leave_out({gradient}, out[{row}], n);" for row in rows]

    def _added(self, gradient: str, dots: bool) -> list[str]:
        """The lines that add up the rows of a chunk: summands, or products with the gradient."""
        lines = []
        for k, (value, dot) in enumerate(self.sums):
            if dot and not dots:
                continue
            what = f"add_products(acc[{k}], {gradient}, " if dot else f"add_values(acc[{k}], "
            lines.append(f"{what}out[{self._row(value)}], n);")
        return lines

    def _weighed(self, dots: Dots) -> list[str]:
        """The lines that make dot products of the sums of a basis."""
        places = [k for k, (_, dot) in enumerate(self.sums) if dot]
        added = [f"sums[{k}] += {dots.weighed(n)};" for n, k in enumerate(places)]
        return [braced("if (plain)", [*dots.folded(), *added]).rstrip()]

    def _alone(self) -> list[str]:
        """The lines of a chunk if there is no kernel for finite numbers."""
        call = listed(f"{self._exact.name}(", self._exact.arguments(["f", "b"]), ");")
        direct = len(self._exact.homes)
        return [call, *self._copied(range(direct, len(self.homes))), *self._left_out("product")]

    def _tried(self, quick: Chunk) -> list[str]:
        """The lines that try the kernel for finite numbers, and then the exact one if needed."""
        pad, back = [], []
        for buffer in dict.fromkeys([*quick.buffers, *self._further]):
            name = self.values.buffer(buffer)
            sizes = f"n * sizeof *{name}, CHUNK * sizeof *{name}"
            pad.append(f"{name} = padded({name}EDGE, {name}, {sizes});")
            if buffer in quick.changed:
                _, memory = self.pointer(buffer, True)
                back.append(f"memcpy({memory} + start, {name}, n * sizeof *{name});")
        failed = ["!plain"]
        if quick.odd is not None:
            failed.append(f"odd(out[{quick.odd}], n)")
        if self._dots:
            failed.append(f"!{self._dots.call()}")
        held = [stream.row for stream in self._streams]
        held += [f"{self.values.buffer(b)}OLD" for b in self._held]
        arguments = ["x", *self.values.rows, "start, n, out, plain && n == CHUNK", *held]
        again = f"{self.name('again')}({', '.join(arguments)});"
        careful = [again]
        if self.dots:
            careful += ["double wide[CHUNK];", "widen(wide, product, n);", *self._left_out("wide")]
            careful += self._added("wide", dots=True)
        rare = braced(f"if ({' || '.join(failed)})", careful).rstrip()
        return [
            braced("if (n < CHUNK)", pad).rstrip(),
            *(f"memcpy({x}OLD, {x}, sizeof {x}OLD);" for x in map(self.values.buffer, self._held)),
            listed(f"if (plain) {quick.name}(", quick.arguments(["f", "b"]), ");"),
            rare,
            braced("else if (n < CHUNK)", back).rstrip(),
        ]

    def _plain(self, quick: Chunk) -> list[str]:
        """The lines that tell whether what is the same for all elements is finite."""
        values = self.values
        asked = values.asked(self.loop.body, self._results, "real")
        own = [f"(real){values.location(v)}" for v in asked if values.program.type(v) == SCALAR]
        seen = {text for _, text in quick.table.values()}
        left = [text for text in own if text not in seen]
        looked_at = ["usual(f, (int64_t)(sizeof f / sizeof *f))"]
        lines = []
        if left:
            # What a collected expression leaves out may be infinite or no number all the same.
            lines = [listed("const real own[] = {", left, "};")]
            looked_at.append(f"usual(own, {len(left)})")
        return [*lines, f"const int plain = {' && '.join(looked_at)};"]

    def _edges(self, quick: Chunk) -> list[str]:
        """Room for a whole chunk of each buffer."""
        values = self.values
        padded = dict.fromkeys([*quick.buffers, *self._further])
        rooms = [f"{values.buffer(b)}EDGE" for b in padded]
        kinds = [values.storage.format(b).type for b in (*padded, *self._held)]
        rooms += [f"{values.buffer(b)}OLD" for b in self._held]
        return [f"{k} {room}[CHUNK];" for k, room in zip(kinds, rooms, strict=True)]

    @cached_property
    def _held(self) -> tuple[str, ...]:
        """The buffers of results that are more than one, and read: rows cannot restore them."""
        parts = self.values.storage.parts
        read = [parts(home) for home in self.homes if home in self.read]
        return tuple(part for found in read if len(found) > 1 for part in found)

    @cached_property
    def _streams(self) -> tuple[Stream, ...]:
        """The random numbers that elements of the loop are computed and rounded with."""
        storage = self.values.storage
        found = [storage.rounding(home) for home in self.homes if storage.format(home).random]
        return tuple(dict.fromkeys([*self._exact.streams, *found]))

    def _opened(self, stream: Stream) -> list[str]:
        counter = self.values.counter(stream.counter)
        opened = f"opened(x->origin, {stream.name}, {counter})"
        return [f"const stream {stream.row}_FROM = {opened};", f"real {stream.row}[CHUNK] = {{0}};"]

    def _drawn(self, stream: Stream) -> str:
        return f"drawn({stream.row}, {stream.numbers}, &{stream.row}_FROM, start, n);"

    def _again(self) -> str:
        """The function that restores the old contents of a chunk and computes it exactly."""
        kept = [k for k, home in enumerate(self.homes) if home in self.read]
        restored = [line for k in kept for line in self._restored(k)]
        put_back = [braced("if (put_back)", restored).rstrip()] if kept else []
        held = [f"const {self.values.storage.format(b).type} *{self.values.buffer(b)}OLD"
                for b in self._held]  # fmt: skip
        head = listed(
            f"RARE static void {self.name('again')}(",
            ["const tensor *x", *(f"const double *{row}" for row in self.values.rows),
             "int64_t start", "int64_t n", "real (*restrict out)[CHUNK]", "int put_back",
             *(f"const real *{stream.row}" for stream in self._streams), *held],
        )  # fmt: skip
        lines = [
            "(void)put_back;",
            *put_back,
            *(self._start(b, False) for b in self._exact.buffers),
            listed(f"{self._exact.name}(", self._exact.arguments(self.values.rows), ");"),
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
        storage = self.values.storage
        return [
            line
            for k in numbers
            for line in storage.copied(self.homes[k], f"out[{k}]", self._place)
        ]

    def _restored(self, number: int) -> list[str]:
        """The lines that put back what a result has replaced; what was read is not rounded."""
        home = self.homes[number]
        if home in self._held:
            parts = self.values.storage.parts(home)
            olds = [(self._place(part), f"{self.values.buffer(part)}OLD") for part in parts]
            return [f"memcpy({to}, {old}, CHUNK * sizeof *{old});" for to, old in olds]
        return [f"{self.values.storage.format(home).put}({self._place(home)}, out[{number}], n);"]

    def _place(self, buffer: str) -> str:
        """Where in memory a chunk of a buffer begins."""
        return f"{self.pointer(buffer, True)[1]} + start"
