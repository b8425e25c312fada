"""Modifiers: equations of a rule redefined by files of their own, as in ``AdamW with Cautious``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, replace

from optdsl.blending.claims import Claim, spelled_claim
from optdsl.diagnostics import Report
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.domain import spell
from optdsl.ir.program import Program, Value
from optdsl.ir.verify import verify
from optdsl.lower.declarations import Declared
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.numbers import number
from optdsl.lower.resolve import resolve_expression, walk
from optdsl.lower.scope import Scope, collect
from optdsl.modifying.bound import bound
from optdsl.modifying.modifier import BASE, Modifier, modifier, name_of
from optdsl.modifying.weave import Weaver
from optdsl.syntax import ast
from optdsl.syntax.format import combination

__all__ = ["Combined", "Modifier", "check", "combine"]


MAX_MODIFIERS = 20


@dataclass(frozen=True, eq=False)
class Combined:
    """A rule with its modifiers, as one program.

    Attributes:
        program: the program, whose named equations are those of the finished rule.
        claims: what the modifiers claim of it: at some settings it is the rule without one of them.
        scope: the names of the file.
    """

    program: Program
    claims: tuple[Claim, ...]
    scope: Scope


def combine(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    rules: Rules,
    base: Program | None,
    modifiers: Sequence[ast.Declaration | None],
    report: Report,
    broken: AbstractSet[str] = frozenset(),
) -> Combined:
    """The program of a combination.

    Args:
        declaration: the syntax tree of ``optimizer NAME = RULE with MODIFIERS``.
        prelude: the functions that every specification may use, by name.
        rules: the library, for ``learn ... by RULE``.
        base: the rule, with its named equations; None where it has mistakes or is not known.
        modifiers: the syntax tree of each modifier, None for one that is not known.
        report: the mistakes so far; those of this stage are added.
        broken: names that stand in statements with a syntax error; their absence is no mistake.

    Raises:
        SpecError: with every mistake in `report`.
    """
    node = declaration.combination
    assert node is not None
    _check_statements(declaration, report)
    if len(node.applications) > MAX_MODIFIERS:
        report.error(
            "too-large",
            f"{len(node.applications)} modifiers are applied",
            node.applications[MAX_MODIFIERS].modifier.span,
            label=f"at most {MAX_MODIFIERS} are",
        )
        report.check()
    scope, _ = collect(declaration, prelude, report, broken)
    own = bound(base, node, scope, report) if base is not None else None
    taken = {h.name for h in own.hypers} | {s.name for s in own.states} if own else set[str]()
    applied: list[Modifier] = []
    for application, tree in zip(node.applications, modifiers, strict=True):
        if tree is None:
            continue
        if name_of(application, tree) in {one.name for one in applied}:
            report.error(
                "duplicate",
                f"the modifier `{application.modifier.text}` is applied twice",
                application.modifier.span,
                label="its hyperparameters would have the same names",
                hint=f"write `{application.modifier.text} as ...`",
            )
        else:
            found = modifier(application, tree, prelude, taken, report)
            applied.append(found)
            taken |= {*found.hyper_names.values(), *found.state_names.values()}
    report.check()
    assert own is not None
    program = _woven(declaration, own, applied, report)
    declared = Declared({h.name: h for h in program.hypers}, program.simplexes)
    names = {name: hypers for name, hypers in declared.learnable.items()}
    learned = learning(declaration, names, declared.hypers, scope, rules, report)
    report.check()
    again = {x.hyper for x in learned}
    kept = tuple(x for x in program.learned if x.hyper not in again)
    program = verify(replace(program, learned=(*kept, *learned)))
    return Combined(program, _claims(declaration, own, applied, program, report), scope)


def check(
    declaration: ast.Declaration, prelude: Mapping[str, ast.Function], report: Report
) -> None:
    """Report what is wrong with a modifier whatever it is applied to."""
    name = declaration.name
    one = modifier(ast.Application(name, (), None), declaration, prelude, set(), report)
    values = [e.value for e in one.scope.equations.values()]
    for value in (*values, *(s.initial for s in one.scope.states.values())):
        of_base = {n.spelled for n in walk(value) if isinstance(n, ast.Name) and n.owner == BASE}
        resolve_expression(value, one.scope, one.scope.values() | of_base, frozenset(), report)


def _woven(
    declaration: ast.Declaration, base: Program, applied: Sequence[Modifier], report: Report
) -> Program:
    try:
        return Weaver(declaration, base, applied, report).program()
    except TooManyOperations:
        report.error(
            "too-large",
            f"the rule needs more than {MAX_OPERATIONS:,} operations",
            declaration.name.span,
            label="with its modifiers it is too large for one optimizer",
            hint="use fewer of them",
        )
        report.check()
        raise


def _claims(
    declaration: ast.Declaration,
    base: Program,
    applied: Sequence[Modifier],
    program: Program,
    report: Report,
) -> tuple[Claim, ...]:
    """What the modifiers claim: at some settings the program is the one without that modifier."""
    found = []
    for place, one in enumerate(applied):
        for node in one.claims:
            settings: dict[str, float] = {}
            for setting in node.settings:
                flat = one.hyper_names.get(setting.name.text)
                value = number(setting.value, f"`{setting.name.text}`", one.scope, report)
                if flat is None or value is None:
                    continue
                domain = program.hyper(flat).domain
                if value in domain:
                    settings[flat] = value
                else:
                    report.error(
                        "out-of-bounds",
                        f"`{setting.name.text}` = {spell(value)} is out of bounds",
                        setting.value.span,
                        label=f"must lie in {domain}",
                    )
            if len(settings) < len(node.settings):
                continue  # about a hyperparameter that is bound here
            others = [*applied[:place], *applied[place + 1 :]]
            without = _woven(declaration, base, others, report)
            reference = replace(
                without, hypers=program.hypers, simplexes=program.simplexes, learned=()
            )
            hypers = {h.name: h.domain for h in without.hypers}
            reads = [
                (str(o.attribute), Value(v))
                for v, o in enumerate(reference.operations)
                if o.opcode == "hyper"
            ]
            found.append(
                Claim(
                    holds=node.holds,
                    text=spelled_claim(node),
                    span=node.span,
                    rule=base.name,
                    rule_source=_without(declaration, place),
                    reference=verify(reference),
                    bindings=tuple(reads),
                    domains=hypers,
                    defaults=(),
                    settings=tuple(settings.items()),
                    source=declaration.name.span.source.loadable,
                )
            )
    report.check()
    return tuple(found)


def _without(declaration: ast.Declaration, place: int) -> str:
    """The rule without one of its modifiers, as `optdsl.load` takes it."""
    node = declaration.combination
    assert node is not None
    others = (*node.applications[:place], *node.applications[place + 1 :])
    return combination(replace(node, applications=others))


_ALLOWED = (ast.Learn, ast.LearnAfter, ast.Claim)


def _check_statements(declaration: ast.Declaration, report: Report) -> None:
    learns = any(isinstance(s, ast.Learn) for s in declaration.statements)
    for statement in declaration.statements:
        if isinstance(statement, ast.LearnAfter) and not learns:
            report.error(
                "statement",
                "`learn after` is about the `learn` statements of its own file",
                statement.span,
                label="there is none here",
                hint="what the rule learns starts as the rule's file says",
            )
        elif not isinstance(statement, _ALLOWED):
            report.error(
                "statement",
                "a rule with modifiers has no equations of its own",
                statement.span,
                label="only `learn`, `recovers` and `misses` stand here",
                hint="write a modifier of its own, or the whole rule",
            )
