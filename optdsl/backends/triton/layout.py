"""Lines of emitted Triton."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 96


def function(head: str, body: Sequence[str], unspecialized: Sequence[str] = ()) -> str:
    """A function of the device."""
    names = ", ".join(f'"{name}"' for name in unspecialized)
    decorator = f"@triton.jit(do_not_specialize=[{names}])" if names else "@triton.jit"
    lines = [*wrapped(f"def {head}:"), *(f"    {line}" for line in body)]
    return "\n".join([decorator, *lines])


def united(pointers: Sequence[str]) -> list[str]:
    """The bits of all addresses."""
    lines = [f"ADDRESSES = {' | '.join(pointers[:6])}"]
    for start in range(6, len(pointers), 6):
        lines.append(f"ADDRESSES = ADDRESSES | {' | '.join(pointers[start : start + 6])}")
    return lines


def wrapped(line: str) -> list[str]:
    """A call or a definition on one line, or with its arguments filled into several."""
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    opening, rest = line.rsplit("(", 1) if line.count("(") == 1 else _cut(line)
    inner, closing = rest.rsplit(")", 1)
    lines, current = [f"{opening}("], f"{indent}    "
    for part in inner.split(", "):
        text = f"{part}, "
        if len(current) + len(text) > WIDTH:
            lines.append(current.rstrip())
            current = f"{indent}    "
        current += text
    return [*lines, current.rstrip(), f"{indent}){closing}"]


def _cut(line: str) -> tuple[str, str]:
    """A line before and after the parenthesis of its last call or definition."""
    depth = 0
    for place in range(len(line) - 1, -1, -1):
        depth += (line[place] == ")") - (line[place] == "(")
        if line[place] == "(" and depth == 0:
            return line[:place], line[place + 1 :]
    raise ValueError(line)
