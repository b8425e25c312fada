"""A loop over the elements of a block in C, from memory to memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optdsl.backends.base import EntryPoint
from optdsl.backends.c.chunk import loaded, table, written
from optdsl.backends.c.layout import braced, indented, listed, slot
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Loop, Result

SIZE = "const int64_t size = x->size - begin < BLOCK ? x->size - begin : BLOCK;"


@dataclass(frozen=True)
class Block:
    """The C functions for one loop over the elements, which writes each result to memory directly.

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
        values, body = self.values, self.loop.body
        fixed = table(values, body, [r.value for r in self.stored])
        lines = [f"const {kind} {name} = {text};" for name, (kind, text) in fixed.items()]
        computed = [v for v in body if not values.given(v)]
        loop = [line for v in body for line in loaded(values, v)]
        loop += [line for v in computed for line in values.assigned(v, "real")]
        for result, home in zip(self.stored, self.homes, strict=True):
            loop += written(values, home, result.value)
        head = "for (int64_t i = 0; i < size; i++)"
        lines += [braced(head, loop).rstrip()] if loop else []
        parameters = ["const int64_t size", "const double *u", "const double *s"]
        arguments = ["size", "u", "s"]
        parts = values.storage.parts
        changed = [part for home in self.homes for part in parts(home)]
        read = [part for buffer in self.read for part in parts(buffer)]
        for buffer in dict.fromkeys([*read, *changed]):
            kind, pointer = self.pointer(buffer, buffer in changed)
            parameters.append(f"{kind}restrict {values.buffer(buffer)}")
            arguments.append(f"{pointer} + begin")
        name = self.name("elements")
        inner = braced(
            listed(f"static inline void {name}(", parameters),
            ["(void)size, (void)u, (void)s;", *indented(lines)],
        )
        call = listed(f"{name}(", arguments, ");")
        return f"{inner}\n{self.framed([SIZE, '(void)q, (void)sums;', call])}"

    # --- what there is to do --------------------------------------------------------------------

    def name(self, what: str) -> str:
        """The name of a function."""
        return f"{self.values.kernel.name}_{what}{self.number}"

    @property
    def last(self) -> bool:
        """Whether it is the loop that makes the results."""
        return self.loop is self.values.kernel.loops[-1]

    @cached_property
    def stored(self) -> tuple[Result, ...]:
        """The results that it writes to memory, those at last that are more than rounded."""
        results = self.values.kernel.stored if self.last else ()
        found = (r for r in results if r.type.extent is Extent.TENSOR)
        return tuple(sorted(found, key=lambda r: self.coded(self.values.kernel.home(r))))

    def coded(self, home: str) -> bool:
        """Whether what is written to a buffer is more than rounded."""
        return self.values.storage.format(home).coded

    @cached_property
    def homes(self) -> tuple[str, ...]:
        """The buffers that they are written to."""
        return tuple(map(self.values.kernel.home, self.stored))

    @cached_property
    def sums(self) -> tuple[tuple[Value, bool], ...]:
        """What is added up, and whether it is multiplied with the gradient first."""
        arguments = [self.values.operation(v).arguments[0] for v in self.loop.reductions]
        dots = [d.value for d in self.values.kernel.dots] if self.last else []
        return (*((v, False) for v in arguments), *((v, True) for v in dots))

    @property
    def dots(self) -> bool:
        """Whether something is multiplied with the gradient."""
        return any(dot for _, dot in self.sums)

    @cached_property
    def read(self) -> tuple[str, ...]:
        """What is read from memory."""
        names = ["g"] if self.dots else []
        names += [b for v in self.loop.body if (b := self.values.buffer_of(v)) is not None]
        return tuple(dict.fromkeys(names))

    # --- lines ----------------------------------------------------------------------------------

    def pointer(self, buffer: str, written: bool) -> tuple[str, str]:
        """The type of a pointer, and the pointer to the tensor's first element."""
        kind = f"{'' if written else 'const '}{self.values.storage.format(buffer).type} *"
        return kind, f"({kind})x->memory[{slot(self.entry, buffer)}]"

    def framed(self, lines: Sequence[str]) -> str:
        """The function for a block."""
        called = ["const tensor *x", "int64_t begin", "const double *u", "const double *q",
                  "const double *s", "double *sums"]  # fmt: skip
        return braced(listed(f"static void {self.name('block')}(", called), lines)
