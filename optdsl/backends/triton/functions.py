"""A kernel as Triton functions: uniform values, then loops over the elements of all tensors."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import entry_point
from optdsl.backends.named import PARAMETER_LIKE
from optdsl.backends.triton.layout import function, united, wrapped
from optdsl.backends.triton.values import DOUBLE, Values
from optdsl.ir.laws import Stage
from optdsl.ir.ops import LEAVES, TABLE
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Loop, Result

# From so many operations on, a compiler is told how many registers there are.
_MANY = 128
REAL = {"float64": "tl.float64"}
# The number of uniform values, which is known when all functions have said what they need.
_WIDTH_HERE, _HALF_HERE = "@WIDTH@", "@HALF@"


def uniform_function(values: Values, row: Sequence[str]) -> str:
    """The function that computes what was asked for of uniform values; empty if that is nothing.

    Args:
        values: those of the kernel, when everything else has been spelled.
        row: the names of a row of hyperparameters.
    """
    if not values.places and not values.stored_uniforms:
        return ""
    for value in values.stored_uniforms:
        values.place(values.name(value))
    lines = []
    for value in values.kernel.uniform:
        operation = values.operation(value)
        if TABLE[operation.opcode].stage is Stage.HOST:
            place = row.index(str(operation.attribute or "t"))
            lines.append(f"{values.name(value)} = tl.load(q + {place})")
        elif operation.opcode != "constant":
            lines += values.assigned(value, DOUBLE)
    lines += values.derived()
    for name, place in values.places.items():
        stored = f"{name}.to({DOUBLE})" if values.condition(name) else name
        lines.append(f"tl.store(u + {place}, {stored})")
        lines.append(f"tl.store(w + {place}, ({stored}).to({values.real}))")
    body = [
        '"""Uniform values of a row: in double precision, and as elements need them."""',
        f"q = rows + tl.program_id(0) * {len(row)}",
        f"u = uniforms + tl.program_id(0) * {2 * len(values.places)}",
        f"w = (u + {len(values.places)}).to(tl.pointer_type({values.real}))",
        *lines,
    ]
    head = f"{values.kernel.name}_uniforms(rows, uniforms)"
    return function(head, body)


class Functions:
    """The functions of one kernel, and what they need to be called.

    Attributes:
        entry: the host's function, which launches the others.
        uniforms: how many uniform values a row has.
        scalars: how many values a tensor has.
        sums: how many sums of the elements of a tensor there are at a time.
    """

    def __init__(
        self, kernel: Kernel, dtype: str, row: Sequence[str], like: Functions | None = None
    ) -> None:
        """Spell everything.

        Args:
            kernel: the kernel.
            dtype: of `optdsl.backends.base.DTYPES`.
            row: the names of a row of hyperparameters: t, the hyperparameters, and those of the
                pending step if one is kept.
            like: another kernel, whose uniform values are this one's.
        """
        self.kernel = kernel
        self._element = f"tl.{dtype}"
        self._row = list(row)
        self.entry = entry_point(kernel, takes_step=bool(kernel.reads("step")))
        self.buffers = ("theta", "g", *self.entry.states)
        self.values = Values(kernel, REAL.get(dtype, "tl.float32"), self.buffers)
        if like is not None:
            self.values.places.update(like.values.places)
        # Loops say what they need of uniform values, so they come first.
        loops = [self._loop(n, loop) for n, loop in enumerate(kernel.loops)]
        numbers = [self._numbers(n, loop) for n, loop in enumerate(kernel.loops)]
        self._texts = list(zip(numbers, loops, strict=True))
        self.scalars = len(self.values.scalars)
        self.sums = max((len(loop.reductions) for loop in kernel.loops), default=0)
        uniform = "" if like is not None else uniform_function(self.values, self._row)
        self.uniforms = 2 * len(self.values.places)
        assert like is None or self.values.places == like.values.places
        texts = [text for text in (uniform, *(t for pair in self._texts for t in pair)) if text]
        texts.append(self._host((like or self).entry.name if self.uniforms else ""))
        text = "\n\n\n".join(texts).replace(_WIDTH_HERE, str(self.uniforms))
        self.text = text.replace(_HALF_HERE, str(self.uniforms // 2))

    # --- values of a tensor ---------------------------------------------------------------------

    def _numbers(self, number: int, loop: Loop) -> str:
        """The function that computes what a loop needs of each tensor, and stores the last of it.

        Sums that the loop before has made of the tensor's blocks are added up.
        """
        values, last = self.values, loop is self.kernel.loops[-1]
        stored = [r for r in self.kernel.stored if r.type.extent is Extent.SCALAR] if last else []
        sums = self.kernel.loops[number - 1].reductions if number else ()
        if not loop.scalars and not stored and not sums:
            return ""
        lines = []
        for place, value in enumerate(sums):
            text = f"folded(sums + {place} * blocks, start, stop, BLOCK)"
            mean = values.operation(value).opcode == "mean"
            sum_ = f"({text}{' / many' if mean else ''})"
            lines.append(f"{values.name(value)} = {sum_}.to({values.real})")
        own = [*sums, *loop.scalars]
        lines += values.fixed(own, [r.value for r in stored], values.real, cast=True)
        for value in loop.scalars:
            operation, name = values.operation(value), values.name(value)
            if operation.opcode == "size":
                lines.append(f"{name} = many.to({values.real})")
            elif operation.opcode == "state":
                pointer = self._pointer(str(operation.attribute))
                lines.append(f"{name} = tl.load({pointer})")
            else:
                lines += values.assigned(value, values.real)
        for value in own:
            text = f"{values.name(value)}.to({DOUBLE})"
            lines.append(f"tl.store(s + {values.scalars.index(value)}, {text})")
        for result in stored:
            word = values.word(result.value, values.real)
            pointer = self._pointer(self.kernel.home(result))
            lines.append(f"tl.store({pointer}, {word}.to({values.real}))")
        body = [
            f'"""What the elements of each tensor need of it as a whole ({number})."""',
            "tensor = tl.program_id(0)",
            f"many = tl.load(table + tensor).to({DOUBLE})",
            "start, stop = tl.load(firsts + tensor), tl.load(firsts + tensor + 1)",
            *self._at_row_and_tensor(lines),
            *lines,
        ]
        head = (f"{self.kernel.name}_numbers{number}(table, tensors, firsts, uniforms, scalars, "
                "sums, blocks, BLOCK: tl.constexpr)")  # fmt: skip
        return function(head, body, unspecialized=["tensors", "blocks"])

    def _at_row_and_tensor(self, lines: Sequence[str], elements: bool = False) -> list[str]:
        found = []
        if elements and any("u + " in line for line in lines):
            row = f"uniforms + tl.load(table + tensors + tensor) * {_WIDTH_HERE} + {_HALF_HERE}"
            found.append(f"u = ({row}).to(tl.pointer_type({self.values.real}))")
        elif any("u + " in line for line in lines):
            found.append(f"u = uniforms + tl.load(table + tensors + tensor) * {_WIDTH_HERE}")
        if any("s + " in line for line in lines):
            found.append(f"s = scalars + tensor * {len(self.values.scalars)}")
        return found

    def _pointer(self, buffer: str) -> str:
        """The pointer to a number of a tensor."""
        return f"{self._address(buffer)}.to(tl.pointer_type({self.values.real}))"

    def _address(self, buffer: str) -> str:
        column = 2 + self.buffers.index(buffer)
        return f"tl.load(table + {column} * tensors + tensor)"

    # --- elements -------------------------------------------------------------------------------

    def _loop(self, number: int, loop: Loop) -> str:
        values, last = self.values, loop is self.kernel.loops[-1]
        stored = [r for r in self.kernel.stored if r.type.extent is Extent.TENSOR] if last else []
        dots = self.kernel.dots if last else ()
        count = len(loop.reductions) + len(dots)
        if not stored and not count:
            return ""
        read = [b for v in loop.body if (b := values.buffer_of(v)) is not None]
        used = dict.fromkeys([*read, *(["g"] if dots else []), *map(self.kernel.home, stored)])
        pointers = {values.buffer(b): f"tl.pointer_type({self._kind(b)})" for b in used}
        lines = self._elements(loop, stored, dots)
        body = [
            *(f"{p} = {p}.to({kind})" for p, kind in pointers.items()),
            # What the compiler is told has to be told where the pointer is made.
            "if FAST:",
            *(f"    {p} = tl.multiple_of({p}, 16)" for p in pointers),
            *self._at_row_and_tensor(lines, elements=True),
            "stop = begin + SPAN if FAST else tl.minimum(begin + SPAN, size)",
            *(f"SUM{n} = tl.full((), 0.0, {DOUBLE})" for n in range(count)),
            "for start in tl.range(begin, stop, BLOCK, disable_licm=True):",
            "    i = start + tl.arange(0, BLOCK)",
            "    inside = i < size",
            *(f"    {line}" for line in lines),
            *(f"tl.store(sums + {n} * blocks + place, SUM{n})" for n in range(count)),
        ]
        call = (f"{self.kernel.name}_block{number}(table, tensors, tensor, size, begin, uniforms, "
                f"scalars, sums, blocks, place, {', '.join(pointers)}, ")  # fmt: skip
        inner = function(
            f"{call}FAST: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr)",
            [f'"""A span of a tensor: whole and aligned if FAST (loop {number})."""', *body],
        )
        return f"{inner}\n\n\n{self._chosen(number, list(used), call)}"

    def _elements(self, loop: Loop, stored: Sequence[Result], dots: Sequence[Result]) -> list[str]:
        """The lines that compute elements, and store and add up what is wanted of them.

        All elements are loaded at the beginning. Each result is stored as soon as it is computed,
        and uniform numbers are loaded where they are used, so that few registers are needed.
        """
        values, real = self.values, self.values.real
        lines, gradient = [], "gradient"
        for value in loop.body:
            if (buffer := values.buffer_of(value)) is not None:
                lines.append(f"{values.name(value)} = {self._fetched(buffer)}")
                gradient = values.name(value) if buffer == "g" else gradient
        if dots:
            lines += [f"gradient = {self._fetched('g')}"] if gradient == "gradient" else []
        leaving: dict[Value, list[str]] = {}
        for result in stored:
            home = self.kernel.home(result)
            x = f"{values.word(result.value, real)}.to({self._kind(home)})"
            line = f"put({values.buffer(home)}, i, {x}, inside, FAST)"
            leaving.setdefault(result.value, []).append(line)
        reduced = [values.operation(v).arguments[0] for v in loop.reductions]
        factors = [*((v, False) for v in reduced), *((d.value, True) for d in dots)]
        for place, (value, dot) in enumerate(factors):
            x = values.word(value, real)
            # An element has no part where its gradient is zero, whatever it is.
            x = f"tl.where({gradient} == 0, 0.0, {x} * {gradient})" if dot else x
            line = f"SUM{place} += total({x}, inside, FAST, BLOCK)"
            leaving.setdefault(value, []).append(line)
        body = set(loop.body)
        computed = [v for v in loop.body if values.operation(v).opcode not in LEAVES]
        early = [x for v in leaving if v not in computed for x in leaving[v]]
        found = dict.fromkeys(values.fixed((), [v for v in leaving if v not in body], real))
        lines += [*found, *early]
        for value in computed:
            near = [x for x in values.fixed([value], (), real, body) if x not in found]
            found |= dict.fromkeys(near)
            lines += [*near, *values.assigned(value, real), *leaving.get(value, ())]
        return lines

    def _chosen(self, number: int, buffers: Sequence[str], call: str) -> str:
        """The kernel, which uses unmasked accesses for whole and aligned spans."""
        pointers = list(map(self.values.buffer, buffers))
        body = [
            f'"""Every span of every tensor, a program each (loop {number})."""',
            "tensor = tl.load(holders + tl.program_id(0))",
            "begin = tl.multiple_of(tl.load(begins + tl.program_id(0)), SPAN)",
            "size = tl.load(table + tensor)",
            "place = first + tl.program_id(0)",
            *(f"{p} = {self._address(b)}" for p, b in zip(pointers, buffers, strict=True)),
            *united(pointers),
            "if (begin + SPAN <= size) & (ADDRESSES % 16 == 0):",
            *wrapped(f"    {call}True, SPAN, BLOCK)"),
            "else:",
            *wrapped(f"    {call}False, SPAN, BLOCK)"),
        ]
        head = (
            f"{self.kernel.name}_loop{number}(table, tensors, holders, begins, uniforms, scalars, "
            "sums, blocks, first, SPAN: tl.constexpr, BLOCK: tl.constexpr)"
        )
        return function(head, body, unspecialized=["tensors", "blocks", "first"])

    def _fetched(self, buffer: str) -> str:
        cast = "" if self._kind(buffer) == self.values.real else f".to({self.values.real})"
        return f"fetch({self.values.buffer(buffer)}, i, inside, FAST){cast}"

    def _kind(self, buffer: str) -> str:
        return self._element if buffer in PARAMETER_LIKE.values() else self.values.real

    # --- the host -------------------------------------------------------------------------------

    @property
    def crowded(self) -> list[str]:
        """The functions in which registers are scarce."""
        loops = enumerate(self.kernel.loops)
        return [f"{self.kernel.name}_loop{n}" for n, loop in loops if len(loop.body) > _MANY]

    def _host(self, uniform: str) -> str:
        name = self.kernel.name
        lines = ['"""Launch it for a call, whose rows may be ready."""']
        if uniform:
            lines.append("if not ready:")
            lines.append(
                f"    {uniform}_uniforms[(c.count,)](c.rows, c.uniforms, num_warps=1, **OPTIONS)"
            )
        warps = "num_warps=THREADS // c.lanes, **OPTIONS)"
        last = len(self.kernel.loops) - 1
        for number, (numbers, loop) in enumerate(self._texts):
            if numbers:
                lines += wrapped(
                    f"{name}_numbers{number}[(c.tensors,)](c.table, c.tensors, c.firsts, "
                    f"c.uniforms, c.scalars, c.partials, c.blocks, BLOCK=BLOCK, {warps}"
                )
            if loop:
                dots = number == last and self.kernel.dots
                sums = "c.dots, c.total, c.first" if dots else "c.partials, c.blocks, 0"
                crowded = f"{name}_loop{number}" in self.crowded
                more = f"{warps[:-1]}, **c.options)" if crowded else warps
                lines += wrapped(
                    f"{name}_loop{number}[(c.blocks,)](c.table, c.tensors, c.holders, c.begins, "
                    f"c.uniforms, c.scalars, {sums}, SPAN=SPAN, BLOCK=BLOCK, {more}"
                )
        return "\n".join([f"def {name}(c, ready=False):", *(f"    {line}" for line in lines)])
