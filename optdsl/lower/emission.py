"""Operations on values that are lowered already, with diagnostics where types are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optdsl.diagnostics import Note, Span
from optdsl.ir.builder import Builder, TooManyOperations
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Value
from optdsl.ir.sections import STACKED
from optdsl.ir.types import TAPS, TypeMismatch
from optdsl.lower import axes
from optdsl.lower.frame import Frame, report_too_large
from optdsl.lower.scope import Scope
from optdsl.syntax import ast


class Emission:
    """Adds operations to a builder."""

    def __init__(self, scope: Scope, builder: Builder, whole: bool) -> None:
        """See `optdsl.lower.expressions.Lowering`."""
        self._whole = whole
        self.builder = builder
        self._scope = scope
        self._report = scope.report
        self._full = False

    def _too_large(self, span: Span) -> None:
        self._full = True
        report_too_large(span, self._report)

    def _emitted(
        self,
        opcode: str,
        values: Sequence[Value | None],
        nodes: tuple[ast.Expression, ...],
        span: Span,
        frame: Frame,
    ) -> Value | None:
        """An operation on the values of some expressions; None if one of them has a mistake."""
        arguments = tuple(v for v in values if v is not None)
        if len(arguments) != len(values):
            return None
        return self._made(
            lambda: self.builder.emit(opcode, *arguments, span=span), nodes, arguments, span, frame
        )

    def _made(
        self,
        make: Callable[[], Value],
        nodes: tuple[ast.Expression, ...],
        arguments: tuple[Value, ...],
        span: Span,
        frame: Frame,
    ) -> Value | None:
        """The value of an operation; None, and a diagnostic, if a type is wrong."""
        try:
            return self._checked(make(), span)
        except TypeMismatch as error:
            place, inside = nodes[error.position].span, frame.function
            notes = [Note(f"in `{inside.name.text}`", place)] if inside else []
            self._report.error(
                "type",
                error.message,
                frame.site or place,
                label=self.builder[arguments[error.position]].type.noun,
                notes=notes,
                hint=error.hint,
            )
        except TooManyOperations:
            self._too_large(span)
        return None

    def _checked(self, value: Value | None, span: Span) -> Value | None:
        """The value; None, and a diagnostic, if it needs a matrix where there is none."""
        if value is None:
            return None
        opcode = self.builder[value].opcode
        if self._scope.kind.endswith(STACKED) and self.builder[value].attribute == TAPS:
            self._report.error(
                "type",
                "a stack of matrices has no kernel",
                span,
                label="`taps` is the number of positions of a kernel",
                hint="write this after `for stacked convolutions`, or after `for flattened "
                "matrices`, of which a convolution's weight is one",
            )
            return None
        inside = self._scope.matrices or (self._whole and opcode in axes.OF_STACKS)
        if inside or not TABLE[opcode].stage.of_matrices:
            return value
        self._report.error(
            "type",
            "a tensor need not be a matrix here",
            span,
            label="only matrices have rows and columns",
            hint="write this in a section, after `for matrices`",
        )
        return None
