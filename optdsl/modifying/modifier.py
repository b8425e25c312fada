"""One modifier as it is applied: its names, and what is wrong with them whatever the rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass

from optdsl.diagnostics import Report, nearest
from optdsl.ir.program import Hyper
from optdsl.ir.sections import KINDS, WIDE
from optdsl.lower import check_types
from optdsl.lower.declarations import declared
from optdsl.lower.evaluation import EVALUATION
from optdsl.lower.options import Bound
from optdsl.lower.randoms import check_randoms
from optdsl.lower.resolve import resolve_functions
from optdsl.lower.scope import Scope, collect, reserved_hyper
from optdsl.lower.sections import check_sections
from optdsl.syntax import ast

BASE = "base"


@dataclass(frozen=True, eq=False)
class Modifier:
    """A modifier under the name by which a combination knows it.

    Attributes:
        name: what its hyperparameters are called after, such as "clip_norm".
        application: where it is applied.
        slots: what it redefines, as it is written.
        scope: the definitions of its file, or of the section that holds for a kind of tensors.
        hypers: its hyperparameters that are not bound, under the combination's names for them.
        hyper_names: these names by its own.
        declared: all of its hyperparameters by its own names.
        values: what options bind the others to.
        state_names: the combination's names for its states, by its own.
        claims: what its file claims.
        stores: what it says about storage.
    """

    name: str
    application: ast.Application
    slots: tuple[str, ...]
    scope: Scope
    hypers: tuple[Hyper, ...]
    hyper_names: Mapping[str, str]
    declared: Mapping[str, Hyper]
    values: Mapping[str, Bound]
    state_names: Mapping[str, str]
    claims: tuple[ast.Claim, ...]
    stores: tuple[ast.Store, ...] = ()

    def equation(self, name: str) -> ast.Equation:
        """An equation by its name, prime included."""
        return self.scope.equations[name]


def modifier(
    application: ast.Application,
    tree: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    taken: AbstractSet[str],
    report: Report,
) -> Modifier:
    """A modifier, checked by itself.

    Args:
        application: where it is applied.
        tree: its syntax tree.
        prelude: the functions that every specification may use, by name.
        taken: the names of states and hyperparameters that the rule and the modifiers before it
            have.
        report: receives the mistakes of its file.

    The options are resolved by `optdsl.modifying.bound`, which needs the names of all modifiers.
    """
    slots = tuple(s.spelled for s in tree.slots)
    scope = collect(tree, prelude, report, frozenset(), redefined=frozenset(slots))
    if scope.sections:
        check_sections(scope)
    _check_statements(tree, report)
    for view in scope.sections or (scope,):
        if view.section is None or view.section.rule is None:
            _check_slots(tree, slots, view, report)
        check_types(view)
        check_randoms(view)
    resolve_functions(scope)
    own = declared(scope)
    name = name_of(application, tree)
    given = {option.name.text for option in application.options}
    hypers = []
    for hyper in own.hypers.values():
        flat = f"{name}_{hyper.name}"
        if hyper.name in given:
            continue
        hypers.append(Hyper(flat, hyper.default, hyper.domain))
        reason = reserved_hyper(flat)
        if flat in taken or reason is not None:
            report.error(
                "duplicate",
                f"`{hyper.name}` of `{application.modifier.text}` would be called {flat}",
                application.modifier.span,
                label=reason or "the rule has that name already",
                hint=f"write `{application.modifier.text} as ...`",
            )
    states: dict[str, str] = {}
    used = {*taken, *(h.name for h in hypers)}
    every = dict.fromkeys(state for view in scope.sections or (scope,) for state in view.states)
    for state in every:
        flat = state
        while flat in used or (flat != state and flat in every):
            flat = f"{name}_{flat}"
        states[state] = flat
        used.add(flat)
    return Modifier(
        name,
        application,
        slots,
        scope,
        tuple(hypers),
        {h: f"{name}_{h}" for h in own.hypers if h not in given},
        own.hypers,
        {},
        states,
        tuple(s for s in tree.statements if isinstance(s, ast.Claim)),
        tuple(s for s in tree.statements if isinstance(s, ast.Store)),
    )


def name_of(application: ast.Application, tree: ast.Declaration) -> str:
    """What hyperparameters are called after: the alias, or ``clip_norm`` for ``ClipNorm``."""
    if application.alias is not None:
        return application.alias.text.lower()
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", tree.name.text).lower()


def _about_base(claim: ast.Claim) -> bool:
    return claim.rule.text == BASE and not claim.options


_ALLOWED = (
    ast.Hyper,
    ast.State,
    ast.Function,
    ast.Equation,
    ast.Claim,
    ast.Section,
    ast.Random,
    ast.Input,
    ast.Store,
)


def _is_special(kind: str) -> bool:
    """Whether a kind is of convolutions, or of matrices that are wide."""
    return kind in KINDS and not {WIDE, "convolutions"}.isdisjoint(kind.split())


def _check_statements(tree: ast.Declaration, report: Report) -> None:
    for statement in tree.statements:
        if not isinstance(statement, _ALLOWED):
            report.error(
                "statement",
                "a modifier has hyperparameters, states, inputs, functions, equations, sections "
                "and claims",
                statement.span,
                label="this does not belong to a modifier",
                hint="write it where the modifier is applied",
            )
        elif isinstance(statement, ast.Section) and _is_special(statement.kind):
            report.error(
                "section",
                f"a modifier has no section for `{statement.kind}`",
                statement.span,
                label="how tensors are read is the rule's",
                hint="a modifier's sections are for matrices, flattened or stacked matrices, "
                "vectors, and kinds of one's own",
            )
        elif isinstance(statement, ast.Section) and statement.rule is not None:
            report.error(
                "section",
                f"`{statement.rule.text}` is a whole rule, and a modifier has none",
                statement.rule.span,
                label="the tensors that no section takes keep the rule that is modified",
                hint="leave out `otherwise`, or write equations after it",
            )
        elif isinstance(statement, ast.Claim) and not _about_base(statement):
            report.error(
                "unknown-rule",
                "a modifier claims what it is in comparison to the rule without it",
                statement.rule.span,
                label=f"not `{BASE}`",
                hint=f"write `{'recovers' if statement.holds else 'misses'} {BASE} at ...`",
            )
        elif isinstance(statement, ast.Claim):
            hypers = [s.name.text for s in tree.statements if isinstance(s, ast.Hyper)]
            for setting in statement.settings:
                if setting.name.text not in hypers:
                    report.error(
                        "unknown-name",
                        f"`{setting.name.text}` is not a hyperparameter",
                        setting.name.span,
                        hint=nearest(setting.name.text, hypers),
                    )


def _check_slots(
    tree: ast.Declaration, slots: tuple[str, ...], scope: Scope, report: Report
) -> None:
    """Every slot has an equation, and so has every state; other primes belong to nothing.

    A section defines every slot, by itself or before the first section. A modifier that redefines
    nothing only stores.
    """
    others = [s for s in tree.statements if not isinstance(s, ast.Store)]
    if not slots and (others or not tree.statements):
        report.error(
            "no-update",
            f"`{tree.name.text}` redefines nothing",
            others[0].span if others else tree.name.span,
            label="without `of` there are `store` statements only",
            hint=f"write `modifier {tree.name.text} of update`, for instance",
        )
        return
    defined, section = scope.equations.keys(), scope.section
    for place, slot in enumerate(tree.slots):
        if slot.spelled in slots[:place]:
            report.error("duplicate", f"`{slot.spelled}` is listed twice", slot.name.span)
        elif slot.spelled not in defined:
            report.error(
                "no-update",
                f"there is no equation for `{slot.spelled}`"
                + (f" in the section `{section.kind}`" if section else ""),
                section.span if section else slot.name.span,
                label="the modifier says that it redefines this",
                hint=f"write `{slot.spelled} = ...`",
            )
    for name, state in scope.states.items():
        if f"{name}'" in slots:
            report.error(
                "duplicate",
                f"`{name}` is a state of the modifier and of the rule",
                state.name.span,
                label=f"`{name}'` after `of` is the rule's",
                hint="rename the modifier's own",
            )
        if f"{name}'" not in defined:
            report.error(
                "state-not-updated",
                f"the state `{name}` is never updated",
                state.name.span,
                label=f"there is no equation for `{name}'`",
                hint=f"write `{name}' = ...`",
            )
    for spelled, equation in scope.equations.items():
        name = equation.name.text
        if spelled == EVALUATION and spelled not in slots:
            report.error(
                "reserved",
                "`eval` is a slot of every rule",
                equation.name.span,
                label="an equation of the modifier's own cannot have this name",
                hint="list `eval` after `of`, or rename the equation",
            )
        if equation.primed and name not in scope.states and spelled not in slots:
            report.error(
                "prime",
                f"`{spelled}` is neither a state of the modifier nor redefined",
                equation.name.span,
                label="only states and theta have a value after the step",
                hint=f"list `{spelled}` after `of` if the rule's own is meant",
            )
