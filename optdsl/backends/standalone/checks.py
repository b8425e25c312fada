"""The tables of a standalone file, and the functions that check what a user gives it."""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.backends.emitted import wrapped
from optdsl.backends.python_expressions import literal
from optdsl.backends.standalone import learning, reading, texts, texts_of_draws
from optdsl.backends.standalone.rule import Rule
from optdsl.ir.domain import Choice, Domain, hull
from optdsl.ir.program import Hyper
from optdsl.ir.sections import name_of, of_matrices


def given(rule: Rule) -> list[Hyper]:
    """The hyperparameters that are arguments: what decides about operations is none."""
    structure = dict(rule.program.structure)
    # Totals and shared states have names with a slash, which no hyperparameter has.
    return [h for h in rule.program.hypers if h.name not in structure and "/" not in h.name]


def default(domain: Domain, value: float) -> str:
    """A value of a hyperparameter as Python text: its label as a string, if it has one."""
    if isinstance(domain, Choice) and domain.labels:
        return f'"{domain.labels[int(value)]}"'
    return literal(value)[0]


def checks(rule: Rule) -> list[str]:
    """The tables, and the functions that read them."""
    hypers = given(rule)
    bounds = learning.bounds(rule)
    tables = [f'NAME = "{rule.program.name}"']
    rows = [f'"{h.name}": {_row(h, bounds.get(h.name, h.domain))}' for h in hypers]
    comment = "# By hyperparameter: its default, the numbers that it may be, and their ends."
    tables += ["\n".join([comment, *wrapped("HYPERPARAMETERS = {", rows, "}")])]
    labels = {
        h.name: h.domain.labels for h in hypers if isinstance(h.domain, Choice) and h.domain.labels
    }
    number, inside = texts.NUMBER, texts.INSIDE
    if labels:
        rows = [f'"{n}": {_quoted(found)}' for n, found in labels.items()]
        tables.append("\n".join(wrapped("LABELS = {", rows, "}")))
    number = number.replace("@LABELS@\n", f"{texts.LABELS}\n" if labels else "")
    sets = any(h.domain.discrete for h in hypers)
    inside = inside.replace("@SETS@\n", f"{texts.SETS}\n" if sets else "")
    numbers = texts.NUMBERS.replace("@RETURN@", "return ")
    if rule.program.simplexes:
        rows = [_quoted(s.hypers) for s in rule.program.simplexes]
        comment = "# Hyperparameters that are weights, which sum to one."
        tables.append("\n".join([comment, *wrapped("WEIGHTS = [", rows, "]")]))
        numbers = texts.NUMBERS.replace("@RETURN@", "found = ") + texts.SUMS
    functions = [inside, number, numbers] if hypers else []
    if not hypers:
        tables = tables[:1]
    tables.append(texts.WIDER_PRECISION if rule.widens else texts.PRECISION)
    whole = texts.WHOLE if rule.wholes else ""
    whole += texts_of_draws.WIDE if rule.widens else ""
    functions += [texts.CHECK.replace("@WHOLE@", whole)]
    functions += [texts.PRECISE]
    functions += [texts.ALL_PRECISE] if rule.grouped else []
    if any(of_matrices(part.kind) for part in rule.parts):
        functions.append(texts.IN_ITS_PRECISION)
    if rule.program.sections:
        rows = [f'"{name_of(k)}": {reading.dimensions(k)}' for k in rule.program.sections]
        comment = (
            "# By kind: the least and most dimensions, and whether tensors need no group for it."
        )
        tables.append("\n".join([comment, *wrapped("DIMENSIONS = {", rows, "}")]))
        functions.append(texts.KINDS)
        batched = {part.kind for part in rule.parts if part.name in rule.batched}
        functions += reading.functions(rule.program.sections, batched)
    if any(part.program.states or part.widens for part in rule.parts):
        functions.append(texts.KEPT)
        functions += [texts.ALL_KEPT] if rule.grouped else []
    return ["\n\n".join(tables), *functions]


def _row(hyper: Hyper, domain: Domain) -> str:
    whole = hull(domain)
    ends = domain.values if isinstance(domain, Choice) else (whole.lower, whole.upper)
    texts = [literal(hyper.default)[0], f'"{domain}"', _tuple([literal(x)[0] for x in ends])]
    return f"({', '.join(texts)})"


def _quoted(names: Iterable[str]) -> str:
    return _tuple([f'"{name}"' for name in names])


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
