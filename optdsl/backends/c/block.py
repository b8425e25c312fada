"""A loop over the elements of a block in C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.base import EntryPoint
from optdsl.backends.c.expressions import LEAVES
from optdsl.backends.c.layout import braced, listed, slot
from optdsl.backends.c.pieces import Piece, cut
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Loop, Result

_STORED = {"gradient": "g", "parameter": "theta"}
_SIZE = "const int64_t size = x->size - begin < BLOCK ? x->size - begin : BLOCK;"


@dataclass(frozen=True)
class Block:
    """The functions that one loop over the elements becomes.

    Where nothing is added up and no means are taken, results go to memory at once. Otherwise a
    block goes in chunks: results and summands go to a small array first. Means are computed as if
    all numbers were finite; a chunk where one is not is computed again, with care. Then sums are
    added up, and results are copied to their places.

    Attributes:
        values: the values of the kernel.
        entry: the kernel's entry point.
        number: which of the kernel's loops it is.
        loop: the loop.
    """

    values: Values
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
        for value in self.loop.body:
            operation = self.values.operation(value)
            if operation.opcode in {"gradient", "parameter", "state"}:
                names.append(_STORED.get(operation.opcode, str(operation.attribute)))
        return tuple(dict.fromkeys(names))

    @cached_property
    def _homes(self) -> tuple[str, ...]:
        """Where each stored result goes."""
        return tuple(self.values.kernel.buffers.get(r.name, r.name) for r in self._stored)

    # --- lines ----------------------------------------------------------------------------------

    @cached_property
    def _fixed(self) -> dict[str, tuple[str, str]]:
        """What is the same for all elements: by name, its type and its expression."""
        values = self.values
        outside = [*(r.value for r in self._stored), *(v for v, _ in self._sums)]
        found = {}
        for value in values.asked(self.loop.body, outside, "real"):
            place = values.place(value)
            found[values.name(value)] = (
                ("bits", f"{place} != 0 ? -1 : 0")
                if values.program.type(value).condition
                else ("real", f"(real){place}")
            )
        return found | values.derived(self._computed)

    def _body(self) -> list[str]:
        """The lines that compute the values of an element."""
        lines = []
        for value in self.loop.body:
            operation = self.values.operation(value)
            if operation.opcode in {"gradient", "parameter", "state"}:
                buffer = _STORED.get(operation.opcode, str(operation.attribute))
                lines.append(f"const real {self.values.name(value)} = {self._loaded(buffer)};")
        return lines + [x for v in self._computed for x in self.values.assigned(v, "real")]

    def _loaded(self, buffer: str) -> str:
        text = f"{self.values.buffer(buffer)}[i]"
        return f"load({text})" if buffer in _STORED.values() else text

    def _rounded(self, home: str, text: str) -> str:
        return f"rounded({text})" if home == "theta" else text

    def _pointer(self, buffer: str, written: bool) -> tuple[str, str]:
        """The type of a pointer, and the pointer to the tensor's first element."""
        kind = "element" if buffer in _STORED.values() else "real"
        kind = f"{kind} *" if written else f"const {kind} *"
        return kind, f"({kind})x->memory[{slot(self.entry, buffer)}]"

    # --- at once --------------------------------------------------------------------------------

    def _direct(self) -> str:
        lines = [f"const {kind} {name} = {text};" for name, (kind, text) in self._fixed.items()]
        loop = [*self._body()]
        for result, home in zip(self._stored, self._homes, strict=True):
            text = self._rounded(home, self.values.word(result.value, "real"))
            loop.append(f"{self.values.buffer(home)}[i] = {text};")
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
            ["(void)size, (void)u, (void)s;", *_indented(lines)],
        )
        call = listed(f"{name}(", arguments, ");")
        return f"{inner}\n{self._block([_SIZE, '(void)sums;', call])}"

    def _block(self, lines: Sequence[str]) -> str:
        called = ["const tensor *x", "int64_t begin", "const double *u", "const double *s"]
        head = listed(f"static void {self._name.format('block')}(", [*called, "double *sums"])
        return braced(head, lines)

    # --- in chunks ------------------------------------------------------------------------------

    def _chunked(self) -> str:
        values = self.values
        summands = dict.fromkeys(v for v, _ in self._sums)
        results = [*(r.value for r in self._stored), *summands]
        first = len(self._stored)
        places = {v: first + k for k, v in enumerate(summands)}
        pieces, height = cut(values, self.loop.body, results)
        odd = height if self._means else None
        height += self._means
        means = [any(values.operation(v).opcode == "mix" for v in p.computed) for p in pieces]
        loops = "\n".join(
            self._piece(piece, odd if mean else None, not any(means[:k]))
            for k, (piece, mean) in enumerate(zip(pieces, means, strict=True))
        )
        read = [(b, *self._pointer(b, False)) for b in self._read]
        # The gradient may be there for its products only.
        named = [values.operation(v) for p in pieces for v in p.leaves]
        used = {_STORED.get(o.opcode, str(o.attribute)) for o in named}
        pointers = [f"{kind}restrict {values.buffer(b)}" for b, kind, _ in read if b in used]
        parameters = ["const int64_t n", "const real *restrict f", "const bits *restrict b",
                      *pointers, "real (*restrict out)[CHUNK]"]  # fmt: skip
        arguments = ["n", "f", "b", *(values.buffer(b) for b in self._read if b in used), "out"]
        parts = self._elements(loops, parameters, arguments)
        calls = [listed(f"{self._name.format('quickly')}(", arguments, ");")]
        if self._means:
            again = listed(f"{self._name.format('carefully')}(", arguments, ");")
            calls.append(f"if (odd(out[{odd}], n))\n  {again}")
        calls += [f"get(product, {values.buffer('g')}, n);"] if self._dots else []
        for k, (value, dot) in enumerate(self._sums):
            factor = "product, " if dot else ""
            call = "add_products" if dot else "add_values"
            calls.append(f"{call}(acc[{k}], {factor}out[{places[value]}], n);")
        for k, home in enumerate(self._homes):
            _, pointer = self._pointer(home, True)
            call = "put" if home == "theta" else "copy"
            calls.append(f"{call}({pointer} + start, out[{k}], n);")
        chunk = [
            "const int64_t n = begin + size - start < CHUNK ? begin + size - start : CHUNK;",
            *(f"{kind}{values.buffer(b)} = {pointer} + start;" for b, kind, pointer in read),
            *calls,
        ]
        chunks = "for (int64_t start = begin; start < begin + size; start += CHUNK)"
        sums = len(self._sums)
        lines = [
            _SIZE,
            *self._tables(),
            f"real out[{height}][CHUNK];",
            *(["double product[CHUNK];"] if self._dots else []),
            *([f"double acc[{sums}][LANES];", "memset(acc, 0, sizeof acc);"] if sums else []),
            braced(chunks, _indented(chunk)).rstrip(),
            f"for (int k = 0; k < {sums}; k++) sums[k] = folded(acc[k]);"
            if sums
            else "(void)sums;",
        ]
        return "\n".join([*parts, self._block(_indented(["(void)u, (void)s;", *lines]))])

    def _piece(self, piece: Piece, odd: int | None, first: bool) -> str:
        values = self.values
        lines = []
        for value in piece.leaves:
            operation = values.operation(value)
            buffer = _STORED.get(operation.opcode, str(operation.attribute))
            lines.append(f"const real {values.name(value)} = {self._loaded(buffer)};")
        lines += [f"const real {values.name(v)} = out[{k}][i];" for v, k in piece.fetched.items()]
        if odd is not None:
            lines.append(f"real odd = {0 if first else f'out[{odd}][i]'};")
        for value in piece.computed:
            lines += values.assigned(value, "real")
        lines += [f"out[{k}][i] = {values.word(v, 'real')};" for k, v in piece.stored]
        if odd is not None:
            lines.append(f"out[{odd}][i] = odd;")
        return braced("for (int64_t i = 0; i < n; i++)", lines).rstrip()

    def _elements(
        self, loop: str, parameters: Sequence[str], arguments: Sequence[str]
    ) -> list[str]:
        """The loop as a function, and the same with and without care, each compiled by itself."""
        fixed = [
            f"const {kind} {name} = {'f' if kind == 'real' else 'b'}[{place}];"
            for name, (kind, place) in self._table().items()
        ]
        body = _indented(["(void)f, (void)b;", *fixed, *loop.split("\n")])
        quickly = listed(f"APART static void {self._name.format('quickly')}(", parameters)
        if not self._means:
            return [braced(quickly, body)]
        name = self._name.format("elements")
        head = listed(f"static INLINE void {name}(", ["const int careful", *parameters])
        carefully = listed(f"RARE static void {self._name.format('carefully')}(", parameters)
        calls = (listed(f"{name}(", [care, *arguments], ");") for care in "01")
        return [
            braced(head, body),
            *(braced(h, [c]) for h, c in zip((quickly, carefully), calls, strict=True)),
        ]

    def _table(self) -> dict[str, tuple[str, int]]:
        """What is the same for all elements: its type, and its place among those of that type."""
        counts = {"real": 0, "bits": 0}
        found = {}
        for name, (kind, _) in self._fixed.items():
            found[name] = (kind, counts[kind])
            counts[kind] += 1
        return found

    def _tables(self) -> list[str]:
        """Their values, once a block."""
        lines = []
        for word, kind in (("f", "real"), ("b", "bits")):
            texts = [text for k, text in self._fixed.values() if k == kind] or ["0"]
            lines.append(listed(f"const {kind} {word}[] = {{", texts, "};"))
        return lines


def _indented(lines: Sequence[str]) -> list[str]:
    """Lines, with what hangs below one of them indented like it."""
    return [line.replace("\n", "\n  ") for line in lines]
