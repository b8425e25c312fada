"""What is written from specs and grammar: `optimizers.pyi`, parse tables, and the library's table.

``python -m optdsl.stubs`` (`make stubs`) writes them.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from optdsl import optimizers, resources
from optdsl.ir.domain import Choice
from optdsl.ir.program import Program
from optdsl.report import library as report, table
from optdsl.runtime.core.hints import HINTS
from optdsl.runtime.core.hyperparameters import beta_names
from optdsl.runtime.torch_api.make import documentation, signature
from optdsl.specifications import library, sources
from optdsl.syntax import tables

_WIDTH = 100
_HEAD = '''\
# Written by `make stubs` from the specifications of the library.

"""The library's optimizers as classes: ``from optdsl.optimizers import MADA, Adam``."""

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.optim.optimizer import ParamsT

from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

def names() -> dict[str, str]:
    """The specifications of the library by the names of their classes, sorted."""
'''


def text() -> str:
    """The stub of every optimizer of the library."""
    specs = optimizers.names().values()
    programs = [library.read(sources.open_source(spec), verify=False) for spec in specs]
    return "\n".join([_HEAD, *map(_class, programs)])


def write() -> Path:
    """Write the stub beside `optimizers.py`; where it is."""
    place = Path(optimizers.__file__).with_suffix(".pyi")
    place.write_text(text(), encoding="utf-8")
    return place


def write_table() -> tuple[Path, Path]:
    """Write the table of the library, and the document that shows it; where they are."""
    rows = report.made()
    texts = {
        resources.library_table_path(): report.stored_text(rows),
        table.place_of_page(): table.page(rows),
    }
    for place, text in texts.items():
        place.write_text(text, encoding="utf-8")
    stored, page = texts
    return stored, page


def _class(program: Program) -> str:
    lines = [f"class {program.name}(CompiledOptimizer):", f'    """{_documentation(program)}']
    lines += ['    """', "", "    def __init__(", "        self,", "        params: ParamsT,"]
    inside = ", ".join(["float | Tensor"] * len(beta_names(h.name for h in program.hypers)))
    kinds = {"betas": f"tuple[{inside}] | None", "maximize": "bool", "seed": "int"}
    kinds |= {"process_group": "ProcessGroup | None"} | dict.fromkeys(HINTS, "bool | None")
    for hyper in program.hypers:
        labels = isinstance(hyper.domain, Choice) and hyper.domain.labels
        kinds[hyper.name] = "str | float" if labels else "float | Tensor"
    by_position = True
    for parameter in list(signature(program).parameters.values())[1:]:
        if by_position and parameter.kind is parameter.KEYWORD_ONLY:
            lines.append("        *,")
            by_position = False
        # Infinity has no literal of its own.
        default = repr(parameter.default).replace("inf", "1e999")
        lines.append(f"        {parameter.name}: {kinds[parameter.name]} = {default},")
    lines += ["    ) -> None: ...", ""]
    return "\n".join(lines)


def _documentation(program: Program) -> str:
    """The docstring, indented and not too wide."""
    out: list[str] = []
    for line in documentation(program).replace("\\", "\\\\").replace('"""', "'''").splitlines():
        own = line[: len(line) - len(line.lstrip())]
        room = _WIDTH - 4 - (3 if not out else 0)
        out += textwrap.wrap(line, room, subsequent_indent=f"{own}    ") or [""]
    return "\n".join(f"    {line}" if line else "" for line in out).lstrip()


if __name__ == "__main__":
    print(write())
    print(tables.write())
    print(*write_table(), sep="\n")
