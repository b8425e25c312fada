"""Types as declarations name them."""

from __future__ import annotations

from collections.abc import Container

from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.types import AXES, BY_NAME, TENSOR, Extent, Type, read_type
from optdsl.syntax import ast

# The types of the language by their names; a matrix of rows and columns is the tensor itself.
TYPES = {**BY_NAME, " * ".join(AXES): TENSOR}


def named_type(name: ast.Identifier | None, own: Container[str] = ()) -> Type | None:
    """The type of a declaration; None if none is declared, or it is unknown.

    Args:
        name: what is written.
        own: the axes that the file declares.
    """
    return None if name is None else read_type(name.text, own)


def state_type(state: ast.State, own: Container[str] = ()) -> Type:
    """The type of a state, tensor where none is declared; `own` are the file's axes."""
    return named_type(state.type, own) or TENSOR


def accepted(
    actual: Type,
    parameter: ast.Parameter,
    function: ast.Function,
    span: Span,
    report: Report,
    own: Container[str] = (),
) -> bool:
    """Whether a parameter takes an argument of a type; it is reported if not."""
    demanded = named_type(parameter.type, own)
    if demanded is None or (actual.fits(demanded) and not actual.condition):
        return True
    what = f"`{parameter.name.text}` of `{function.name.text}`"
    report.error(
        "type",
        f"{what} must be {demanded.noun}, not {actual.noun}",
        span,
        label=f"{actual.noun}, where {demanded.noun} is needed",
        notes=[Note("declared here", parameter.name.span)],
        hint=narrower(actual, demanded),
    )
    return False


def narrower(actual: Type, demanded: Type) -> str:
    """What to write instead of a value of a type that is larger than the demanded one."""
    if actual.condition:
        return "write `where(condition, 1, 0)`"
    if demanded.extent is Extent.SHARED:
        return "what differs between tensors is summed over all of them: `sum(x over all)`"
    if demanded.extent.name == "SCALAR":
        return "reduce it with `sum`, `mean`, `norm`, `rms` or `dot`"
    return "uniform values are numbers, hyperparameters, `t`, and functions of them"
