"""Functions of the prelude in the equations of a program, which has them written out."""

from __future__ import annotations

from dataclasses import replace

from optdsl.diagnostics import Source, Span
from optdsl.syntax import ast

_NOWHERE = Span(Source("", ""), 0, 0)


def named(node: ast.Expression) -> ast.Expression:
    """An expression with calls of ``ema``, ``debias`` and ``finite`` for what these stand for."""
    match node:
        case ast.Binary():
            node = replace(node, left=named(node.left), right=named(node.right))
        case ast.Negate():
            node = replace(node, operand=named(node.operand))
        case ast.Call():
            node = replace(node, arguments=tuple(map(named, node.arguments)))
    match node:
        # b * x + (1 - b) * y
        case ast.Binary(
            operator="+",
            left=ast.Binary(operator="*", left=b, right=x),
            right=ast.Binary(
                operator="*",
                left=ast.Binary(operator="-", left=ast.Number(value=1), right=rest),
                right=y,
            ),
        ) if b == rest:
            return _call("ema", x, y, b)
        # x / (1 - b^t)
        case ast.Binary(
            operator="/",
            left=x,
            right=ast.Binary(
                operator="-",
                left=ast.Number(value=1),
                right=ast.Binary(
                    operator="^",
                    left=ast.Name() as b,
                    right=ast.Name(name="t", primed=False, owner=""),
                ),
            ),
        ):
            return _call("debias", x, b)
        # where(x - x == 0, x, 0)
        case ast.Call(
            function=ast.Identifier(text="where"),
            arguments=(
                ast.Binary(
                    operator="==",
                    left=ast.Binary(operator="-", left=x, right=same),
                    right=ast.Number(value=0),
                ),
                y,
                ast.Number(value=0),
            ),
        ) if x == same == y:
            return _call("finite", x)
    return node


def _call(function: str, *arguments: ast.Expression) -> ast.Call:
    return ast.Call(ast.Identifier(function, _NOWHERE), arguments, _NOWHERE)
