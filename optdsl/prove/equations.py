"""Writes the equations in which two programs differ, in the language."""

from __future__ import annotations

import functools
from collections.abc import Callable

from optdsl.algebra.normal_form import MAX_WORK, TooMuchWork
from optdsl.diagnostics import Source, Span
from optdsl.ir.ops import OPERATORS, TABLE
from optdsl.ir.program import Program, Value
from optdsl.prove.axes import aligned
from optdsl.prove.equality import Matching
from optdsl.syntax import ast
from optdsl.syntax.format import expression

# An equation with more operations is not shown.
MAX_SHOWN = 80
_NOWHERE = Span(Source("", ""), 0, 0)
_SYMBOLS = {opcode: symbol for symbol, opcode in OPERATORS.items()}
_WORDS = {"step": "t", "gradient": "g", "parameter": "theta", "size": "size"}


def differences(left: Program, right: Program, work: int = MAX_WORK) -> tuple[list[str], list[str]]:
    """The equations of each program to which none of the other is equal, and those of theta'.

    Both lists are empty for programs that are too large to be compared with that much work.
    """
    right = aligned(left, right, work) or right
    defined = [p.equations for p in (left, right)]
    try:
        matching = Matching(left, right, work)
        forms = [
            dict(zip(d.values(), matching.forms(side, d.values()), strict=True))
            for side, d in enumerate(defined)
        ]
    except TooMuchWork:
        return [], []
    found: tuple[list[str], list[str]] = ([], [])
    for side, program in enumerate((left, right)):
        spelled = sizes(program)
        known = {forms[1 - side][v] for v in defined[1 - side].values()}
        for value in defined[side].values():
            if forms[side][value] not in known or value == program.parameter:
                found[side].append(equation(program, value, spelled))
    return found


def sizes(program: Program) -> list[int]:
    """How many operations the expression of each value has, up to `MAX_SHOWN + 1`."""
    found: list[int] = []
    for operation in program.operations:
        inside = operation.opcode != "define"
        parts = sum(found[a] for a in operation.arguments) if inside else 0
        found.append(min(1 + parts, MAX_SHOWN + 1))
    return found


def equation(
    program: Program,
    definition: Value,
    spelled: list[int],
    rewritten: Callable[[ast.Expression], ast.Expression] = lambda node: node,
) -> str:
    """The equation of a `define`, with the names of other equations that it uses.

    `spelled` has the `sizes` of the program; an equation of more than `MAX_SHOWN` is left out.
    `rewritten` gives the expression its final form.
    """
    named = program.operations[definition]
    (inner,) = named.arguments
    if spelled[inner] > MAX_SHOWN:
        return f"{named.attribute} = (an equation of more than {MAX_SHOWN} operations)"
    return f"{named.attribute} = {expression(rewritten(_node(program, inner)))}"


def spelled_value(program: Program, value: Value) -> str:
    """A value as an expression of the language, however long it is."""
    return expression(_node(program, value))


def _node(program: Program, value: Value) -> ast.Expression:
    operation = program.operations[value]
    arguments = operation.arguments
    match operation.opcode:
        case "define" | "hyper" | "state":
            return _name(str(operation.attribute))
        case opcode if opcode in _WORDS:
            return _name(_WORDS[opcode])
        case "constant":
            assert isinstance(operation.attribute, float)
            text = f"{abs(operation.attribute):.15g}"
            literal = ast.Number(abs(operation.attribute), text, _NOWHERE)
            return ast.Negate(literal, _NOWHERE) if operation.attribute < 0 else literal
        case "mix":
            parts = [_node(program, a) for a in arguments]
            products = map(_binary("*"), parts[0::2], parts[1::2])
            return functools.reduce(_binary("+"), products)
        case "neg":
            return ast.Negate(_node(program, arguments[0]), _NOWHERE)
        case opcode if opcode in _SYMBOLS:
            return _binary(_SYMBOLS[opcode])(*(_node(program, a) for a in arguments))
        case "length":
            return _name(str(operation.attribute))
        case "identity":
            return _call("identity", (_name(operation.type.axes[0]),))
        case "indices":
            return _name(operation.type.axes[0])
        case opcode:
            x = tuple(_node(program, a) for a in arguments)
            function, _, axis = opcode.partition("_")
            if axis in {"first", "last"}:
                return _call(function, x, program.type(arguments[0]).spans[-(axis == "last")])
            if axis in {"own", "matrix"}:
                return _call(function, x)
            if axis in {"rows", "cols", "tensor"}:
                return _call(function, x, "" if function == "diagonal" else axis)
            return _call(TABLE[opcode].function or opcode, x)


def _call(function: str, x: tuple[ast.Expression, ...], over: str = "") -> ast.Call:
    axis = ast.Identifier(over, _NOWHERE) if over else None
    return ast.Call(ast.Identifier(function, _NOWHERE), x, _NOWHERE, axis)


def _binary(symbol: str) -> Callable[[ast.Expression, ast.Expression], ast.Expression]:
    return lambda left, right: ast.Binary(symbol, left, right, _NOWHERE)


def _name(spelled: str) -> ast.Name:
    owner, _, name = spelled.rpartition(".")
    return ast.Name(name.rstrip("'"), name.endswith("'"), _NOWHERE, owner)
