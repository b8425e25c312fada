"""How states and parameters lie in memory: the table of codecs.

A codec has one or more buffers for a value. Equations see the value that they stand for, and what
an equation gives is encoded after the step. The rule stays what it is: storage is no part of the
meaning of a program, and derivatives take it for a constant. `optdsl.codecs` has
the arithmetic; a test fails if a codec has none there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optdsl.ir.ops import DRAWS, UNCOMPILED
from optdsl.ir.program import Program

# What `store` calls the parameter, and all states of a rule.
PARAMETER, STATES = "theta", "states"


@dataclass(frozen=True)
class Buffer:
    """One tensor of what is stored.

    Attributes:
        name: what it is called, in front of the value's name; empty for the one that has the
            value's own name.
        dtype: its dtype; empty for that of the parameter.
    """

    name: str
    dtype: str

    def key(self, value: str) -> str:
        """What the state of a parameter calls it."""
        return f"{self.name}/{value}" if self.name else value


@dataclass(frozen=True)
class Codec:
    """A way to store a value.

    Attributes:
        name: what the language calls it.
        buffers: the tensors that it makes of one; the first has the value's own name. Of a
            parameter, that is the parameter itself.
        of_states, of_parameters: what it is for.
        draws: whether it rounds at random.
        widens: whether a value of float32 is worked on in float64, since its buffers together have
            more than float32's precision.
        meaning: what it does, for readers.
    """

    name: str
    buffers: tuple[Buffer, ...]
    of_states: bool
    of_parameters: bool
    draws: bool
    widens: bool
    meaning: str


CODECS = {
    codec.name: codec
    for codec in (
        Codec("bfloat16", (Buffer("", "bfloat16"),), True, False, False, False,
              "rounded to the nearest number of bfloat16"),
        Codec("bfloat16 stochastic", (Buffer("", "bfloat16"),), True, False, True, False,
              "rounded up or down to bfloat16 at random, so that the mean is the number"),
        Codec("stochastic", (Buffer("", ""),), False, True, True, False,
              "rounded up or down to the parameter's dtype at random, so that the mean is the "
              "number"),
        Codec("compensated", (Buffer("", ""), Buffer("compensation", "")), False, True, False, True,
              "rounded, with what rounding took off beside it, in the parameter's dtype"),
    )
}  # fmt: skip


def stored(program: Program) -> dict[str, Codec]:
    """The codecs of what a program stores otherwise than it computes it, by name."""
    found = {s.name: CODECS[s.codec] for s in program.states if s.codec}
    return found | ({PARAMETER: CODECS[program.codec]} if program.codec else {})


def added(program: Program) -> dict[str, Buffer]:
    """The buffers beside those that have the names of states, by their keys in a state."""
    return {
        buffer.key(name): buffer
        for name, codec in stored(program).items()
        for buffer in codec.buffers
        if buffer.name
    }


def compiles(program: Program) -> bool:
    """Whether compiled kernels have all operations of a program for tensors of one kind."""
    return all(o.opcode not in UNCOMPILED for o in program.operations)


def draws(program: Program) -> bool:
    """Whether random numbers are drawn in a step."""
    own = any(o.opcode in DRAWS for o in program.operations)
    return own or any(codec.draws for codec in stored(program).values())
