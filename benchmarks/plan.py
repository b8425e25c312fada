"""What is measured: who runs beside whom, the ratios that come of it, and their targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

FUSED = "torch-fused"

# Beside contestants whose parameters stream from memory, two simple operations on large tensors
# take their turns. Each counts 8 bytes per float32, one word read and one written.
COPY = "copy"  # from one tensor to another
SCALE = "scale"  # in place, by a number
STREAMS = (COPY, SCALE)
STREAMED = 2**26  # float32 of a tensor: 256 MiB
STREAM_BYTES = 8


@dataclass(frozen=True)
class Target:
    """A bound on a ratio or a time."""

    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether the value is on the right side of the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Ratio:
    """The time of one contestant over that of another, with a target at some of the sizes."""

    numerator: str
    denominator: str = FUSED
    targets: Mapping[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Heat:
    """Contestants that take turns in one process. Few, so that all fit into memory at once."""

    name: str
    ratios: tuple[Ratio, ...]

    @property
    def contestants(self) -> tuple[str, ...]:
        """Who takes part; the denominators lead."""
        names = [r.denominator for r in self.ratios] + [r.numerator for r in self.ratios]
        return tuple(dict.fromkeys(names))


def _pair(name: str) -> Heat:
    """A rule of ours and the same of pytorch_optimizer."""
    theirs = f"their-{name}"
    return Heat(name, (Ratio(name), Ratio(theirs), Ratio(theirs, name)))


HEATS = {
    heat.name: heat
    for heat in (
        Heat(
            "adam",
            (
                Ratio("adam", targets={"20M": Target(1.05), "150x1000": Target(0.6)}),
                Ratio("torch-foreach"),
            ),
        ),
        # Alone: the compilation can take very long, and is then given up.
        Heat("compile", (Ratio("torch-compile"),)),
        Heat(
            "fixed",
            (
                Ratio("mada-fixed", targets={"20M": Target(2.3)}),
                Ratio("mada-interior", targets={"20M": Target(2.3)}),
            ),
        ),
        Heat(
            "learned",
            (
                Ratio("mada-overlapped", targets={"20M": Target(2.5)}),
                Ratio("mada-exact", targets={"20M": Target(3.8)}),
            ),
        ),
        Heat(
            "autograd",
            (
                Ratio(
                    "mada-autograd",
                    "mada-overlapped",
                    targets={"20M": Target(100, at_least=True)},
                ),
            ),
        ),
        *(_pair(name) for name in ("yogi", "adan", "lion", "adabelief")),
    )
}

# Parts that are not heats.
FLOORS = "floors"
MEMORY = "memory"
STARTUP = "startup"
PARTS = (*HEATS, FLOORS, MEMORY, STARTUP)

# The time of an elementwise rule's step over that in which memory moves the bytes of its plan.
FLOOR = Target(1.3)

# What times are taken with. The time of the processors, of all threads together, hardly depends on
# how much of them other programs take, but counts threads that wait for each other.
CLOCKS = ("wall", "processor")

# Whose start is timed.
STARTERS = ("adam", "mada-overlapped", "mada-exact")
COLD = Target(1.5)
WARM = Target(0.1)


# The share of the processors from which on other programs make a measurement worthless: they slow
# some steps more than others, so that ratios change too.
DISTURBED = 0.03


@dataclass(frozen=True)
class Effort:
    """How long it may take.

    Attributes:
        rounds: of a heat, each a sample for every contestant.
        seconds: after which a heat takes no further round, once it has `least`.
        least: rounds that every heat takes.
        sample: seconds that the fastest contestant's sample lasts at least.
        floor_seconds: the same for a rule beside copying and scaling.
        starts: cold starts and warm starts of each starter.
        timeout: seconds after which a process is given up.
    """

    rounds: int
    seconds: float
    least: int
    sample: float
    floor_seconds: float
    starts: int
    timeout: float


FULL = Effort(rounds=40, seconds=90, least=5, sample=0.02, floor_seconds=15, starts=7, timeout=900)
QUICK = Effort(rounds=15, seconds=20, least=3, sample=0.01, floor_seconds=5, starts=3, timeout=300)
