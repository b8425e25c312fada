"""Lowering of expressions to operations, with functions inlined and types checked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from optdsl.diagnostics import Span
from optdsl.ir.builder import Builder
from optdsl.ir.ops import COMPARE, FUNCTIONS, OPERATORS
from optdsl.ir.program import Value
from optdsl.ir.types import AXES, LENGTHS, TENSOR
from optdsl.lower import axes
from optdsl.lower.deciding import checked_length, decided
from optdsl.lower.emission import Emission
from optdsl.lower.frame import (
    MAX_CALLS,
    MAX_DEPTH,
    MAX_VISITS,
    Environment,
    Frame,
    calls_itself,
    recursive,
    report_endless,
    uses,
)
from optdsl.lower.numbers import compared_label
from optdsl.lower.randoms import draw
from optdsl.lower.scope import BUILTINS, GIVEN, NUMBERS, Scope
from optdsl.lower.types import accepted, named_type, state_type
from optdsl.syntax import ast


class Lowering(Emission):
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
        super().__init__(scope, builder, whole)
        # The choices that decided what the operations are.
        self.structure: dict[str, float] = {}
        self._choices = choices
        # The equation that is lowered, and how many totals each one has.
        self._owner, self._totals = "", dict[str, int]()
        self._lengths: dict[str, Value | None] = {}
        self._known: dict[tuple[str | Value | None, ...], Value] = {}
        self._mistaken: set[tuple[Span, tuple[str | Value | None, ...]]] = set()
        self._visits = self._depth = 0

    def expression(
        self, node: ast.Expression, environment: Environment, owner: str = ""
    ) -> Value | None:
        """The value, or None after a mistake; `owner` names the equation, for sums over all."""
        self._owner = owner
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

    def _endless(self, span: Span, function: ast.Function) -> None:
        self._full = True
        report_endless(span, function, self._report)

    def _dispatch(self, node: ast.Expression, span: Span, frame: Frame) -> Value | None:
        match node:
            case ast.Number():
                return self.builder.constant(node.value)
            case ast.Name() if node.spelled in NUMBERS:
                return self.builder.constant(NUMBERS[node.spelled])
            case ast.Name():
                if node.spelled in frame.names:
                    return frame.names[node.spelled]
                if node.spelled in {*LENGTHS, *self._scope.axes}:
                    return self._checked(self.length(node.spelled), span)
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
            kind = named_type(scope.inputs[name].type) or TENSOR
            return emit("state", attribute=name, type=kind, hint=name, span=span)
        if name in scope.randoms:
            return draw(scope.randoms[name], lambda x: self.expression(x, {}), scope, self.builder)
        if name in scope.states:
            kind = state_type(scope.states[name], scope.axes)
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
        extremum = name in axes.EXTREMA and len(arguments) == 1
        if row is None or (len(arguments) != row.arity and not extremum):
            return None
        if row.opcode == "where" and frame.function is not None and recursive(frame.function):
            branch = self._branch(node, frame)
            if branch is not None:
                return self._expression(branch, replace(frame, decided=True))
        if name == axes.VECTORS:
            return self._vectors(arguments, span, frame)
        axis = self._axis(node, frame)
        reduces = extremum or name in axes.REDUCTIONS
        if self._whole and reduces and axis in {None, "tensor"}:
            return self._emit(f"{name}_tensor", arguments, span, frame)
        if extremum:
            axis = axis or "matrix"
        elif axis is None:
            return self._emit(row.opcode, arguments, span, frame)
        if not reduces or axis not in {*axes.OVER, *self._scope.axes, "matrix"}:
            return None
        x = self._expression(arguments[0], frame)
        if x is None:
            return None
        if axis == axes.ALL:
            make = functools.partial(axes.over_all, name, x, self.builder, self._total, span)
            return self._made(make, arguments, (x,), span, frame)
        make = functools.partial(axes.reduced, name, axis, x, self.builder, self._scope.matrices)
        return self._made(make, arguments, (x,), span, frame)

    def _total(self) -> str:
        """The name of the next sum over all tensors, by its place in the equation.

        An equation that several sections have in common is lowered for each of them, and what is
        summed up in all of these is one total.
        """
        count = self._totals.setdefault(self._owner, 0)
        self._totals[self._owner] += 1
        return f"{self._owner}/{count}"

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
            axis = self._named_axis(argument, (*AXES, *self._scope.axes), name, frame)
            if axis is None:
                return None
            return self._checked(axes.identity(axis, self.builder), span)
        x = self._expression(argument, frame)
        if x is None:
            return None
        own = {axis: found for axis in self._scope.axes if (found := self.length(axis)) is not None}
        make = functools.partial(axes.of_matrix, name, x, self.builder, own)
        return self._made(make, (argument,), (x,), span, frame)

    def _vectors(
        self, arguments: tuple[ast.Expression, ...], span: Span, frame: Frame
    ) -> Value | None:
        """The singular vectors of a matrix, as many as an axis is long."""
        x = self._expression(arguments[0], frame)
        axis = self._named_axis(arguments[1], tuple(self._scope.axes), axes.VECTORS, frame)
        if axis is None:
            return None
        values = (x, self._checked(axes.indices(axis, self.builder), span))
        return self._emitted(axes.VECTORS, values, arguments, span, frame)

    def _named_axis(
        self, node: ast.Expression, known: tuple[str, ...], function: str, frame: Frame
    ) -> str | None:
        """The axis that an argument names; None, and a diagnostic, for another expression."""
        if isinstance(node, ast.Name) and node.spelled in known:
            return node.spelled
        listed = " or ".join(f"`{name}`" for name in known) or "an axis that the file declares"
        self._report.error(
            "type",
            f"`{function}` takes {listed}",
            frame.site or node.span,
            label="the name of an axis is wanted here",
            hint="" if known else "declare its length, as in `axis k = min(rank, rows)`",
        )
        return None

    def length(self, axis: str) -> Value | None:
        """The number of indices of an axis, or of positions of a kernel; None after a mistake."""
        if axis in LENGTHS:
            return axes.length(axis, self.builder)
        if axis not in self._lengths:
            node = self._scope.axes[axis]
            self._lengths[axis] = None
            found = self.expression(node.length, {})
            self._lengths[axis] = checked_length(found, node, self.builder, self._scope)
        return self._lengths[axis]

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
        before = sum(self._totals.values())
        found = self._body(function, replace(bound, site=span))
        if found is not None:
            # A total belongs to one place.
            if sum(self._totals.values()) == before:
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
        numbers = [
            None if x is None else decided(self.builder, x, self._choices, self.structure)
            for x in sides
        ]
        if compare is None or any(n is None for n in numbers):
            return None
        return node.arguments[1 if compare(*numbers) else 2]

    def _demand(
        self, value: Value, parameter: ast.Parameter, function: ast.Function, span: Span
    ) -> Value | None:
        """The value of an argument; None, and a diagnostic, if its type is not the parameter's."""
        kind = self.builder[value].type
        own = self._scope.axes
        return value if accepted(kind, parameter, function, span, self._report, own) else None

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
