"""The table of the library as text: for a terminal, and the document docs/library.md."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from optdsl import resources
from optdsl.report.library import KINDS, Part, Reference, Row


def listing(found: Sequence[Row], width: int | None = None) -> str:
    """A table for a terminal, by kinds: name, bytes of state, and what there is to say.

    Args:
        found: the rows.
        width: of a line in characters; that of the terminal if it is not given.
    """
    width = width or shutil.get_terminal_size().columns
    names = max((len(row.name) for row in found), default=0)
    sizes = max((len(_size(row)) for row in found), default=0)
    blocks = []
    for kind, meaning in KINDS.items():
        own = [row for row in found if row.kind == kind]
        if own:
            lines = [textwrap.fill(f"{kind.upper()}: {meaning}", width)]
            for row in own:
                head = f"{row.name:<{names}}  {_size(row):>{sizes}}  "
                text = head + " ".join(_sentences(row))
                lines.append(textwrap.fill(text, width, subsequent_indent=" " * len(head)))
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def page(found: Sequence[Row]) -> str:
    """The document docs/library.md."""
    out = [_HEAD]
    for kind, meaning in KINDS.items():
        out += [f"## {kind.capitalize()}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
        out += ["| name | bytes | needs | backends | compared with | source |", "|" + "---|" * 6]
        for row in found:
            if row.kind == kind:
                compared = "; ".join(map(_reference, row.references))
                title = row.title.replace("|", "\\|")
                needs = [*row.needs, *([f"learns {', '.join(row.learns)}"] if row.learns else ())]
                cells = (f"`{row.name}`", _bytes(row), "; ".join(needs), _backends(row))
                out.append(f"| {' | '.join((*cells, compared, title))} |")
        out.append("")
    out += [_DIFFERENCES]
    for row in found:
        for reference in row.references:
            out += [f"- `{row.name}`, {reference.against}: {x}" for x in reference.differs]
    return "\n".join(out) + "\n"


def place_of_page() -> Path:
    """Where the document is, in a checkout."""
    return resources.PACKAGE.parent / "docs" / "library.md"


_HEAD = """\
# The library

<!-- Written by `make stubs` from the specifications and specs/references.toml. -->

Every rule and modifier of the library. `optdsl list` prints the same table, `optdsl list --kind
matrices` a part of it, and `optdsl list --json` gives all of it to programs. `optdsl show NAME` has
the equations.

- **bytes**: of state per parameter in float32, in eager code; of a modifier, what it adds to AdamW,
  and of `polar_express` to Muon. Compiled code may keep less where something is learned (`optdsl
  show NAME --plan`). Where matrices have equations of their own, their bytes come first. "+ rows *
  rows" is a state with four bytes for each pair of rows.
- **needs**: inputs are given to `step(inputs=...)`, and `eval()` and `train()` are called around an
  evaluation, see [language.md](language.md). A sum over all tensors waits for the device once a
  step. A modifier may need an equation or a hyperparameter of the rule.
- **backends**: `backend="auto"` takes compiled code where it runs, and eager code elsewhere and for
  matrices on GPUs, for which Triton has to be asked for.
- **compared with**: what a test of this repository takes the same steps with, in float64. "By hand"
  is the algorithm written for the tests, without optdsl. "Measured" is the largest difference of an
  element that the test has seen, relative to the largest element of its tensor; 0 is the same to
  the bit. "Allowed" is the difference that it allows for a parameter. Differences that have reasons
  are counted here and described at the end.
"""
_DIFFERENCES = """\
## Differences

Where a specification follows its paper or its authors' code, and what it is compared with does not.
The settings of the test leave the difference out, or it is too small to be seen there.
"""


def _size(row: Row) -> str:
    """The bytes of the sections, without those that say the same."""
    return "/".join(dict.fromkeys(str(p.bytes) + "+" * bool(p.beside) for p in row.parts)) + " B"


def _bytes(row: Row) -> str:
    return _by_tensors(row, lambda part: " + ".join((str(part.bytes), *_beside(part))))


def _beside(part: Part) -> list[str]:
    return [f"{n} × {t}" if n > 1 else t for t, n in Counter(part.beside).items()]


def _backends(row: Row) -> str:
    return _by_tensors(row, lambda part: ", ".join(part.backends))


def _by_tensors(row: Row, text: Callable[[Part], str]) -> str:
    """A text about each section, or one if they say the same."""
    texts = {part.tensors: text(part) for part in row.parts}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{tensors}: {own}" for tensors, own in texts.items())


def _reference(reference: Reference) -> str:
    said = [f"{_spelled(reference.measured)} measured"] if reference.measured is not None else []
    said += [f"{_spelled(reference.within)} allowed"] if reference.within else []
    if count := len(reference.differs):
        said.append("1 difference" if count == 1 else f"{count} differences")
    return reference.against + (f" ({', '.join(said)})" if said else "")


def _spelled(number: float) -> str:
    """A number as 1e-9, and not as 1e-09."""
    return f"{number:g}".replace("e-0", "e-")


def _sentences(row: Row) -> list[str]:
    """What the list of a terminal says of a row."""
    eager = [p.tensors for p in row.parts if p.backends == ("eager",)]
    found = [row.title.rstrip(".") + "."] if row.title else []
    found += [f"Learns {', '.join(row.learns)}."] if row.learns else []
    found += [f"Needs {', '.join(row.needs)}."] if row.needs else []
    if len(eager) == len(row.parts):
        found.append("Eager code only.")
    elif eager:
        found.append(f"Eager code for {' and '.join(eager)}.")
    if row.references:
        told = [
            r.against if r.measured is None else f"{r.against} ({_spelled(r.measured)})"
            for r in row.references
        ]
        found.append(f"Compared with {' and '.join(told)}.")
    return [*found, f"From {row.file} ({row.origin})."] if row.file else found
