"""Who takes part, and how few bytes each of them could move in a step.

The floor counts what a step has to read and write between the registers and memory, in float32
words per parameter, if every value crosses once. It belongs to the rule and to what the step
returns, and not to an implementation: one that keeps intermediate tensors moves more.
"""

from dataclasses import dataclass
from typing import NamedTuple

WORD = 4  # bytes of a float32

# Before the name of a rule of the library, which takes part without being one of `CONTESTANTS`.
RULE = "rule:"
# Before the names of two rules with a comma between them: their blend, likewise.
BLEND = "blend:"


class Traffic(NamedTuple):
    """Words per parameter that a step has to read from memory and write to it."""

    reads: float
    writes: float


@dataclass(frozen=True)
class Contestant:
    """An implementation of a step.

    Attributes:
        name: in heats and results.
        label: in tables and pictures.
        traffic: what it has to move.
        memory: bytes per parameter that it needs at its peak, parameter and gradients aside;
            a rough guess, which says whether to try.
        ours: whether optdsl compiled it.
    """

    name: str
    label: str
    traffic: Traffic
    memory: int
    ours: bool = False

    @property
    def floor(self) -> float:
        """Bytes per parameter that a step has to move."""
        return WORD * sum(self.traffic)


# theta, g, m and v in; theta, m and v out.
ADAM = Traffic(4, 3)
# Adam's, with n and the previous gradient in; n and the gradient, as the next previous one, out.
ADAN = Traffic(6, 5)
# theta, g and m in; theta and m out.
LION = Traffic(3, 2)
# theta, g and the six states m, v, V, n, the previous gradient and Lion's m in; all but g out,
# where the gradient becomes the previous one.
MADA = Traffic(8, 7)
# The states lag one step behind, so that the last step can be replayed and differentiated in
# registers. It adds the gradient of that step to what is read, and nothing to what is written:
# today's gradient is kept, and the one before it is not needed any more.
OVERLAPPED = Traffic(9, 7)
# The coefficients have to be known before the first parameter moves: a pass over today's gradient,
# the last one and the six states for the dot products, then the pass above.
EXACT = Traffic(9 + 8, 7)
# What is sampled takes an eighth of the elements: those move what they do above, but that the
# gradient is written and not renamed, since what is kept for an eighth of the elements cannot
# trade places with what all have. The others take MADA's plain step.
SAMPLE = 8
SAMPLED = Traffic(8 + 1 / SAMPLE, 7 + 1 / SAMPLE)
SAMPLED_EXACT = Traffic(8 + 9 / SAMPLE, 7 + 1 / SAMPLE)

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("torch-fused", "torch Adam, fused", ADAM, memory=8),
        Contestant("torch-foreach", "torch Adam, foreach", ADAM, memory=20),
        Contestant("torch-compile", "torch Adam, compiled", ADAM, memory=20),
        Contestant("adam", "Adam", ADAM, memory=8, ours=True),
        Contestant("mada-fixed", "MADA, fixed", MADA, memory=24, ours=True),
        Contestant("mada-interior", "MADA, fixed, interior", MADA, memory=24, ours=True),
        Contestant("mada-overlapped", "MADA, learned", OVERLAPPED, memory=28, ours=True),
        Contestant("mada-exact", "MADA, learned, exact", EXACT, memory=28, ours=True),
        Contestant("mada-sampled", "MADA, learned, sample 1/8", SAMPLED, memory=28, ours=True),
        Contestant(
            "mada-sampled-exact", "MADA, sample 1/8, exact", SAMPLED_EXACT, memory=28, ours=True
        ),
        Contestant("foreach-mada", "MADA, fixed, foreach by hand", MADA, memory=60),
        Contestant("mada-autograd", "MADA, learned, by autograd", EXACT, memory=150),
        Contestant("yogi", "Yogi", ADAM, memory=8, ours=True),
        Contestant("their-yogi", "pytorch_optimizer Yogi", ADAM, memory=24),
        Contestant("adan", "Adan", ADAN, memory=16, ours=True),
        Contestant("their-adan", "pytorch_optimizer Adan", ADAN, memory=32),
        Contestant("lion", "Lion", LION, memory=4, ours=True),
        Contestant("their-lion", "pytorch_optimizer Lion", LION, memory=16),
        Contestant("adabelief", "AdaBelief", ADAM, memory=8, ours=True),
        Contestant("their-adabelief", "pytorch_optimizer AdaBelief", ADAM, memory=24),
    )
}

# Plain torch makes a tensor of every intermediate value.
EAGER_MEMORY = 100  # bytes per parameter, a rough guess
