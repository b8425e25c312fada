"""The equations of a program for readers, in the language, as far as they differ from another's."""

from __future__ import annotations

from optdsl.algebra.normal_form import MAX_WORK, TooMuchWork
from optdsl.diagnostics import Source, Span
from optdsl.ir.ops import OPERATORS, TABLE
from optdsl.ir.program import Program, Value
from optdsl.prove.equality import Matching
from optdsl.syntax import ast
from optdsl.syntax.format import expression

# An equation with more operations is not shown.
MAX_SHOWN = 80
_NOWHERE = Span(Source("", ""), 0, 0)
_SYMBOLS = {opcode: symbol for symbol, opcode in OPERATORS.items()}
_WORDS = {"step": "t", "gradient": "g", "parameter": "theta", "size": "size"}


def differences(left: Program, right: Program, work: int = MAX_WORK) -> tuple[list[str], list[str]]:
    """The equations of each program that have no equal in the other one, and those of theta'.

    None of programs that are too large to be compared with some work.
    """
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
    """How many operations each value spells, up to one more than are shown."""
    found: list[int] = []
    for operation in program.operations:
        inside = operation.opcode != "define"
        parts = sum(found[a] for a in operation.arguments) if inside else 0
        found.append(min(1 + parts, MAX_SHOWN + 1))
    return found


def equation(program: Program, definition: Value, spelled: list[int]) -> str:
    """A named equation in the language; other named equations stand in it by their names.

    Args:
        program: where it is.
        definition: the `define` of it.
        spelled: the `sizes` of the program; an equation of more than `MAX_SHOWN` is not written.
    """
    named = program.operations[definition]
    (inner,) = named.arguments
    if spelled[inner] > MAX_SHOWN:
        return f"{named.attribute} = (an equation of more than {MAX_SHOWN} operations)"
    return f"{named.attribute} = {expression(_node(program, inner))}"


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
        case "stop_gradient":
            return _node(program, arguments[0])
        case "mix":
            parts = [_node(program, a) for a in arguments]
            terms = [
                ast.Binary("*", w, x, _NOWHERE)
                for w, x in zip(parts[0::2], parts[1::2], strict=True)
            ]
            total: ast.Expression = terms[0]
            for term in terms[1:]:
                total = ast.Binary("+", total, term, _NOWHERE)
            return total
        case "neg":
            return ast.Negate(_node(program, arguments[0]), _NOWHERE)
        case opcode if opcode in _SYMBOLS:
            left, right = (_node(program, a) for a in arguments)
            return ast.Binary(_SYMBOLS[opcode], left, right, _NOWHERE)
        case opcode:
            function = ast.Identifier(TABLE[opcode].function or opcode, _NOWHERE)
            return ast.Call(function, tuple(_node(program, a) for a in arguments), _NOWHERE)


def _name(spelled: str) -> ast.Name:
    owner, _, name = spelled.rpartition(".")
    return ast.Name(name.rstrip("'"), name.endswith("'"), _NOWHERE, owner)
