"""The layout of lines of C, and of the addresses of a tensor."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import EntryPoint

_WIDTH = 96


def slot(entry: EntryPoint, buffer: str) -> int:
    """The index of the pointer to the parameter, its gradient or a state in a tensor's record."""
    return ("theta", "g", *entry.states).index(buffer)


def braced(head: str, lines: Sequence[str], indent: str = "") -> str:
    """A function, or another block, with its lines indented."""
    return "\n".join([f"{head} {{", *(f"{indent}  {line}" for line in lines), f"{indent}}}", ""])


def listed(opening: str, items: Sequence[str], closing: str = ")") -> str:
    """A list in brackets, filled into lines."""
    lines, line = [], opening
    for number, item in enumerate(items):
        text = item + (closing if number == len(items) - 1 else ", ")
        if len(line) + len(text) > _WIDTH:
            lines.append(line.rstrip())
            line = "      "
        line += text
    return "\n".join([*lines, line])


def indented(lines: Sequence[str]) -> list[str]:
    """Lines whose continuation lines are indented by two more spaces."""
    return [line.replace("\n", "\n  ") for line in lines]
