"""Types as declarations name them."""

from __future__ import annotations

from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.types import AXES, BY_NAME, TENSOR, Extent, Type
from optdsl.syntax import ast

# The types of the language by their names; a matrix of rows and columns is the tensor itself.
TYPES = {**BY_NAME, " * ".join(AXES): TENSOR}


def named_type(name: ast.Identifier | None) -> Type | None:
    """The type of a declaration; None if none is declared, or it is unknown."""
    return None if name is None else TYPES.get(name.text)


def state_type(state: ast.State) -> Type:
    """The type of a state, tensor where none is declared."""
    return named_type(state.type) or TENSOR


def accepted(
    actual: Type, parameter: ast.Parameter, function: ast.Function, span: Span, report: Report
) -> bool:
    """Whether a parameter takes an argument of a type; it is reported if not."""
    demanded = named_type(parameter.type)
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
