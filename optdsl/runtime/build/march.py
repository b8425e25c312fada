"""The processor for which C is compiled: this one, or the one that OPTDSL_MARCH names."""

from __future__ import annotations

import os
import platform
import re

MARCH_VARIABLE = "OPTDSL_MARCH"
NATIVE = "native"

# The levels of the x86-64 psABI, each with the flags of /proc/cpuinfo that it adds.
LEVELS = {
    "x86-64": "sse2",
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "x86-64-v4": "avx512bw avx512cd avx512dq avx512f avx512vl",
}


class WrongTarget(ValueError):
    """OPTDSL_MARCH names a processor that this one is not; the message says what to do."""


def chosen() -> str:
    """The value of OPTDSL_MARCH, a name that compilers accept after ``-march=``, or "native"."""
    return os.environ.get(MARCH_VARIABLE, "").strip() or NATIVE


def missing(level: str, processor: str) -> list[str]:
    """The flags that a level of x86-64 needs and a processor lacks; empty for other names.

    Args:
        level: a name that compilers accept after ``-march=``.
        processor: the lines of /proc/cpuinfo on it.
    """
    if level not in LEVELS:
        return []
    names = list(LEVELS)
    needed = " ".join(LEVELS[name] for name in names[: names.index(level) + 1])
    return sorted(set(needed.split()) - set(processor.split()))


def march_flags(target: str, processor: str) -> tuple[str, ...]:
    """The compiler's flags for a target.

    Args:
        target: a result of `chosen`.
        processor: the lines of /proc/cpuinfo on this one, which programs for another could crash.

    Raises:
        WrongTarget: the name is invalid, or this processor cannot run programs for the target.
    """
    remedy = f"set {MARCH_VARIABLE} to another name, or leave it out to compile for this processor"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", target):
        raise WrongTarget(
            f"{MARCH_VARIABLE} is {target!r}, which is not the name of a processor: {remedy}."
        )
    if target in LEVELS and platform.machine() not in {"x86_64", "AMD64"}:
        raise WrongTarget(
            f"{MARCH_VARIABLE} is {target!r}, and this is {platform.machine()}: {remedy}."
        )
    if lacking := missing(target, processor):
        raise WrongTarget(
            f"{MARCH_VARIABLE} is {target!r}, and this processor lacks {', '.join(lacking)}: "
            f"{remedy}."
        )
    return (f"-march={target}",)


def wide(target: str, processor: str) -> bool:
    """Whether vectors of 512 bits are available and wanted."""
    return target in {NATIVE, "x86-64-v4"} and "avx512f" in processor.split()
