"""optdsl: optimizers written once, as equations, and compiled to PyTorch.

>>> import optdsl
>>> Adam = optdsl.load("adam")
>>> optimizer = Adam(model.parameters(), lr=3e-4)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optdsl.api import blend, compile, load
    from optdsl.diagnostics import SpecError, SpecWarning
    from optdsl.ejection import eject
    from optdsl.learn_option import Learn
    from optdsl.options import OptionError
    from optdsl.resources import UnknownSpecError
    from optdsl.runtime.torch_api.rank_consistency import check_ranks
    from optdsl.specifications.search import SpecClashError
    from optdsl.specifications.sources import list_specs
    from optdsl.torch_states import from_torch, to_torch

__version__ = "0.1.0"
__all__ = [
    "Learn",
    "OptionError",
    "SpecClashError",
    "SpecError",
    "SpecWarning",
    "UnknownSpecError",
    "blend",
    "check_ranks",
    "compile",
    "eject",
    "from_torch",
    "list_specs",
    "load",
    "to_torch",
]

# Imported on first use: `optdsl check` must start without pydantic and torch.
_HOMES = {
    "Learn": "optdsl.learn_option",
    "OptionError": "optdsl.options",
    "SpecClashError": "optdsl.specifications.search",
    "SpecError": "optdsl.diagnostics",
    "SpecWarning": "optdsl.diagnostics",
    "UnknownSpecError": "optdsl.resources",
    "blend": "optdsl.api",
    "check_ranks": "optdsl.runtime.torch_api.rank_consistency",
    "compile": "optdsl.api",
    "eject": "optdsl.ejection",
    "from_torch": "optdsl.torch_states",
    "list_specs": "optdsl.specifications.sources",
    "load": "optdsl.api",
    "to_torch": "optdsl.torch_states",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'optdsl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    # What this file imports, and modules that somebody has imported, are not listed.
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
