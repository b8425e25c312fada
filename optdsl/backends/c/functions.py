"""The parts of a kernel in C: what is computed for a row, for a tensor, and for a block."""

from __future__ import annotations

from optdsl.backends.base import entry_point
from optdsl.backends.c.block import Block
from optdsl.backends.c.chunked import Chunked
from optdsl.backends.c.finite import finite
from optdsl.backends.c.layout import braced, slot
from optdsl.backends.c.values import Values
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Loop


class Functions:
    """The text of one kernel's functions.

    Attributes:
        kernel: what is spelled.
        entry: how the entry point is called.
        values: its values.
        finite: those of the kernel for finite numbers, if there is one.
    """

    def __init__(self, kernel: Kernel, dtype: str) -> None:
        self.kernel = kernel
        self.entry = entry_point(kernel, takes_step=True)
        buffers = ("theta", "g", *self.entry.states)
        self.values = Values(kernel, dtype == "float64", buffers)
        variant = finite(kernel)
        self.finite = None if variant is None else Values(variant, dtype == "float64", buffers)

    def text(self) -> str:
        """All functions; the places of values are complete only afterwards."""
        parts = []
        for number, loop in enumerate(self.kernel.loops):
            if loop.scalars:
                parts.append(self._scalar_function(number, loop))
            block = Block(self.values, self.entry, number, loop)
            if self.finite is not None or block.sums:
                block = Chunked(self.values, self.entry, number, loop, self.finite)
            parts.append(block.text())
        uniform = [self._uniform_function(self.values, "uniform", "u")]
        if self.finite is not None:
            uniform.append(self._uniform_function(self.finite, "finite", "q"))
        return "\n".join([*uniform, *parts, ""])

    def finals(self) -> list[str]:
        """The lines that write the new values of a tensor's own states, in the entry point."""
        values, lines = self.values, []
        for result in self.kernel.stored:
            if result.type.extent is Extent.TENSOR:
                continue
            if values.constant(result.value):
                text = values.word(result.value, "double")
            elif values.extent(result.value) is Extent.UNIFORM:
                place = values.places[values.name(result.value)]
                text = f"u[tensors[i].row * {len(values.places)} + {place}]"
            else:
                text = f"s[i * {len(values.scalars)} + {values.scalars.index(result.value)}]"
            lines.append(
                f"*(real *)tensors[i].memory[{slot(self.entry, result.name)}] = (real){text};"
            )
        return lines

    def _uniform_function(self, values: Values, name: str, row: str) -> str:
        order = ("t", *self.entry.hypers)
        lines = [f"(void)hypers, (void){row};"]
        for value in values.stored_uniforms if values is self.values else ():
            values.place(values.name(value))
        for value in values.kernel.uniform:
            operation = values.operation(value)
            if TABLE[operation.opcode].stage is Stage.HOST:
                place = order.index(str(operation.attribute or "t"))
                lines.append(f"const double {values.name(value)} = hypers[{place}];")
            elif operation.opcode != "constant":
                lines += values.assigned(value, "double")
        lines += values.share_lines()
        lines += [f"{row}[{place}] = {name};" for name, place in values.places.items()]
        head = f"RARE static void {self.kernel.name}_{name}(const double *hypers, double *{row})"
        return braced(head, lines)

    def _scalar_function(self, number: int, loop: Loop) -> str:
        values = self.values
        lines = ["(void)x, (void)u;"]
        for value in values.asked(loop.scalars, (), "real"):
            condition = values.program.type(value).condition
            place = values.location(value)
            kind, text = ("int", f"{place} != 0") if condition else ("real", f"(real){place}")
            lines.append(f"const {kind} {values.name(value)} = {text};")
        for value in loop.scalars:
            operation, name = values.operation(value), values.name(value)
            if operation.opcode == "size":
                lines.append(f"const real {name} = (real)x->size;")
            elif operation.opcode == "state":
                memory = f"x->memory[{slot(self.entry, str(operation.attribute))}]"
                lines.append(f"const real {name} = *(const real *){memory};")
            else:
                lines += values.assigned(value, "real")
            lines.append(f"{values.location(value)} = {name};")
        head = f"static void {self.kernel.name}_scalars{number}"
        return braced(f"{head}(const tensor *x, const double *u, double *s)", lines)
