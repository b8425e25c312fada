"""Lowering of expressions to operations, with functions inlined and types checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.diagnostics import Note, Span
from optdsl.ir.builder import MAX_OPERATIONS, Builder, TooManyOperations
from optdsl.ir.ops import FUNCTIONS, OPERATORS
from optdsl.ir.program import Value
from optdsl.ir.types import BY_NAME, TENSOR, Type, TypeMismatch
from optdsl.lower.scope import BUILTINS, NUMBERS, Scope
from optdsl.syntax import ast

# The values of names; None after a mistake that is already reported.
Environment = Mapping[str, Value | None]


# Limits on the expansion of functions: expressions lowered, and their depth.
MAX_VISITS = 200_000
MAX_DEPTH = 150


@dataclass(frozen=True)
class _Frame:
    """Where an expression stands.

    Attributes:
        names: the values of the names that it may use.
        function: the function whose body it is a part of; None for an equation.
        site: the outermost call of that function, where mistakes are reported.
        expanded: the names of all functions that are being expanded.
    """

    names: Environment
    function: ast.Function | None = None
    site: Span | None = None
    expanded: frozenset[str] = frozenset()


class Lowering:
    """Adds the operations of expressions to a builder."""

    def __init__(self, scope: Scope, builder: Builder) -> None:
        self.builder = builder
        self._scope = scope
        self._report = scope.report
        self._full = False
        self._known: dict[tuple[str | Value | None, ...], Value] = {}
        self._mistaken: set[tuple[Span, tuple[str | Value | None, ...]]] = set()
        self._visits = 0
        self._depth = 0

    def expression(self, node: ast.Expression, environment: Environment) -> Value | None:
        """The value of an expression; None if it, or a value that it uses, has a mistake."""
        return self._expression(node, _Frame(environment))

    def _expression(self, node: ast.Expression, frame: _Frame) -> Value | None:
        self._visits += 1
        if not self._full and (self._visits > MAX_VISITS or self._depth >= MAX_DEPTH):
            self._too_large(frame.site or node.span)
        if self._full:
            return None
        self._depth += 1
        value = self._dispatch(node, frame.site or node.span, frame)
        self._depth -= 1
        return value

    def _too_large(self, span: Span) -> None:
        self._full = True
        self._report.error(
            "too-large",
            f"the rule needs more than {MAX_OPERATIONS:,} operations, or functions nested more "
            f"than {MAX_DEPTH} deep",
            span,
            label="the limit is reached here",
            hint="functions that call functions grow fast; name results in equations",
        )

    def _dispatch(self, node: ast.Expression, span: Span, frame: _Frame) -> Value | None:
        match node:
            case ast.Number():
                return self.builder.constant(node.value)
            case ast.Name() if node.spelled in NUMBERS:
                return self.builder.constant(NUMBERS[node.spelled])
            case ast.Name():
                known = node.spelled in frame.names
                return frame.names[node.spelled] if known else self._leaf(node.spelled, span)
            case ast.Negate():
                # The sign of a literal is a part of it.
                if isinstance(node.operand, ast.Number):
                    return self.builder.constant(-node.operand.value)
                return self._emit("neg", (node.operand,), span, frame)
            case ast.Binary():
                return self._emit(OPERATORS[node.operator], (node.left, node.right), span, frame)
            case ast.Chain():
                return self._chain(node, span, frame)
            case ast.Call():
                return self._call(node, span, frame)

    def _leaf(self, name: str, span: Span) -> Value | None:
        """A hyperparameter, a state before the step or a built-in name; None for other names."""
        scope, emit = self._scope, self.builder.emit
        if name in scope.hypers or name in scope.components:
            hyper = scope.components.get(name, name)
            return emit("hyper", attribute=hyper, hint=hyper, span=span)
        if name in scope.states:
            kind = state_type(scope.states[name])
            return emit("state", attribute=name, type=kind, hint=name, span=span)
        return emit(BUILTINS[name], hint=name, span=span) if name in BUILTINS else None

    def _call(self, node: ast.Call, span: Span, frame: _Frame) -> Value | None:
        name = node.function.text
        function = self._scope.functions.get(name)
        if function is None:
            row = FUNCTIONS.get(name)
            if row is None or len(node.arguments) != row.arity:
                return None
            return self._emit(row.opcode, node.arguments, span, frame)
        if len(node.arguments) != len(function.parameters):
            return None
        if name in frame.expanded:
            self._report.error(
                "recursion",
                f"`{name}` calls itself",
                function.name.span,
                label="functions are expanded where they are used, so none may call itself",
                hint="write the equation out",
            )
            return None
        arguments: dict[str, Value | None] = {}
        for parameter, argument in zip(function.parameters, node.arguments, strict=True):
            value = self._expression(argument, frame)
            if value is not None:
                value = self._demand(value, parameter, function, frame.site or argument.span)
            arguments[parameter.name.text] = value
        # A function sees its arguments only, so equal calls have equal values.
        key = (name, *arguments.values())
        if key in self._known:
            return self._known[key]
        if (span, key) in self._mistaken:
            return None
        body = _Frame(arguments, function, span, frame.expanded | {name})
        found = self._expression(function.body, body)
        if found is not None:
            self._known[key] = found
        else:
            self._mistaken.add((span, key))
        return found

    def _demand(
        self, value: Value, parameter: ast.Parameter, function: ast.Function, span: Span
    ) -> Value | None:
        """The value of an argument; None, and a diagnostic, if its type is not the parameter's."""
        demanded = named_type(parameter.type)
        actual = self.builder[value].type
        if demanded is None or (actual.extent <= demanded.extent and not actual.condition):
            return value
        what = f"`{parameter.name.text}` of `{function.name.text}`"
        self._report.error(
            "type",
            f"{what} must be {demanded.noun}, not {actual.noun}",
            span,
            label=f"{actual.noun}, where {demanded.noun} is needed",
            notes=[Note("declared here", parameter.name.span)],
            hint=_narrower(actual, demanded),
        )
        return None

    def _emit(
        self,
        opcode: str,
        nodes: tuple[ast.Expression, ...],
        span: Span,
        frame: _Frame,
    ) -> Value | None:
        values = [self._expression(n, frame) for n in nodes]
        return self._emitted(opcode, values, nodes, span, frame)

    def _chain(self, node: ast.Chain, span: Span, frame: _Frame) -> Value | None:
        """Whether two comparisons hold: ``where(first, where(second, 1, 0), 0) > 0``."""
        operands = (node.left, node.middle, node.right)
        x = [self._expression(n, frame) for n in operands]
        first = self._emitted(OPERATORS[node.lower], x[:2], operands[:2], span, frame)
        second = self._emitted(OPERATORS[node.upper], x[1:], operands[1:], span, frame)
        one, zero = self.builder.constant(1.0), self.builder.constant(0.0)
        here = (node,) * 3
        inner = self._emitted("where", [second, one, zero], here, span, frame)
        both = self._emitted("where", [first, inner, zero], here, span, frame)
        return self._emitted("gt", [both, zero], here, span, frame)

    def _emitted(
        self,
        opcode: str,
        values: Sequence[Value | None],
        nodes: tuple[ast.Expression, ...],
        span: Span,
        frame: _Frame,
    ) -> Value | None:
        """An operation on the values of some expressions; None if one of them has a mistake."""
        arguments = tuple(v for v in values if v is not None)
        if len(arguments) != len(values):
            return None
        try:
            return self.builder.emit(opcode, *arguments, span=span)
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


def named_type(name: ast.Identifier | None) -> Type | None:
    """The type of a declaration; None if none is declared, or it is unknown."""
    return None if name is None else BY_NAME.get(name.text)


def state_type(state: ast.State) -> Type:
    """The type of a state, tensor where none is declared."""
    return named_type(state.type) or TENSOR


def _narrower(actual: Type, demanded: Type) -> str:
    if actual.condition:
        return "write `where(condition, 1, 0)`"
    if demanded.extent.name == "SCALAR":
        return "reduce it with `sum`, `mean`, `norm`, `rms` or `dot`"
    return "uniform values are numbers, hyperparameters, `t`, and functions of them"
