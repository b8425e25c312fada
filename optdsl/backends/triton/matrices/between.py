"""What is computed between passes over the elements of matrices, in Triton: a program for a matrix.

What threads have stored is read by others only behind a barrier; what programs have stored, only in
a later kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optdsl.backends.tiled_passes import STACK, Reduction, reduction
from optdsl.backends.triton.layout import function
from optdsl.backends.triton.matrices.layout import COUNTS, OF_BETWEEN, head, launch
from optdsl.backends.triton.matrices.values import MatrixValues, named
from optdsl.backends.triton.values import DOUBLE
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Result


@dataclass
class Between:
    """One kernel between passes, as it grows.

    Attributes:
        values: the values of the kernel.
        lines: what it does.
        buffers: the states that it reads and writes.
        known: the numbers of a matrix that it has computed.
        fixed: the lines that have loaded numbers.
        loops: by axis, what the next loop along it does for some indices.
        loaded: the values that are known in these loops.
    """

    values: MatrixValues
    lines: list[str] = field(default_factory=list)
    buffers: list[str] = field(default_factory=list)
    known: set[Value] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)
    loops: dict[str, list[str]] = field(default_factory=dict)
    loaded: set[Value] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.lines or self.loops)

    def text(self, name: str) -> str:
        """The kernel, under a name."""
        self._close()
        used = {word for word in "us" if any(f"({word} + " in line for line in self.lines)}
        lines = [
            '"""Values of rows and of columns, and numbers, of a matrix each."""',
            "cols = width * UNIT",
            "m = tl.program_id(0).to(tl.int64)",
            *(["u = uniforms"] if "u" in used else []),
            *([f"s = scalars + m * {len(self.values.scalars)}"] if "s" in used else []),
            *self.lines,
        ]
        return function(head(name, self._pointers, OF_BETWEEN), lines, COUNTS)

    def call(self, name: str) -> list[str]:
        """The lines that launch it."""
        return launch(name, "c.stack", self._pointers, OF_BETWEEN)

    @property
    def _pointers(self) -> list[str]:
        return list(map(self.values.buffer, self.buffers))

    # --- values ---------------------------------------------------------------------------------

    def compute(self, value: Value) -> None:
        """Read, reduce or compute a number of a matrix, or a value of one axis."""
        values, found = self.values, reduction(self.values.program, value)
        operation, real = values.operation(value), self.values.real
        if values.extent(value) is not Extent.SCALAR and found is None:
            self._along(value)
            return
        name = values.name(value)
        if found is not None:
            self.lines += self._reduced(value, found)
        elif operation.opcode == "state":
            pointer = self._buffer(str(operation.attribute))
            self.lines.append(f"{name} = tl.load({pointer} + m)")
        elif operation.opcode in {"size", "length"}:
            cols = operation.opcode == "size"
            text = f"rows.to({DOUBLE}) * cols" if cols else f"{operation.attribute}.to({DOUBLE})"
            self.lines.append(f"{name} = ({text}).to({real})")
        else:
            self._load([value], ())
            self.lines += values.assigned(value, real)
        self.known.add(value)
        place = values.scalars.index(value)
        self.lines.append(f"tl.store(s + {place}, {name}.to({DOUBLE}))")

    def _load(self, computed: Sequence[Value], extra: Sequence[Value]) -> None:
        own = {*computed, *self.known}
        for line in self.values.fixed(computed, extra, self.values.real, own, cast=True):
            if line not in self.fixed:
                self.fixed.add(line)
                self.lines.append(line)

    def _buffer(self, name: str) -> str:
        if name not in self.buffers:
            self.buffers.append(name)
        return self.values.buffer(name)

    # --- loops along an axis --------------------------------------------------------------------

    def _along(self, value: Value) -> None:
        values, axis = self.values, self.values.axis(value)
        operation = values.operation(value)
        if operation.opcode == "state":
            pointer = self._buffer(str(operation.attribute))
            memory = f"{pointer} + m * {axis} + i"
            lines = [f"{values.name(value)} = tl.load({memory}, mask=inside, other=0.0)"]
        else:
            computed = values.behind(value)
            self._load(computed, ())
            lines = self._read([v for v in values.along(computed) if v != value])
            lines += [line for v in computed for line in values.assigned(v, values.real)]
        self.loaded.add(value)
        self._loop(axis, lines, values.array(value), values.word(value, values.real))

    def _read(self, read: Sequence[Value]) -> list[str]:
        """The lines that load values that are not known in the loop along their axis."""
        new = [v for v in read if v not in self.loaded]
        self.loaded.update(new)
        arrays = [(self.values.name(v), f"{self.values.array(v)} + i") for v in new]
        return [f"{name} = tl.load({array}, mask=inside, other=0.0)" for name, array in arrays]

    def _loop(self, axis: str, lines: Sequence[str], to: str, word: str) -> None:
        store = f"tl.store({to} + i, ({word}).to({self.values.real}), mask=inside)"
        self.loops.setdefault(axis, []).extend([*lines, store])

    def _close(self) -> None:
        """Run the loops; what they store can be read by all threads then."""
        for axis, lines in self.loops.items():
            self.lines += [
                f"for start in range(0, {axis}, BLOCK):",
                "    i = start + tl.arange(0, BLOCK)",
                f"    inside = i < {axis}",
                *(f"    {line}" for line in lines),
            ]
        if self.loops:
            self.lines.append(_BARRIER)
        self.loops, self.loaded = {}, set()

    def _reduced(self, value: Value, found: Reduction) -> list[str]:
        """The lines that reduce what lies along one axis, or numbers of matrices."""
        values = self.values
        (argument,) = values.operation(value).arguments
        if values.extent(argument) is Extent.UNIFORM:
            raise NotImplementedError(values.operation(value).opcode)
        self._close()
        stack, apart = found.gives == STACK, 1
        count = found.of[0] if found.of else "1"
        if not found.of:
            first, apart = f"scalars + {values.scalars.index(argument)}", len(values.scalars)
        else:
            first = values.array(argument, "0" if stack else "m")
        end = f"stack * {count}" if stack else count
        text = f"{named('gathered', found.kind)}({first}, {apart}, 0, {end}, BLOCK)"
        size = f"tl.full((), 1.0, {DOUBLE}) * {count}{' * stack' if stack else ''}"
        mean = f" / ({size})" if found.kind == "mean" else ""
        return [f"{values.name(value)} = ({text}{mean}).to({values.real})"]

    # --- results --------------------------------------------------------------------------------

    def write(self, results: Sequence[Result]) -> None:
        """Write results that have no elements into the memory of their states."""
        values = self.values
        for result in results:
            if result.type.axes:
                (axis,) = result.type.axes
                pointer, word = self._buffer(result.name), values.word(result.value, values.real)
                self._load((), [result.value])
                lines = self._read(values.along((), [result.value]))
                self._loop(axis, lines, f"{pointer} + m * {axis}", word)
        self._close()
        numbers = [r for r in results if not r.type.axes]
        for result in numbers:
            self._load((), [result.value])
        if numbers and self.lines and self.lines[-1] != _BARRIER:
            # Every thread has to have read the numbers before one of them writes.
            self.lines.append(_BARRIER)
        for result in numbers:
            pointer, word = self._buffer(result.name), values.word(result.value, values.real)
            self.lines.append(f"tl.store({pointer} + m, ({word}).to({values.real}))")


_BARRIER = "tl.debug_barrier()"


def between(
    values: MatrixValues, before: Sequence[Value], results: Sequence[Result]
) -> list[Between]:
    """The kernels that compute what is computed between passes, and write results beside elements.

    Args:
        values: the values of the kernel.
        before: what is computed, in order.
        results: what is written, when all of it is known.
    """
    found = [Between(values)]
    for value in before:
        reduced = reduction(values.program, value)
        if reduced is not None and reduced.gives == STACK and not found[-1].empty:
            # The numbers of all matrices have to be there.
            found.append(Between(values))
        found[-1].compute(value)
    found[-1].write(results)
    return [one for one in found if not one.empty]
