"""Syntax tree to text, in one canonical layout: ``parse(format(tree)) == tree``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from optdsl.syntax import ast

WIDTH = 88

# Precedence; an operand with a lower one than its place requires is put in parentheses.
_COMPARISON, _SUM, _PRODUCT, _UNARY, _POWER, _ATOM = range(6)
_LEVEL = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "@": _PRODUCT, "^": _POWER}


def expression(node: ast.Expression) -> str:
    """An expression with as few parentheses as possible."""
    return _expression(node, _COMPARISON)


def _expression(node: ast.Expression, demanded: int) -> str:
    text, level = _spell(node)
    return f"({text})" if level < demanded else text


def _spell(node: ast.Expression) -> tuple[str, int]:
    match node:
        case ast.Number():
            return node.text, _ATOM
        case ast.Name():
            return node.spelled, _ATOM
        case ast.Call():
            arguments = ", ".join(expression(a) for a in node.arguments)
            return f"{node.function.text}({arguments}{_over(node.over)})", _ATOM
        case ast.Negate():
            return f"-{_expression(node.operand, _UNARY)}", _UNARY
        case ast.Binary(operator="^"):
            base = _expression(node.left, _ATOM)
            return f"{base}^{_expression(node.right, _UNARY)}", _POWER
        case ast.Chain():
            left, middle, right = (
                _expression(x, _SUM) for x in (node.left, node.middle, node.right)
            )
            return f"{left} {node.lower} {middle} {node.upper} {right}", _COMPARISON
        case ast.Binary():
            level = _LEVEL.get(node.operator, _COMPARISON)
            left = _expression(node.left, max(level, _SUM))
            right = _expression(node.right, level + 1)
            return f"{left} {node.operator} {right}", level


def _over(axis: ast.Identifier | None) -> str:
    return f" over {axis.text}" if axis else ""


def statement(node: ast.Statement) -> str:
    """A statement in one line, without its comments."""
    return " ".join(_columns(node))


def domain(node: ast.Interval | ast.Choice) -> str:
    """``[a, b)``, ``{a, b}`` or ``{a, ..., b}``."""
    if isinstance(node, ast.Choice):
        values = [expression(v) for v in node.values]
        values[-1:] = ["...", values[-1]] if node.between else values[-1:]
        return "{" + ", ".join(values) + "}"
    opening, closing = "(" if node.lower_open else "[", ")" if node.upper_open else "]"
    return f"{opening}{expression(node.lower)}, {expression(node.upper)}{closing}"


def format(declaration: ast.Declaration) -> str:
    """The text of a file; columns of neighbouring statements are aligned."""
    out = list(declaration.trivia.leading)
    out.append(header(declaration))
    out += [f'  "{line}"' for line in declaration.documentation]
    out[-1] = _comment(out[-1], declaration.trivia.trailing)
    groups = _groups(declaration.statements)
    for index, group in enumerate(groups):
        if index == 0 or group[0].trivia.blank_before or not _mergeable(groups[index - 1], group):
            out.append("")
        out += _align(group)
    if declaration.closing:
        out += ["", *declaration.closing]
    return "\n".join(out) + "\n"


def header(declaration: ast.Declaration) -> str:
    """The first line of a file, without its comment."""
    name = declaration.name.text
    if declaration.modifier:
        slots = ", ".join(s.spelled for s in declaration.slots)
        return f"modifier {name} of {slots}" if slots else f"modifier {name}"
    if declaration.combination is not None:
        line = f"optimizer {name} = {combination(declaration.combination)}"
        if len(line) <= WIDTH or not declaration.combination.applications:
            return line
        applied = [f"{x}," for x in _applied(declaration.combination)]
        return f"{line.partition(' with ')[0]} with\n  {_lines(applied, 2).removesuffix(',')}"
    return f"{'blend' if declaration.blend else 'optimizer'} {name}"


def combination(node: ast.Combination) -> str:
    """A rule with its modifiers in one line."""
    text = node.base.text + _options(node.options)
    return f"{text} with {', '.join(_applied(node))}" if node.applications else text


def _applied(node: ast.Combination) -> list[str]:
    """The modifiers of a combination."""
    return [
        a.modifier.text + _options(a.options) + (f" as {a.alias.text}" if a.alias else "")
        for a in node.applications
    ]


def _groups(statements: Sequence[ast.Statement]) -> list[list[ast.Statement]]:
    """Runs of neighbours of one kind, with no blank line between them."""
    groups: list[list[ast.Statement]] = []
    for statement in statements:
        if groups and not statement.trivia.blank_before and type(groups[-1][0]) is type(statement):
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return groups


def _mergeable(before: list[ast.Statement], after: list[ast.Statement]) -> bool:
    """Whether two groups may stand without a blank line between them, if the text has none."""
    if isinstance(before[0], ast.Section | ast.State) and isinstance(
        after[0], ast.State | ast.Equation
    ):
        return True
    kinds = (
        (ast.Learn, ast.LearnAfter, ast.LearnSample),
        (ast.Use, ast.Share, ast.Binding),
        (ast.Hyper, ast.Weights),
    )
    return any(isinstance(before[0], k) and isinstance(after[0], k) for k in kinds)


def _align(group: list[ast.Statement]) -> list[str]:
    rows = [_columns(statement) for statement in group]
    widths = [max(len(c) for c in column) for column in itertools.zip_longest(*rows, fillvalue="")]
    lines: list[str] = []
    for statement, row in zip(group, rows, strict=True):
        # The last column of a row needs no padding.
        cells = [c.ljust(w) for c, w in zip(row[:-1], widths, strict=False)]
        line = " ".join([*cells, row[-1]])
        if isinstance(statement, ast.Equation) and len(line) > WIDTH:
            line = _wrap(statement.value, " ".join(cells) + " = ")
        if isinstance(statement, ast.Claim) and len(line) > WIDTH:
            line = f"{' '.join(cells).rstrip()}\n  {row[-1]}"
        lines.append(line)
    commented = [x for x, s in zip(lines, group, strict=True) if s.trivia.trailing]
    column = max((len(x.rpartition("\n")[2]) for x in commented), default=0)
    out: list[str] = []
    for statement, line in zip(group, lines, strict=True):
        padding = " " * (column - len(line.rpartition("\n")[2]))
        out += statement.trivia.leading
        trailing = statement.trivia.trailing
        out.append(_comment(line + padding if trailing else line, trailing))
    return out


def _columns(statement: ast.Statement) -> list[str]:
    match statement:
        case ast.Hyper():
            cells = [f"hyper {statement.name.text}", f"= {expression(statement.default)}"]
            return cells + ([f"in {domain(statement.domain)}"] if statement.domain else [])
        case ast.Weights():
            start = ", ".join(expression(x) for x in statement.start)
            labels = _names(statement.labels)
            return [f"hyper {statement.name.text}", f"= {start} on simplex({labels})"]
        case ast.State():
            kind = f" : {statement.type.text}" if statement.type else ""
            return [f"state {statement.name.text}{kind}", f"= {expression(statement.initial)}"]
        case ast.Function():
            parameters = ", ".join(
                p.name.text + (f" : {p.type.text}" if p.type else "") for p in statement.parameters
            )
            head = f"def {statement.name.text}({parameters}{_over(statement.over)})"
            return [head, f"= {expression(statement.body)}"]
        case ast.Input():
            kind = f" : {statement.type.text}" if statement.type else ""
            return [f"input {statement.name.text}{kind}"]
        case ast.Random():
            kind = f" : {statement.type.text}" if statement.type else ""
            counter = f" at {expression(statement.counter)}" if statement.counter else ""
            head = f"random {statement.name.text}{kind}"
            return [head, f"= {statement.distribution.text}{counter}"]
        case ast.Store():
            return [f"store {_names(statement.names)}", f"as {statement.codec.text}"]
        case ast.Axis():
            return [f"axis {statement.name.text}", f"= {expression(statement.length)}"]
        case ast.Section():
            if statement.kind != ast.OTHERWISE:
                return [f"for {statement.kind}"]
            if statement.modified is not None:
                alias = f" as {statement.alias.text}" if statement.alias else ""
                return [f"otherwise ({combination(statement.modified)}){alias}"]
            rule = f" {statement.rule.text}" if statement.rule else ""
            return [f"otherwise{rule}{_options(statement.options)}"]
        case ast.Equation():
            return [statement.spelled, f"= {expression(statement.value)}"]
        case ast.Binding():
            head = f"{statement.owner.text}.{statement.name.text}"
            return [head, f"= {expression(statement.value)}"]
        case ast.Use():
            return [f"use {', '.join(map(_member, statement.members))}"]
        case ast.Share():
            among = f" among {_names(statement.among)}" if statement.among else ""
            return [f"share {_names(statement.names)}{among}"]
        case ast.Claim():
            cells = ["recovers" if statement.holds else "misses"]
            cells.append(f"{statement.rule.text}{_options(statement.options)}")
            settings = _settings(statement.settings)
            return cells + ([f"at {settings}"] if settings else [])
        case ast.LearnAfter():
            return [f"learn after {statement.after.text}"]
        case ast.LearnSample():
            return [f"learn sample {statement.sample.text}"]
        case ast.Learn():
            return [_learn(statement)]


def reference(node: ast.Section) -> str:
    """How a file refers to the rule after ``otherwise``; one with modifiers has no rule's name."""
    assert node.rule is not None
    return node.rule.text if node.modified is None else combination(unbound(node.modified))


