"""A chunk of elements in C: a function from memory into the rows of a small array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.c.layout import braced, indented, listed
from optdsl.backends.c.pieces import LONG, SIZE, Piece, cut
from optdsl.backends.c.storage import Stream
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value

# The type and the expression of each number that is the same for all elements, by name.
Table = dict[str, tuple[str, str]]


def loaded(values: Values, value: Value) -> list[str]:
    """The line that reads an element; none for a value that is computed."""
    buffer = values.buffer_of(value)
    if values.drawn(value):
        text = f"{values.stream(value).row}[i]"
    elif buffer is None:
        return []
    else:
        text = values.storage.read(buffer, values.buffer)
    return [f"const real {values.name(value)} = {text};"]


def written(values: Values, home: str, value: Value) -> list[str]:
    """The lines that write an element."""
    return values.storage.written(home, values.word(value, "real"), values.buffer)


def table(values: Values, body: Sequence[Value], outside: Sequence[Value], row: str = "u") -> Table:
    """The numbers that computing `body`, and using `outside`, reads from the uniform row."""
    found = {}
    for value in values.asked(body, outside, "real"):
        place = values.location(value, row)
        found[values.name(value)] = (
            ("bits", f"{place} != 0 ? -1 : 0")
            if values.program.type(value).condition
            else ("real", f"(real){place}")
        )
    computed = [v for v in body if not values.given(v)]
    return found | values.derived(computed, row)


@dataclass(frozen=True)
class Chunk:
    """A function from a chunk of the tensors in memory to rows.

    Attributes:
        name: its name.
        values: the values of the kernel.
        body: the values of the loop.
        results: the values of the first rows at the end.
        watched: values whose products are added up in one more row, which is finite only where all
            of them are.
        row: the name of the row of uniform numbers.
        homes: the buffers to which the first results are written, instead of to rows.
        kept: those of these buffers whose old contents the rows hold at the end.
        whole: whether chunks always have the full length.
        learns: whether dot products with its values are added up.
    """

    name: str
    values: Values
    body: tuple[Value, ...]
    results: tuple[Value, ...]
    watched: tuple[Value, ...] = ()
    row: str = "u"
    homes: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    whole: bool = False
    learns: bool = False

    @cached_property
    def table(self) -> Table:
        """The numbers that are the same for all elements."""
        return table(self.values, self.body, self.results, self.row)

    def _cut(self, size: int) -> tuple[tuple[Piece, ...], int]:
        leaves = {self.values.buffer_of(v): v for v in self.body}
        kept = [leaves.get(h) if h in self.kept else None for h in self.homes]
        return cut(self.values, self.body, self.results, kept, self.exact, size)

    @cached_property
    def _usual(self) -> tuple[tuple[Piece, ...], int]:
        return self._cut(SIZE)

    @cached_property
    def _long(self) -> tuple[tuple[Piece, ...], int]:
        """The pieces for vectors of 512 bits."""
        return self._cut(LONG) if self.learns and self.cut_up else self._usual

    @cached_property
    def _last(self) -> int:
        """The number of rows without that of the watched values, which comes last."""
        return max(self._usual[1], self._long[1])

    @property
    def cut_up(self) -> bool:
        """Whether it is more than one loop."""
        return len(self._usual[0]) > 1

    @property
    def odd(self) -> int | None:
        """The row of the watched values; None without any."""
        return self._last if self.watched else None

    @property
    def height(self) -> int:
        """The number of rows."""
        return self._last + bool(self.watched)

    @cached_property
    def exact(self) -> tuple[int, ...]:
        """Those of the results in memory, by index, that it holds as they were computed."""
        return tuple(
            k
            for k, home in enumerate(self.homes)
            if self.values.storage.format(home).type == "real"
            and not self.values.given(self.results[k])
        )

    def at_end(self, value: Value) -> tuple[str, str | None]:
        """The expression that reads a value when all is computed, and the buffer that it reads.

        The value is read from memory, or its place is a row, or it is a result that `exact` has.
        """
        values, storage = self.values, self.values.storage
        home = values.buffer_of(value)
        if values.drawn(value):
            return f"{values.stream(value).row}[i]", None
        if home is not None and home not in self.homes:
            return storage.read(home, values.buffer), home
        rows = self.results[len(self.homes) :]
        if home is None and value not in rows:
            home = self.homes[next(k for k in self.exact if self.results[k] == value)]
            return storage.read(home, values.buffer), home
        row = len(self.homes) + rows.index(value) if home is None else self.homes.index(home)
        return f"out[{row}][i]", None

    def arguments(self, between: Sequence[str]) -> list[str]:
        """The arguments of a call of the function."""
        size = [] if self.whole else ["n"]
        rows = (stream.row for stream in self.streams)
        return [*size, *between, *(self.values.buffer(b) for b in self.buffers), *rows, "out"]

    def tables(self, more: Sequence[str] = ()) -> list[str]:
        """The lines with the values of the table, reals and bits apart, and with `more` reals."""
        lines = []
        for word, kind, further in (("f", "real", more), ("b", "bits", ())):
            texts = [text for k, text in self.table.values() if k == kind]
            texts = [*texts, *further] or ["0"]
            lines.append(listed(f"const {kind} {word}[] = {{", texts, "};"))
        return lines

    def text(self, attribute: str, own_tables: bool = False) -> str:
        """The function; with `own_tables` it computes its tables from the uniform row."""
        values = self.values
        given = ["const real *restrict f", "const bits *restrict b"]
        if own_tables:
            given = [f"const double *{row}" for row in values.rows]
        pointers = []
        for buffer in self.buffers:
            constant = "" if buffer in self.changed else "const "
            kind = values.storage.format(buffer).type
            pointers.append(f"{constant}{kind} *restrict {values.buffer(buffer)}")
        pointers += [f"const real *restrict {stream.row}" for stream in self.streams]
        size = [] if self.whole else ["const int64_t n"]
        parameters = [*size, *given, *pointers, "real (*restrict out)[CHUNK]"]
        head = listed(f"{attribute} static void {self.name}(", parameters)
        counts = {"real": 0, "bits": 0}
        fixed = []
        for name, (kind, _) in self.table.items():
            word = "f" if kind == "real" else "b"
            fixed.append(f"const {kind} {name} = {word}[{counts[kind]}];")
            counts[kind] += 1
        loops = self._loops(self._usual[0])
        if self._long[0] != self._usual[0]:
            wide = self._loops(self._long[0])
            loops = ["#ifdef __AVX512F__", *wide, "#else", *loops, "#endif"]
        tables = [f"(void){', (void)'.join(values.rows)};", *self.tables()] if own_tables else []
        return braced(head, indented([*tables, "(void)f, (void)b, (void)out;", *fixed, *loops]))

    @cached_property
    def buffers(self) -> tuple[str, ...]:
        """The buffers that it reads and writes."""
        read = (self.values.buffer_of(v) for p in self._usual[0] for v in p.leaves)
        parts = self.values.storage.parts
        found = [part for b in read if b is not None for part in parts(b)]
        return tuple(dict.fromkeys([*found, *self.changed]))

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """The buffers that it writes."""
        return tuple(part for home in self.homes for part in self.values.storage.parts(home))

    @cached_property
    def streams(self) -> tuple[Stream, ...]:
        """The random numbers that it reads."""
        values = self.values
        found = [values.stream(v) for v in self.body if values.drawn(v)]
        storage = values.storage
        found += [storage.rounding(home) for home in self.homes if storage.format(home).random]
        return tuple(dict.fromkeys(found))

    def _loops(self, pieces: Sequence[Piece]) -> list[str]:
        # Each loop prefetches some of the buffers.
        each = -(-len(self.buffers) // len(pieces))
        # A value is looked at in the last loop that has it, which has the most of the others.
        last = {v: max(k for k, p in enumerate(pieces) if v in p.available) for v in self.watched}
        start = min(last.values(), default=0)
        loops: list[str] = []
        for number, piece in enumerate(pieces):
            lines = self._lines(piece)
            seen = [v for v, k in last.items() if k == number]
            lines += self._looked_at(seen, first=number == start)
            soon = self.buffers[number * each : (number + 1) * each]
            loops += self._framed(lines, soon).split("\n")
        return loops

    def _lines(self, piece: Piece) -> list[str]:
        values = self.values
        lines = [line for value in piece.leaves for line in loaded(values, value)]
        lines += [f"const real {values.name(v)} = out[{k}][i];" for v, k in piece.fetched.items()]
        for value, k in piece.reread.items():
            text = values.storage.read(self.homes[k], values.buffer)
            lines.append(f"const real {values.name(value)} = {text};")
        for k in piece.kept:
            lines.append(f"out[{k}][i] = {values.storage.read(self.homes[k], values.buffer)};")
        for value in piece.computed:
            lines += values.assigned(value, "real")
        for k, value in piece.written:
            lines += written(values, self.homes[k], value)
        lines += [f"out[{k}][i] = {values.word(v, 'real')};" for k, v in piece.stored]
        return lines

    def _looked_at(self, watched: Sequence[Value], first: bool) -> list[str]:
        if not watched:
            return []
        words = [self.values.word(v, "real") for v in watched]
        # Products of two values need the fewest instructions.
        terms = [" * ".join(words[k : k + 2]) for k in range(0, len(words), 2)]
        if not first:
            terms.insert(0, f"out[{self.odd}][i]")
        return [f"out[{self.odd}][i] = {' + '.join(terms)};"]

    def _framed(self, lines: Sequence[str], soon: Sequence[str]) -> str:
        if not self.whole:
            return braced("for (int64_t i = 0; i < n; i++)", lines).rstrip()
        # One cache line at a time.
        asked = [f"FETCH({self.values.buffer(b)} + o + AHEAD);" for b in soon]
        inner = braced("for (int64_t i = o; i < o + LINE; i++)", lines).rstrip()
        head = "for (int64_t o = 0; o < CHUNK; o += LINE)"
        return braced(head, [*asked, *inner.split("\n")]).rstrip()
