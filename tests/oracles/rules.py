"""The rules of the library, by what their tensors are to them."""

from __future__ import annotations

import optdsl
from optdsl.specifications import library


def _has_sections(name: str) -> bool:
    return bool(library.read(library.open_source(name), verify=False).sections)


# Rules with sections read tensors as matrices; `tests/matrices` is about them.
SECTIONED = tuple(name for name in optdsl.list_specs() if _has_sections(name))
ELEMENTWISE = tuple(name for name in optdsl.list_specs() if name not in SECTIONED)
