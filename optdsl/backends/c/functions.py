"""The parts of a kernel in C: what is computed for a row, for a tensor, and for a block."""

from __future__ import annotations

import re
from dataclasses import replace

from optdsl.backends.base import EntryPoint, entry_point
from optdsl.backends.c.block import Block
from optdsl.backends.c.chunked import Chunked
from optdsl.backends.c.finite import FiniteValues, finite
from optdsl.backends.c.layout import braced, slot
from optdsl.backends.c.storage import Storage, Stream, rounding_number
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
        self.storage = Storage(kernel, dtype)
        random = [r for r in kernel.stored if self.storage.format(kernel.home(r)).random]
        self.entry = replace(self.entry, draws=kernel.draws or bool(random))
        self.values = Values(kernel, self.storage, buffers)
        variant = finite(kernel, self.storage.double)
        self.finite = None
        if variant is not None:
            self.finite = FiniteValues(variant, self.storage, buffers, self.values)

    def text(self) -> str:
        """All functions; the places of values are complete only afterwards."""
        parts = []
        for number, loop in enumerate(self.kernel.loops):
            if loop.scalars:
                parts.append(self._scalar_function(number, loop))
            if self.finite is not None and self.finite.kernel.loops[number].scalars:
                parts.append(self._coefficient_function(number, self.finite))
            block = Block(self.values, self.entry, number, loop)
            apart = any(map(block.coded, block.homes)) or self.storage.streams
            quick = self.finite
            if quick is not None and number in quick.kernel.left:
                quick = None
            if quick is not None or block.sums or apart:
                block = Chunked(self.values, self.entry, number, loop, quick)
            parts.append(block.text())
        self.finals()  # say what they need of the row, too
        uniform = [uniform_function(self.values, self.entry, "uniform", "u")]
        if self.finite is not None:
            uniform.append(
                uniform_function(self.finite, self.entry, "finite", "q", self.values.kernel)
            )
        if self.counters:
            head = f"RARE static int {self.kernel.name}_counted(const double *u)"
            finite = " && ".join(f"fabs({text}) <= DBL_MAX" for text in self.counters)
            uniform.append(braced(head, ["(void)u;", f"return {finite};"]))
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
                text = f"s[i * {self.scalars} + {values.position(result.value)}]"
            own = self.storage.format(result.name)
            text = own.rounded(f"(real){text}")
            if own.random:
                number = self._alone(rounding_number(result.name), "tensors[i].origin")
                text = f"at_random{own.suffix}({text[text.index('(') + 1 : -1]}, {number})"
            memory = f"tensors[i].memory[{slot(self.entry, result.name)}]"
            lines.append(f"*({own.type} *){memory} = {text};")
        return lines

    @property
    def scalars(self) -> int:
        """How many numbers are stored for each tensor."""
        coefficients = () if self.finite is None else self.finite.kernel.coefficients
        return len(self.values.scalars) + len(coefficients)

    @property
    def counters(self) -> list[str]:
        """The expressions, of a row `u`, of the counters that may not be finite."""
        values, found = self.values, []
        for value in self.kernel.body:
            if values.drawn(value):
                found.append(values.counter(values.operation(value).arguments[0]))
        return list(dict.fromkeys(found))

    def _alone(self, stream: Stream, origin: str) -> str:
        """The expression of a random number for a tensor as a whole."""
        counter = self.values.counter(stream.counter)
        return f"drawn_alone({stream.numbers}, {origin}, {stream.name}, {counter})"

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
                own = self.storage.format(str(operation.attribute))
                lines.append(f"const real {name} = {own.read(f'*(const {own.type} *){memory}')};")
            elif values.drawn(value):
                stream = Stream("", str(operation.attribute), operation.arguments[0])
                lines.append(f"const real {name} = {self._alone(stream, 'x->origin')};")
            else:
                lines += values.assigned(value, "real")
            lines.append(f"{values.location(value)} = {name};")
        head = f"static void {self.kernel.name}_scalars{number}"
        return braced(f"{head}(const tensor *x, const double *u, double *s)", lines)

    def _coefficient_function(self, number: int, values: FiniteValues) -> str:
        """Coefficients of a tensor are computed in double precision, as uniform ones are.

        A number of a tensor may be as small or as large as its elements. Where a coefficient is too
        small for a float, the tensor is computed as the rule is written.
        """
        scalars = values.kernel.loops[number].scalars
        lines = ["(void)q;"]
        for value in values.asked(scalars, (), "double"):
            condition = values.program.type(value).condition
            place = values.location(value, "q")
            kind, text = ("int", f"{place} != 0") if condition else ("double", place)
            lines.append(f"const {kind} {values.name(value)} = {text};")
        for value in scalars:
            lines += values.assigned(value, "double")
            name, to = values.name(value), values.location(value)
            small = f"{name} != 0 && fabs({name}) < FLT_MIN"
            lines.append(f"{to} = {name if self.storage.double else f'{small} ? NAN : {name}'};")
        head = f"static void {self.kernel.name}_coefficients{number}(const double *q, double *s)"
        return braced(head, lines)


def uniform_function(
    values: Values, entry: EntryPoint, name: str, row: str, of: Kernel | None = None
) -> str:
    """The function that computes the uniform values of a row, as far as something asks for them.

    Args:
        values: the values of the kernel.
        entry: its entry point.
        name: the last part of the function's name.
        row: the name of the row of uniform numbers.
        of: the kernel in whose place it stands, if it stands in the place of another.
    """
    order = ("t", *entry.hypers)
    for value in values.stored_uniforms if of is None else ():
        values.place(values.name(value))
    computed: list[tuple[str, list[str]]] = []
    for value in values.kernel.uniform:
        operation = values.operation(value)
        if TABLE[operation.opcode].stage is Stage.HOST:
            place = order.index(str(operation.attribute or "t"))
            lines = [f"const double {values.name(value)} = hypers[{place}];"]
        elif operation.opcode == "constant":
            continue
        else:
            lines = values.assigned(value, "double")
        computed.append((values.name(value), lines))
    lines = values.share_lines()
    if "t_COUNTER" in values.places:
        lines.append("const double t_COUNTER = hypers[0];")
    lines += [f"{row}[{place}] = {name};" for name, place in values.places.items()]
    for value_name, defined in reversed(computed):
        # Kernels for finite numbers have uniform values that only other loops ask for.
        if any(re.search(rf"\b{value_name}\b", line) for line in lines):
            lines = [*defined, *lines]
    lines = [f"(void)hypers, (void){row};", *lines]
    kernel = (of or values.kernel).name
    head = f"RARE static void {kernel}_{name}(const double *hypers, double *{row})"
    return braced(head, lines)
