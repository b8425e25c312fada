"""Which section of each modifier holds for the tensors of a rule.

A rule with modifiers is made kind by kind. Its kinds are those of the rule, divided further where
sections of modifiers tell apart what a section of the rule takes: a rule without sections and a
modifier with one `for matrices` are a rule with the sections `matrices` and `otherwise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optdsl.diagnostics import Note, Report
from optdsl.ir.sections import (
    FLAT,
    FLATTENED,
    KINDS,
    MATRICES,
    OTHERWISE,
    STACK,
    STACKED,
    VECTORS,
    name_of,
    of_matrices,
    section_of,
    takes,
)
from optdsl.lower.scope import Scope
from optdsl.modifying.modifier import Modifier
from optdsl.syntax import ast

# A shape for each number of dimensions that kinds tell apart: one, two, and three or more.
_SHAPES: tuple[tuple[int, ...], ...] = ((7,), (3, 4), (2, 3, 2))
_VECTOR, _MATRIX, _STACK = _SHAPES


@dataclass(frozen=True, eq=False)
class Part:
    """What holds for the tensors of one kind.

    Attributes:
        kind: the kind; empty for a rule that is one for all tensors.
        section: the number of the rule's section; None for a rule without sections.
        views: for each modifier, the section of it that holds, or its file if it has no sections;
            None where it leaves these tensors as they are.
    """

    kind: str
    section: int | None
    views: tuple[Scope | None, ...]


def parts(
    node: ast.Combination, sections: Sequence[str], applied: Sequence[Modifier], report: Report
) -> list[Part]:
    """The kinds of a rule with modifiers, in the order in which tensors are given to them.

    Args:
        node: the rule with its modifiers.
        sections: the kinds of the rule's sections; empty for a rule without sections.
        applied: the modifiers.
        report: receives sections of modifiers that no tensor comes to, and tensors that rule and
            modifiers read in different ways.
    """
    if not sections and not any(one.scope.sections for one in applied):
        return [Part("", None, tuple(one.scope for one in applied))]
    kinds = tuple(sections) or (*_own_kinds(applied), OTHERWISE)
    found = [part for n in range(len(kinds)) for part in _divided(kinds, n, applied)]
    if not sections:
        found = [Part(part.kind, None, part.views) for part in found]
    _check(node, kinds, found, applied, report)
    return found


def _own_kinds(applied: Sequence[Modifier]) -> tuple[str, ...]:
    """The kinds of modifiers to which tensors come by their groups only."""
    named = (view.kind for one in applied for view in one.scope.sections)
    return tuple(dict.fromkeys(kind for kind in named if kind not in {*KINDS, OTHERWISE}))


def _divided(kinds: Sequence[str], number: int, applied: Sequence[Modifier]) -> Iterator[Part]:
    """A kind of the rule, and those that sections of modifiers make of it."""
    kind = kinds[number]
    seen = {
        shape: tuple(_of_shape(one, shape) for one in applied)
        for shape in _SHAPES
        if section_of(kinds, shape) == number and (kind in KINDS or kind == OTHERWISE)
    }
    rest = dict(seen)
    for own, shapes in _new_kinds(kind, seen):
        yield Part(own, number, seen[shapes[0]])
        for shape in shapes:
            del rest[shape]
    views = next(iter(rest.values()), None)
    yield Part(kind, number, views or tuple(_chosen(one, kind) for one in applied))


def _new_kinds(
    kind: str, seen: dict[tuple[int, ...], tuple[Scope | None, ...]]
) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The kinds that are taken out of one, each with the shapes that come to it."""
    vector, matrix, stack = (seen.get(shape) for shape in _SHAPES)
    if of_matrices(kind):
        if matrix is not None and stack is not None and matrix != stack:
            yield MATRICES, [_MATRIX]
        return
    read = [x is not None and any(v is not None and v.matrices for v in x) for x in (matrix, stack)]
    if read[1]:
        assert stack is not None
        reading = next(v.kind for v in stack if v is not None and v.kind in {FLATTENED, STACKED})
        if matrix is not None and matrix == stack:
            yield reading, [_MATRIX, _STACK]
        else:
            if read[0]:
                yield MATRICES, [_MATRIX]
            yield reading, [_STACK]
    elif read[0]:
        yield MATRICES, [_MATRIX]
    if kind == OTHERWISE and vector and any(v is not None and v.kind == VECTORS for v in vector):
        yield VECTORS, [_VECTOR]


def _of_shape(one: Modifier, shape: Sequence[int]) -> Scope | None:
    """The section of a modifier that takes a shape."""
    views = one.scope.sections
    if not views:
        return one.scope
    number = section_of([view.kind for view in views], shape)
    return None if number is None else views[number]


def _chosen(one: Modifier, kind: str) -> Scope | None:
    """The section of a modifier for tensors that come to a kind by their groups only."""
    if not one.scope.sections:
        return one.scope
    if kind in KINDS:
        return _of_shape(one, next(shape for shape in _SHAPES if takes(kind, shape)))
    by_kind = {view.kind: view for view in one.scope.sections}
    return by_kind.get(name_of(kind)) or by_kind.get(OTHERWISE)


def _check(
    node: ast.Combination,
    kinds: Sequence[str],
    found: Sequence[Part],
    applied: Sequence[Modifier],
    report: Report,
) -> None:
    used = {id(view) for part in found for view in part.views}
    for one in applied:
        for view in one.scope.sections:
            if id(view) not in used and view.kind != OTHERWISE:
                assert view.section is not None
                report.error(
                    "section",
                    f"`{node.base.text}` has no tensors for the section `{view.kind}` of "
                    f"`{one.application.modifier.text}`",
                    one.application.modifier.span,
                    label=f"the rule is for {', '.join(kinds)}",
                    notes=[Note("the section", view.section.span)],
                    hint="take out the section, or name a kind that the rule has",
                )
    names = [part.kind for part in found]
    for part in found:
        readings = {v.kind: n for n, v in enumerate(part.views) if v is not None}
        ways = {way for k in (part.kind, *readings) for way in (FLAT, STACK) if way in k.split()}
        twice = names.count(part.kind) > 1
        if (len(ways) == 1 or part.kind == MATRICES or not ways) and not twice:
            continue
        first = next((n for k, n in readings.items() if k != part.kind and k in KINDS), 0)
        modifier = applied[first].application.modifier
        report.error(
            "section",
            f"`{modifier.text}` does not read tensors as what it is applied to does",
            modifier.span,
            label=f"here they are {' and '.join(sorted(ways | {part.kind}))}",
            hint="tensors of three or more dimensions are read in one way: write the modifier's "
            "section for the kind that the rule has",
        )
