"""Lowering of expressions to operations, with functions inlined and types checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from optdsl.diagnostics import Note, Span
from optdsl.ir.builder import MAX_OPERATIONS, Builder, TooManyOperations
from optdsl.ir.ops import APPLY, COMPARE, FUNCTIONS, OPERATORS, TABLE
from optdsl.ir.program import Value
from optdsl.ir.types import AXES, TENSOR, TypeMismatch
from optdsl.lower import axes
from optdsl.lower.frame import (
    MAX_CALLS,
    MAX_DEPTH,
    MAX_VISITS,
    Environment,
    Frame,
    calls_itself,
    recursive,
    uses,
)
from optdsl.lower.numbers import compared_label
from optdsl.lower.randoms import draw
from optdsl.lower.scope import BUILTINS, GIVEN, NUMBERS, Scope
from optdsl.lower.types import accepted, state_type
from optdsl.syntax import ast


class Lowering:
    """Adds the operations of expressions to a builder."""

    def __init__(
        self,
        scope: Scope,
        builder: Builder,
        choices: Mapping[str, float] = MappingProxyType({}),
        whole: bool = False,
    ) -> None:
        """Make a lowering.

        Args:
            scope: the file, or a section of it.
            builder: receives the operations.
            choices: the values of hyperparameters at which recursion may be decided.
            whole: whether reductions without `over` are over all matrices of a stack.
        """
        self._whole = whole
        self.builder = builder
        # The choices that decided what the operations are.
        self.structure: dict[str, float] = {}
        self._choices = choices
        self._scope, self._report = scope, scope.report
        self._full = False
        self._known: dict[tuple[str | Value | None, ...], Value] = {}
        self._mistaken: set[tuple[Span, tuple[str | Value | None, ...]]] = set()
        self._visits = self._depth = 0

    def expression(self, node: ast.Expression, environment: Environment) -> Value | None:
        """The value of an expression; None if it, or a value that it uses, has a mistake."""
        return self._expression(node, Frame(environment))

    def _expression(self, node: ast.Expression, frame: Frame) -> Value | None:
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

    def _endless(self, span: Span, function: ast.Function) -> None:
        self._full = True
        self._report.error(
            "recursion",
            f"`{function.name.text}` calls itself more than {MAX_CALLS} times",
            span,
            label="the limit is reached here",
            notes=[Note("declared here", function.name.span)],
            hint="check that the condition of its `where` changes at some call",
        )

    def _dispatch(self, node: ast.Expression, span: Span, frame: Frame) -> Value | None:
        match node:
            case ast.Number():
                return self.builder.constant(node.value)
            case ast.Name() if node.spelled in NUMBERS:
                return self.builder.constant(NUMBERS[node.spelled])
            case ast.Name():
                if node.spelled in frame.names:
                    return frame.names[node.spelled]
                if node.spelled in AXES:
                    return self._checked(axes.length(node.spelled, self.builder), span)
                return self._leaf(node.spelled, span)
            case ast.Negate():
                # The sign of a literal is a part of it.
                if isinstance(node.operand, ast.Number):
                    return self.builder.constant(-node.operand.value)
                return self._emit("neg", (node.operand,), span, frame)
            case ast.Binary() if (chosen := compared_label(node, self._scope)) is not None:
                return self._labelled(node, *chosen, span, frame)
            case ast.Binary():
                return self._emit(OPERATORS[node.operator], (node.left, node.right), span, frame)
            case ast.Chain():
                return self._chain(node, span, frame)
            case ast.Call() if node.function.text in self._scope.functions:
                return self._expanded(node, span, frame)
            case ast.Call():
                return self._call(node, span, frame)

    def _labelled(
        self, node: ast.Binary, hyper: ast.Name, number: float, span: Span, frame: Frame
    ) -> Value | None:
        value = self._expression(hyper, frame)
        if value is None:
            return None
        opcode = OPERATORS[node.operator]
        return self.builder.emit(opcode, value, self.builder.constant(number), span=span)

    def _leaf(self, name: str, span: Span) -> Value | None:
        """A hyperparameter, a state before the step or a built-in name; None for other names."""
        scope, emit = self._scope, self.builder.emit
        if name in scope.hypers or name in scope.components:
            hyper = scope.components.get(name, name)
            return emit("hyper", attribute=hyper, hint=hyper, span=span)
        if name in scope.inputs:
            return emit("state", attribute=name, type=TENSOR, hint=name, span=span)
        if name in scope.randoms:
            return draw(scope.randoms[name], lambda x: self.expression(x, {}), scope, self.builder)
        if name in scope.states:
            kind = state_type(scope.states[name])
            return emit("state", attribute=name, type=kind, hint=name, span=span)
        return emit(BUILTINS[name], hint=name, span=span) if name in BUILTINS else None

    def _call(self, node: ast.Call, span: Span, frame: Frame) -> Value | None:
        """A call of a built-in function."""
        name, arguments = node.function.text, node.arguments
        if name == GIVEN:
            return self._given(arguments)
        if name in axes.FUNCTIONS and len(arguments) == 1:
            return self._of_axes(name, arguments[0], span, frame)
        row = FUNCTIONS.get(name)
        if row is None or len(arguments) != row.arity:
            return None
        if row.opcode == "where" and frame.function is not None and recursive(frame.function):
            branch = self._branch(node, frame)
            if branch is not None:
                return self._expression(branch, replace(frame, decided=True))
        axis = self._axis(node, frame)
        if self._whole and name in axes.REDUCTIONS and axis in {None, "tensor"}:
            return self._emit(f"{name}_tensor", arguments, span, frame)
        if axis is None:
            return self._emit(row.opcode, arguments, span, frame)
        if name not in axes.REDUCTIONS or axis not in axes.OVER:
            return None
        if axis == axes.ALL and name != "sum":
            self._report.error(
                "over",
                f"`{name}` is not taken over all tensors",
                frame.site or span,
                label="only sums are",
                hint="divide a sum over all tensors by the sum of what counts, `sum(... over all)`",
            )
            return None
        opcode = axes.reduction(name, axis, self._scope.matrices)
        return self._emit(opcode, arguments, span, frame)

    def _given(self, arguments: tuple[ast.Expression, ...]) -> Value | None:
        """Whether an input is given to the step."""
        (asked,) = arguments if len(arguments) == 1 else (None,)
        if not isinstance(asked, ast.Name) or asked.spelled not in self._scope.inputs:
            return None
        number = self.builder.emit("given", attribute=asked.spelled, hint=f"{asked.spelled}_given")
        return self.builder.emit("gt", number, self.builder.constant(0.0))

    def _axis(self, node: ast.Call, frame: Frame) -> str | None:
        """What stands after `over`, as the outermost call has it."""
        if node.over is None:
            return None
        own = frame.function.over if frame.function is not None else None
        return frame.axis if own is not None and own.text == node.over.text else node.over.text

    def _of_axes(
        self, name: str, argument: ast.Expression, span: Span, frame: Frame
    ) -> Value | None:
        """A function of a matrix whose operation depends on its axes, or of an axis."""
        if name == axes.IDENTITY:
            if isinstance(argument, ast.Name) and argument.spelled in AXES:
                return self._checked(axes.identity(argument.spelled, self.builder), span)
            self._report.error(
                "type", "`identity` takes `rows` or `cols`", frame.site or argument.span
            )
            return None
        x = self._expression(argument, frame)
        if x is None:
            return None
        make = functools.partial(axes.of_matrix, name, x, self.builder)
        return self._made(make, (argument,), (x,), span, frame)

    def _expanded(self, node: ast.Call, span: Span, frame: Frame) -> Value | None:
        """A call of a function that is written in the language.

        A call of the function itself in the place of its result is a loop here, so that it may be
        as deep as `MAX_CALLS`.
        """
        name = node.function.text
        function = self._scope.functions[name]
        if len(node.arguments) != len(function.parameters):
            return None
        if name in frame.expanded and not frame.decided:
            self._report.error(
                "recursion",
                f"`{name}` calls itself",
                function.name.span,
                label="functions are expanded where they are used, so this has no end",
                hint="a function may call itself in a branch of a `where` whose condition is made "
                "of literals and choices, such as `where(n > 0, f(x, n - 1), x)`",
            )
            return None
        bound = self._bound(node, function, frame)
        # A function sees its arguments only, so equal calls have equal values.
        key = (name, bound.axis, *bound.names.values())
        if key in self._known:
            return self._known[key]
        if (span, key) in self._mistaken:
            return None
        body = replace(bound, site=span)
        found = self._body(function, body)
        if found is not None:
            self._known[key] = found
        else:
            self._mistaken.add((span, key))
        return found

    def _bound(self, node: ast.Call, function: ast.Function, frame: Frame) -> Frame:
        """The frame of the body of a function, for a call."""
        arguments: dict[str, Value | None] = {}
        for parameter, argument in zip(function.parameters, node.arguments, strict=True):
            value = self._expression(argument, frame)
            if value is not None:
                self._call_by(value, parameter, function)
                value = self._demand(value, parameter, function, frame.site or argument.span)
            arguments[parameter.name.text] = value
        expanded = frame.expanded | {function.name.text}
        return Frame(arguments, function, frame.site, expanded, self._axis(node, frame))

    def _call_by(self, value: Value, parameter: ast.Parameter, function: ast.Function) -> None:
        """Name a matrix for readers, as a function does that uses it more than once."""
        name = parameter.name.text
        if len(self.builder[value].type.spans) == 2 and self._scope.matrices:
            self.builder.suggest(value, name if uses(function, name) > 1 else None)

    def _body(self, function: ast.Function, frame: Frame) -> Value | None:
        node, calls = function.body, 0
        while recursive(function):
            if isinstance(node, ast.Call) and node.function.text == "where":
                branch = self._branch(node, frame)
                if branch is None:
                    break
                node, frame = branch, replace(frame, decided=True)
            elif isinstance(node, ast.Call) and calls_itself(node, function) and frame.decided:
                if calls >= MAX_CALLS:
                    self._endless(frame.site or function.name.span, function)
                    return None
                frame = replace(self._bound(node, function, frame), site=frame.site)
                node, calls = function.body, calls + 1
                if None in frame.names.values():
                    return None
            else:
                break
        return self._expression(node, frame)

    def _branch(self, node: ast.Call, frame: Frame) -> ast.Expression | None:
        """The branch of a `where` whose condition is known here; None for another condition."""
        condition = node.arguments[0]
        if len(node.arguments) != 3 or not isinstance(condition, ast.Binary):
            return None
        compare = COMPARE.get(OPERATORS[condition.operator])
        sides = [self._expression(x, frame) for x in (condition.left, condition.right)]
        numbers = [None if x is None else self._decided(x) for x in sides]
        if compare is None or any(n is None for n in numbers):
            return None
        return node.arguments[1 if compare(*numbers) else 2]

    def _decided(self, value: Value) -> float | None:
        """A value that is made of literals and choices, at which the program is made."""
        operation = self.builder[value]
        if isinstance(operation.attribute, float):
            return operation.attribute
        if operation.opcode == "hyper" and str(operation.attribute) in self._choices:
            name = str(operation.attribute)
            self.structure[name] = self._choices[name]
            return self._choices[name]
        apply = APPLY.get(operation.opcode)
        numbers = [self._decided(a) for a in operation.arguments]
        if apply is None or not numbers or any(n is None for n in numbers):
            return None
        return apply(*numbers)

    def _demand(
        self, value: Value, parameter: ast.Parameter, function: ast.Function, span: Span
    ) -> Value | None:
        """The value of an argument; None, and a diagnostic, if its type is not the parameter's."""
        kind = self.builder[value].type
        return value if accepted(kind, parameter, function, span, self._report) else None

    def _emit(
        self,
        opcode: str,
        nodes: tuple[ast.Expression, ...],
        span: Span,
        frame: Frame,
    ) -> Value | None:
        values = [self._expression(n, frame) for n in nodes]
        return self._emitted(opcode, values, nodes, span, frame)

    def _chain(self, node: ast.Chain, span: Span, frame: Frame) -> Value | None:
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

    def _checked(self, value: Value, span: Span) -> Value | None:
        """The value; None, and a diagnostic, if it needs a matrix where there is none."""
        opcode = self.builder[value].opcode
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
