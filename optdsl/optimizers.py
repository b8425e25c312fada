"""The library's optimizers as classes: ``from optdsl.optimizers import MADA, Adam``.

Each is the result of `optdsl.load` with the default options, made when it is first looked up.
`optimizers.pyi` lists them for editors and type checkers; ``make stubs`` writes it.
"""

from __future__ import annotations

from typing import Any

from optdsl.diagnostics import Report, nearest
from optdsl.specifications import sources
from optdsl.specifications.sources import folded
from optdsl.syntax.parse import parse_partial


def names() -> dict[str, str]:
    """The specifications of the library by the names of their classes, sorted."""
    found = {}
    for spec in sources.list_specs():
        declaration = parse_partial(sources.open_source(spec), Report()).declaration
        if declaration is not None:
            found[declaration.name.text] = spec
    return dict(sorted(found.items()))


def __getattr__(name: str) -> Any:
    # No specification is read to refuse a name that the library does not have.
    specs = {folded(spec) for spec in sources.list_specs()}
    if not name.startswith("_") and folded(name) in specs:
        known = names()
        if name in known:
            from optdsl.api import load

            return load(known[name])
    message = f"module {__name__!r} has no attribute {name!r}"
    hint = "" if name.startswith("_") else nearest(name, names())
    raise AttributeError(f"{message}: {hint}" if hint else message)


def __dir__() -> list[str]:
    own = {name for name in globals() if name.startswith("__")}
    return sorted({*own, *names(), "names"})
