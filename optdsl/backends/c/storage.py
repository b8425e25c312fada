"""How values lie in memory in C, by the codecs of a program, and the random numbers of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optdsl.ir.draws import words_of
from optdsl.ir.ops import DRAWS
from optdsl.ir.program import Value
from optdsl.ir.storage import PARAMETER, stored
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Role

_HALF = {"bfloat16", "float16"}


@dataclass(frozen=True)
class Format:
    """How the elements of a value lie in memory.

    Attributes:
        type: the C type of an element of the buffer that has the value's name.
        suffix: the end of the names of the functions that read and round elements of that type.
        beside: the buffer that holds what rounding takes off, of the same type; None without one.
        random: whether rounding is at random.
    """

    type: str
    suffix: str = ""
    beside: str | None = None
    random: bool = False

    def read(self, x: str) -> str:
        """An element as a number, without what stands beside it."""
        return x if self.type == "real" else f"load{self.suffix}({x})"

    def rounded(self, x: str) -> str:
        """A number, rounded to the nearest element."""
        return x if self.type == "real" else f"rounded{self.suffix}({x})"

    @property
    def coded(self) -> bool:
        """Whether writing it is more than rounding, and worth a loop of its own."""
        return self.random or self.beside is not None

    @property
    def put(self) -> str:
        """The function that rounds a row of numbers to the nearest elements."""
        return "copy" if self.type == "real" else f"put{self.suffix}"


_PLAIN, _ELEMENT, _BFLOAT16 = Format("real"), Format("element"), Format("bfloat16", "_bfloat16")
# The formats by the names of codecs, where they differ from what the parameter's dtype says.
_CODED = {
    "bfloat16": _BFLOAT16,
    "bfloat16 stochastic": Format("bfloat16", "_bfloat16", random=True),
    "stochastic": Format("element", random=True),
    "compensated": Format("element", beside="compensation/theta"),
}
CODECS = frozenset(_CODED)


@dataclass(frozen=True)
class Stream:
    """Random numbers of a kernel, a row of them for a chunk of elements.

    Attributes:
        row: the C name of the row.
        attribute: the distribution and the name, as the operation ``draw`` has them.
        counter: the value that they are drawn at; None for the number of the step.
    """

    row: str
    attribute: str
    counter: Value | None

    @property
    def numbers(self) -> str:
        """The C function that makes numbers of words."""
        return f"{self.attribute.partition(' ')[0]}_numbers"

    @property
    def name(self) -> str:
        """The words of the name as arguments in C."""
        low, high = words_of(self.attribute.partition(" ")[2])
        return f"{low:#x}u, {high:#x}u"


class Storage:
    """The formats of a kernel's values, and its random numbers.

    Attributes:
        double: whether elements are computed in double precision.
        streams: what is drawn for elements.
        starts: whether the kernel makes the states before the first step.
    """

    def __init__(self, kernel: Kernel, dtype: str) -> None:
        """Look up the codecs of the kernel's program, for parameters of a dtype."""
        program = kernel.program
        codecs = stored(program)
        widens = PARAMETER in codecs and codecs[PARAMETER].widens
        self.double = dtype == "float64" or (widens and dtype == "float32")
        self.starts = kernel.name == Role.INITIALIZE
        # What is computed in more precision than usual is kept in the usual one.
        self._usual = _ELEMENT if widens and dtype == "float32" else _PLAIN
        self._formats = {"theta": _ELEMENT, "g": _ELEMENT}
        for name, codec in codecs.items():
            found = _CODED[codec.name]
            if name == PARAMETER and (self.starts or (found.random and dtype not in _HALF)):
                continue
            if found.beside is not None:
                self._formats[found.beside] = _ELEMENT
            self._formats[name] = found
        self.streams: list[Stream] = []
        body = (program.operations[v] for v in kernel.body)
        for operation in body:
            if operation.opcode in DRAWS and operation.type.extent is Extent.TENSOR:
                self._add(str(operation.attribute), operation.arguments[0])
        for result in kernel.stored:
            home = kernel.home(result)
            if result.type.extent is Extent.TENSOR and self.format(home).random:
                self._add(_rounding(home), None)

    def _add(self, attribute: str, counter: Value | None) -> None:
        self.streams.append(Stream(f"RANDOM{len(self.streams)}", attribute, counter))

    def format(self, buffer: str) -> Format:
        """The format of the parameter, its gradient or a state."""
        return self._formats.get(buffer, self._usual)

    def parts(self, buffer: str) -> tuple[str, ...]:
        """The buffers that hold a value."""
        beside = self.format(buffer).beside
        return (buffer,) if beside is None else (buffer, beside)

    def read(self, buffer: str, pointer: Callable[[str], str]) -> str:
        """An element of a value as a number, given the pointers of buffers."""
        found = (self.format(part).read(f"{pointer(part)}[i]") for part in self.parts(buffer))
        return " + ".join(found)

    def written(self, home: str, word: str, pointer: Callable[[str], str]) -> list[str]:
        """The lines that write an element."""
        found = self.format(home)
        to = f"{pointer(home)}[i]"
        if found.random:
            row = self.rounding(home).row
            return [f"{to} = at_random{found.suffix}({word}, {row}[i]);"]
        lines = [f"{to} = {found.rounded(word)};"]
        return [*lines, *(f"{pointer(b)}[i] = rest({word});" for b in self.parts(home)[1:])]

    def copied(self, home: str, out: str, memory: Callable[[str], str]) -> list[str]:
        """The lines that write a chunk of numbers, given the places of buffers in memory."""
        found = self.format(home)
        if found.random:
            row = self.rounding(home).row
            return [f"put_at_random{found.suffix}({memory(home)}, {out}, {row}, n);"]
        if found.beside is not None:
            return [f"put_with_rest({memory(home)}, {memory(found.beside)}, {out}, n);"]
        return [f"{found.put}({memory(home)}, {out}, n);"]

    def drawn(self, attribute: str, counter: Value) -> Stream:
        """The stream of a draw; its counter tells it from others of its name only."""
        named = [s for s in self.streams if s.attribute == attribute]
        return named[0] if len(named) == 1 else next(s for s in named if s.counter == counter)

    def rounding(self, home: str) -> Stream:
        """The stream by which a value is rounded at random."""
        return next(s for s in self.streams if s.attribute == _rounding(home))


def rounding_number(home: str) -> Stream:
    """By what the single number of a tensor is rounded at random."""
    return Stream("", _rounding(home), None)


def _rounding(home: str) -> str:
    return f"uniform store {home}"