def unbound(node: ast.Combination) -> ast.Combination:
    """A rule with modifiers without options, which may be made of another file's names."""
    applications = tuple(replace(a, options=()) for a in node.applications)
    return replace(node, options=(), applications=applications)


def _member(member: ast.Member) -> str:
    rule = f"({combination(member.modified)})" if member.modified else member.rule.text
    return f"{rule} as {member.alias.text}" if member.alias else rule


def _names(identifiers: Iterable[ast.Identifier]) -> str:
    return ", ".join(n.text for n in identifiers)


def _settings(options: Iterable[ast.Option]) -> str:
    return ", ".join(f"{o.name.text} = {expression(o.value)}" for o in options)


def _options(options: tuple[ast.Option, ...]) -> str:
    return f"({_settings(options)})" if options else ""


def _learn(node: ast.Learn) -> str:
    names = _names(node.names)
    scope = f" per {node.scope.text}" if node.scope else ""
    bounds = f" in {domain(node.bounds)}" if node.bounds else ""
    signal = f" on {node.signal.text}" if node.signal else ""
    rule = ("exponentiated " if node.exponentiated else "") + node.rule.text
    after = f" after {node.after.text}" if node.after else ""
    horizon = f" horizon {node.horizon.text}" if node.horizon else ""
    sample = f" sample {node.sample.text}" if node.sample else ""
    options = _options(node.options)
    return f"learn {names}{scope}{bounds} by {rule}{options}{signal}{after}{horizon}{sample}"


def _comment(line: str, comment: str) -> str:
    return f"{line}  {comment}" if comment else line


def _wrap(node: ast.Expression, head: str) -> str:
    """A long sum or product over several lines, operators in front of the later terms."""
    level = _spell(node)[1]
    terms: list[str] = []
    while isinstance(node, ast.Binary) and _LEVEL.get(node.operator) == level < _UNARY:
        terms.append(f"{node.operator} {_expression(node.right, level + 1)}")
        node = node.left
    terms.append(_expression(node, level))
    return head + _lines(reversed(terms), len(head))


def _lines(terms: Iterable[str], indent: int) -> str:
    """Terms packed into lines of at most `WIDTH`, continued under the first one."""
    lines = [""]
    for term in terms:
        if lines[-1] and indent + len(lines[-1]) + 1 + len(term) > WIDTH:
            lines.append(term)
        else:
            lines[-1] = f"{lines[-1]} {term}".strip()
    return ("\n" + " " * indent).join(lines)
