"""What is computed between passes over the elements of matrices, in C, and results beside them.

The lines stand in the entry point, in loops over the matrices `m` of a stack.
"""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import EntryPoint
from optdsl.backends.c.layout import braced, indented, listed, slot
from optdsl.backends.c.matrices.passes import KINDS
from optdsl.backends.c.matrices.values import MatrixValues
from optdsl.backends.tiled_passes import Reduction, reduction
from optdsl.ir.ops import LEAVES
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Result


def between(values: MatrixValues, entry: EntryPoint, before: Sequence[Value]) -> list[str]:
    """The lines that compute what is computed between passes, in loops over matrices `m`."""
    lines: list[str] = []
    parts: list[str] = []
    numbers: list[Value] = []
    for value in [*before, None]:
        if value is not None and _is_number(values, value):
            numbers.append(value)
            continue
        if numbers:
            parts += _computed(values, numbers)
            numbers = []
        if value is None:
            break
        found = reduction(values.program, value)
        if found is not None and found.gives == "stack":
            # The numbers of all matrices have to be there.
            lines += over_matrices(values, parts)
            parts = []
        parts += braced("", _made(values, entry, value, found)).strip().split("\n")
    return [*lines, *over_matrices(values, parts)]


def over_matrices(values: MatrixValues, lines: Sequence[str]) -> list[str]:
    """A loop over the matrices `m` of a stack, with their numbers `s`."""
    if not lines:
        return []
    numbers = f"double *s = scalars + m * {len(values.scalars)};"
    head = "for (int64_t m = 0; m < x->stack; m++)"
    return braced(head, [numbers, "(void)s;", *indented(lines)]).rstrip().split("\n")


def _is_number(values: MatrixValues, value: Value) -> bool:
    """Whether a value is computed from other numbers of the same matrix."""
    plain = values.operation(value).opcode not in LEAVES
    return plain and values.extent(value) is Extent.SCALAR and (
        reduction(values.program, value) is None
    )  # fmt: skip


def _computed(values: MatrixValues, numbers: Sequence[Value]) -> list[str]:
    """The lines that compute numbers of a matrix."""
    lines = _numbers(values, numbers, ())
    for value in numbers:
        lines += values.assigned(value, "real")
        lines.append(f"{values.location(value)} = {values.name(value)};")
    return braced("", lines).strip().split("\n")


def _made(
    values: MatrixValues, entry: EntryPoint, value: Value, found: Reduction | None
) -> list[str]:
    """The lines that read, reduce or compute a value of one axis, or read or reduce a number."""
    operation = values.operation(value)
    scalar = values.extent(value) is Extent.SCALAR
    if found is not None:
        return _reduced(values, value, found)
    if operation.opcode == "state":
        memory = f"((const real *)memory[{slot(entry, str(operation.attribute))}])"
        if scalar:
            return [f"{values.location(value)} = {memory}[m];"]
        axis = values.axis(value)
        call = [values.array(value), f"{memory} + m * x->{axis}", f"x->{axis}"]
        return [listed("copy(", call, ");")]
    if scalar:
        own = operation.opcode == "size"
        text = "x->rows * x->cols" if own else f"x->{operation.attribute}"
        return [f"{values.location(value)} = (double)({text});"]
    return _along_an_axis(values, value)


def _numbers(values: MatrixValues, computed: Sequence[Value], extra: Sequence[Value]) -> list[str]:
    """The lines that read uniform numbers and numbers of a matrix."""
    lines = []
    for value in values.asked(computed, extra, "real"):
        place = values.location(value)
        condition = values.program.type(value).condition
        kind, text = ("int", f"{place} != 0") if condition else ("real", f"(real){place}")
        lines.append(f"const {kind} {values.name(value)} = {text};")
    return lines


def _along_an_axis(values: MatrixValues, value: Value) -> list[str]:
    name, computed = values.name(value), values.behind(value)
    loop = [line for v in computed for line in values.assigned(v, "real")]
    lines = [f"real *{name}_AT = {values.array(value)};"]
    read = [v for v in values.along(computed) if v != value]
    for v in read:
        lines.append(f"const real *{values.name(v)}_AT = {values.array(v)};")
    loop = [*(f"const real {values.name(v)} = {values.name(v)}_AT[i];" for v in read), *loop]
    loop.append(f"{name}_AT[i] = {name};")
    head = f"for (int64_t i = 0; i < x->{values.axis(value)}; i++)"
    return [*_numbers(values, computed, ()), *lines, *braced(head, loop).rstrip().split("\n")]


def _reduced(values: MatrixValues, value: Value, found: Reduction) -> list[str]:
    """The lines that reduce what lies along one axis, or numbers of matrices."""
    (argument,) = values.operation(value).arguments
    name, start = KINDS[found.kind]
    place = values.scalars.index(value)
    if values.extent(argument) is Extent.UNIFORM:
        raise NotImplementedError(values.operation(value).opcode)
    stack = found.gives == "stack"
    size = f"(double)x->{found.of[0]}" if found.of else "1"
    divided = f" / ({size}{' * (double)x->stack' if stack else ''})"
    divided = divided if found.kind == "mean" else ""
    if not found.of:
        array = f"scalars + {values.scalars.index(argument)}"
        total = f"spaced_{name}({array}, {len(values.scalars)}, {start}, x->stack)"
    elif stack:
        array = values.array(argument, "0")
        total = f"line_of_{name}({array}, {start}, x->stack * x->{found.of[0]})"
    else:
        total = f"line_of_{name}({values.array(argument)}, {start}, x->{found.of[0]})"
    text = f"(real)({total}{divided})"
    # That of a stack is the same for all of its matrices.
    return [f"s[{place}] = {f'm ? scalars[{place}] : {text}' if stack else text};"]


def written_beside(values: MatrixValues, entry: EntryPoint, result: Result) -> list[str]:
    """The lines, in a loop over matrices `m`, that write a result that has no elements."""
    axis = result.type.axes[0] if result.type.axes else ""
    value = result.value
    memory = f"(real *)memory[{slot(entry, result.name)}]"
    along = values.along((), [value])
    lines = _numbers(values, (), [value])
    lines += [f"const real *{values.name(v)}_AT = {values.array(v)};" for v in along]
    lines.append(f"real *to = {memory} + m{f' * x->{axis}' if axis else ''};")
    loop = [f"const real {values.name(v)} = {values.name(v)}_AT[i];" for v in along]
    loop.append(f"to[i] = {values.word(value, 'real')};")
    head = f"for (int64_t i = 0; i < {f'x->{axis}' if axis else '1'}; i++)"
    return [*lines, *braced(head, loop).rstrip().split("\n")]
