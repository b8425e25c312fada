"""The standalone target: a rule as one Python file that needs nothing but PyTorch.

The file has the functions that the eager backend emits, and an optimizer class that calls them: it
groups parameters, checks hyperparameters, keeps states and saves them as the optimizers of this
package do. The file belongs to its user, who may change it, so that it is written to be read.
"""

from __future__ import annotations

import textwrap

from optdsl.backends.eager import emit_function, helpers_of
from optdsl.backends.emitted import EmittedFunction
from optdsl.backends.standalone import learning, storage, texts
from optdsl.backends.standalone.checks import checks, default
from optdsl.backends.standalone.dispatch import dispatch, gathering, giving, sharing
from optdsl.backends.standalone.grouped import CALLED
from optdsl.backends.standalone.lines import broken
from optdsl.backends.standalone.optimizer import optimizer
from optdsl.backends.standalone.parts import functions_of
from optdsl.backends.standalone.rule import Rule

__all__ = ["Rule", "emit"]

_WIDTH = 96


def emit(rule: Rule) -> str:
    """The text of a standalone file.

    Args:
        rule: the rule, with its kernels for each kind of tensor.
    """
    emitted: list[EmittedFunction] = []
    bodies: list[str] = []
    for part in rule.parts:
        found, driving = functions_of(rule, part)
        emitted += found
        bodies += [*(f.text for f in found), *driving]
    for kernel in rule.shared_kernels:
        emitted.append(emit_function(kernel, numbers=True))
        bodies.append(emitted[-1].text)
    moving = learning.moves(rule)
    emitted += moving
    bodies += [f.text for f in moving]
    helpers = list(helpers_of(emitted, CALLED).values())
    bodies += [
        *sharing(rule, [f.entry for f in emitted]),
        *dispatch(rule),
        *gathering(rule),
        *giving(rule),
        *learning.functions(rule, [f.entry for f in moving]),
    ]
    texts_of_file = [*checks(rule), *storage.functions(rule), *helpers, *bodies, optimizer(rule)]
    body = "\n\n\n".join(text.strip("\n") for text in texts_of_file)
    if rule.draws:
        body = body.replace("hypers: dict[str, float]", "hypers: dict[str, Any]")
    if " own(" in body:
        body = body.replace(f"{texts.PRECISE}\n", f"{texts.PRECISE}\n\n\n{texts.OWN}\n", 1)
    return f"{_header(rule)}\n\n{_imports(body)}\n\n{broken(body, _WIDTH)}\n"


def _header(rule: Rule) -> str:
    """The comment with the origin and the license, and the documentation of the module."""
    program = rule.program
    origin = f"Ejected from the specification `{rule.origin}` by optdsl {rule.version}."
    comment = [*textwrap.wrap(origin, _WIDTH), *texts.LICENSE.splitlines()]
    lines = [f"{program.name}, a PyTorch optimizer in one file.", ""]
    for line in program.documentation:
        lines += textwrap.wrap(line, _WIDTH, break_on_hyphens=False)
    for name, value in program.structure:
        shown = default(program.hyper(name).domain, value)
        note = (
            f"{name} is {shown} in this file, since it decides which operations there are; eject "
            f"the rule with another value for that, as in `muon(ns_steps = 3)`."
        )
        lines += ["", *textwrap.wrap(note, _WIDTH)]
    documentation = "\n".join(lines).rstrip().replace("\\", "\\\\").replace('"""', "'''")
    return "\n".join([*(f"# {line}".rstrip() for line in comment), "", f'"""{documentation}\n"""'])


def _imports(body: str) -> str:
    library = [f"import {name}" for name in ("contextlib", "hashlib", "math") if f"{name}." in body]
    from_abc = "Callable, Iterator" if "Iterator[" in body else "Callable"
    library += [f"from collections.abc import {from_abc}", "from typing import Any"]
    return "\n".join([*library, "", "import torch", "from torch import Tensor"])
