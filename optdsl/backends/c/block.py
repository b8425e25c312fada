"""A loop over the elements of a block in C."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.base import EntryPoint
from optdsl.backends.c.expressions import LEAVES
from optdsl.backends.c.chunk import STORED, Chunk, buffer_of, loaded, table, written
from optdsl.backends.c.layout import braced, indented, listed, slot
from optdsl.backends.c.values import Values
from optdsl.backends.c.watch import watched
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Loop, Result

_SIZE = "const int64_t size = x->size - begin < BLOCK ? x->size - begin : BLOCK;"


@dataclass(frozen=True)
class Block:
    """The functions that one loop over the elements becomes.

    Where nothing is added up and no means are taken, results go to memory at once. Otherwise a
    block goes in chunks: results and summands go to a small array first. They are computed as if
    all numbers were finite; a chunk where one is not is computed again, as it is written. Then sums
    are added up, and results are copied to their places.

    Attributes:
        values: the values of the kernel.
        finite: those of the kernel for finite numbers, if there is one.
        entry: the kernel's entry point.
        number: which of the kernel's loops it is.
        loop: the loop.
    """

    values: Values
    finite: Values | None
    entry: EntryPoint
    number: int
    loop: Loop

    def text(self) -> str:
        """The functions; the last one is for a block of one tensor."""
        return self._chunked() if self._means or self._sums else self._direct()

    # --- what there is to do --------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"{self.values.kernel.name}_{{}}{self.number}"

    @property
    def _last(self) -> bool:
        return self.loop is self.values.kernel.loops[-1]

    @cached_property
    def _stored(self) -> tuple[Result, ...]:
        results = self.values.kernel.stored if self._last else ()
        return tuple(r for r in results if r.type.extent is Extent.TENSOR)

    @cached_property
    def _sums(self) -> tuple[tuple[Value, bool], ...]:
        """What is added up, and whether it is multiplied with the gradient first."""
        arguments = [self.values.operation(v).arguments[0] for v in self.loop.reductions]
        dots = [d.value for d in self.values.kernel.dots] if self._last else []
        return (*((v, False) for v in arguments), *((v, True) for v in dots))

    @cached_property
    def _computed(self) -> tuple[Value, ...]:
        return tuple(v for v in self.loop.body if self.values.operation(v).opcode not in LEAVES)

    @property
    def _means(self) -> bool:
        return any(self.values.operation(v).opcode == "mix" for v in self._computed)

    @property
    def _dots(self) -> bool:
        return any(dot for _, dot in self._sums)

    @cached_property
    def _read(self) -> tuple[str, ...]:
        """What is read from memory."""
        names = ["g"] if self._dots else []
        names += [b for v in self.loop.body if (b := buffer_of(self.values, v)) is not None]
        return tuple(dict.fromkeys(names))

    @cached_property
    def _homes(self) -> tuple[str, ...]:
        """Where each stored result goes."""
        return tuple(self.values.kernel.buffers.get(r.name, r.name) for r in self._stored)

    # --- lines ----------------------------------------------------------------------------------

    def _pointer(self, buffer: str, written: bool) -> tuple[str, str]:
        """The type of a pointer, and the pointer to the tensor's first element."""
        kind = "element" if buffer in STORED.values() else "real"
        kind = f"{kind} *" if written else f"const {kind} *"
        return kind, f"({kind})x->memory[{slot(self.entry, buffer)}]"

    # --- at once --------------------------------------------------------------------------------

    def _direct(self) -> str:
        values, body = self.values, self.loop.body
        outside = [r.value for r in self._stored]
        fixed = table(values, body, outside)
        lines = [f"const {kind} {name} = {text};" for name, (kind, text) in fixed.items()]
        loop = [x for v in body for x in loaded(values, v)]
        loop += [x for v in self._computed for x in values.assigned(v, "real")]
        for result, home in zip(self._stored, self._homes, strict=True):
            loop.append(written(values, home, result.value))
        head = "for (int64_t i = 0; i < size; i++)"
        lines += [braced(head, loop).rstrip()] if loop else []
        parameters = ["const int64_t size", "const double *u", "const double *s"]
        arguments = ["size", "u", "s"]
        for buffer in dict.fromkeys([*self._read, *self._homes]):
            kind, pointer = self._pointer(buffer, buffer in self._homes)
            parameters.append(f"{kind}restrict {self.values.buffer(buffer)}")
            arguments.append(f"{pointer} + begin")
        name = self._name.format("elements")
        inner = braced(
            listed(f"static inline void {name}(", parameters),
            ["(void)size, (void)u, (void)s;", *indented(lines)],
        )
        call = listed(f"{name}(", arguments, ");")
        return f"{inner}\n{self._block([_SIZE, '(void)q, (void)sums;', call])}"

    def _block(self, lines: Sequence[str]) -> str:
        called = ["const tensor *x", "int64_t begin", "const double *u", "const double *q",
                  "const double *s", "double *sums"]  # fmt: skip
        head = listed(f"static void {self._name.format('block')}(", called)
        return braced(head, lines)

    # --- in chunks ------------------------------------------------------------------------------

    def _chunked(self) -> str:
        values = self.values
        summands = tuple(dict.fromkeys(v for v, _ in self._sums))
        results = (*(r.value for r in self._stored), *summands)
        name = self._name.format("elements" if self.finite is None else "carefully")
        exact = Chunk(name, values, self.loop.body, results)
        quick = self._quick(summands)
        if quick is None:
            first, texts = exact, [exact.text("APART")]
            calls = [listed(f"{exact.name}(", exact.arguments(["f", "b"]), ");")]
            calls += self._copied(range(len(self._homes)))
        else:
            first = quick
            texts = [quick.text("APART"), exact.text("RARE", own_tables=True), self._again(exact)]
            again = f"{self._name.format('again')}(x, u, start, n, out, {{}});"
            calls = [
                listed(f"if (plain) {quick.name}(", quick.arguments(["f", "b"]), ");"),
                f"if (!plain || odd(out[{quick.odd}], n)) {again.format('plain')}",
            ]
        calls += [f"get(product, {values.buffer('g')}, n);"] if self._dots else []
        for k, (value, dot) in enumerate(self._sums):
            place = len(self._stored) + summands.index(value)
            factor = "product, " if dot else ""
            call = "add_products" if dot else "add_values"
            calls.append(f"{call}(acc[{k}], {factor}out[{place}], n);")
        pointers = dict.fromkeys([*self._read, *(self._homes if quick else ())])
        chunk = [
            "const int64_t n = begin + size - start < CHUNK ? begin + size - start : CHUNK;",
            *(self._start(b, quick is not None and b in self._homes) for b in pointers),
            *calls,
        ]
        chunks = "for (int64_t start = begin; start < begin + size; start += CHUNK)"
        sums = len(self._sums)
        lines = [
            _SIZE,
            *first.tables(),
            *([f"const int plain = usual(f, {max(1, first.reals)});"] if quick else []),
            f"real out[{max(exact.height, first.height)}][CHUNK];",
            *(["double product[CHUNK];"] if self._dots else []),
            *([f"double acc[{sums}][LANES];", "memset(acc, 0, sizeof acc);"] if sums else []),
            braced(chunks, indented(chunk)).rstrip(),
            f"for (int k = 0; k < {sums}; k++) sums[k] = folded(acc[k]);"
            if sums
            else "(void)sums;",
        ]
        return "\n".join([*texts, self._block(indented(["(void)u, (void)q, (void)s;", *lines]))])

    def _start(self, buffer: str, written: bool) -> str:
        kind, pointer = self._pointer(buffer, written)
        return f"{kind}{self.values.buffer(buffer)} = {pointer} + start;"

    def _copied(self, numbers: Iterable[int]) -> list[str]:
        """The lines that copy rows to the homes of the results."""
        lines = []
        for k in numbers:
            _, pointer = self._pointer(self._homes[k], True)
            call = "put" if self._homes[k] == "theta" else "copy"
            lines.append(f"{call}({pointer} + start, out[{k}], n);")
        return lines

    def _again(self, exact: Chunk) -> str:
        """The function that computes a chunk with care, after what was there has been put back."""
        kept = [k for k, home in enumerate(self._homes) if home in self._read]
        head = listed(
            f"RARE static void {self._name.format('again')}(",
            ["const tensor *x", "const double *u", "int64_t start", "int64_t n",
             "real (*restrict out)[CHUNK]", "int put_back"],
        )  # fmt: skip
        return braced(
            head,
            indented(
                [
                    "(void)put_back;",
                    *([braced("if (put_back)", self._copied(kept)).rstrip()] if kept else []),
                    *(self._start(b, False) for b in exact.buffers),
                    listed(f"{exact.name}(", exact.arguments(["u"]), ");"),
                    *self._copied(range(len(self._homes))),
                ]
            ),
        )

    def _quick(self, summands: Sequence[Value]) -> Chunk | None:
        """The chunk for finite numbers; its rows are those of the other one."""
        if self.finite is None:
            return None
        kernel, program = self.finite.kernel, self.finite.kernel.program
        new = {r.name: r.value for r in kernel.results}
        dots = dict(zip((d.value for d in self.values.kernel.dots), (d.value for d in kernel.dots), strict=True))
        results = (*(new[r.name] for r in self._stored), *(dots[v] for v in summands))
        body = kernel.loops[-1].body
        name = self._name.format("quickly")
        return Chunk(
            name,
            self.finite,
            body,
            results,
            watched(program, body),
            "q",
            self._homes,
            frozenset({*self._homes} & {*self._read}),
        )
