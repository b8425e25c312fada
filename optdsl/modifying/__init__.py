"""Modifiers: equations of a rule redefined by files of their own, as in ``AdamW with Cautious``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optdsl.blending.claims import Claim
from optdsl.diagnostics import Report, Source
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.domain import spell
from optdsl.ir.program import Program, Value
from optdsl.ir.verify import verify
from optdsl.lower.declarations import Declared
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.numbers import number
from optdsl.lower.resolve import resolve_expression, walk
from optdsl.lower.scope import Scope
from optdsl.modifying.bound import bound
from optdsl.modifying.modifier import BASE, Modifier, modifier, name_of
from optdsl.modifying.weave import Weaver
from optdsl.passes.specialize import of_all_tensors
from optdsl.syntax import ast
from optdsl.syntax.format import combination, statement
from optdsl.syntax.parse import parse_partial

__all__ = ["Modifier", "check", "combine", "refuse"]


MAX_MODIFIERS = 20


def combine(
    scope: Scope,
    prelude: Mapping[str, ast.Function],
    rules: Rules,
    base: Program | None,
    modifiers: Sequence[Source | None],
    library: Sequence[str],
) -> tuple[Program, tuple[Claim, ...]]:
    """A rule with its modifiers, as one program, and what the modifiers claim of it.

    The program's named equations are those of the finished rule. A claim says that it is, at some
    settings, the rule without one of the modifiers.

    Args:
        scope: the file, ``optimizer NAME = RULE with MODIFIERS``; its report receives the mistakes.
        prelude: the functions that every specification may use, by name.
        rules: the library, for ``learn ... by RULE``.
        base: the rule, with its named equations; None where it has mistakes or is not known.
        modifiers: the text of each modifier, None for one that is not known.
        library: the names of the library's modifiers, for hints.

    Raises:
        SpecError: with every mistake in the report.
    """
    declaration, report = scope.declaration, scope.report
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
    own = bound(base, node, scope) if base is not None else None
    taken = {h.name for h in own.hypers} | {s.name for s in own.states} if own else set[str]()
    applied: list[Modifier] = []
    for application, source in zip(node.applications, modifiers, strict=True):
        tree = None if source is None else _tree(application.modifier, source, library, report)
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
    learned = learning(scope, declared.learnable, declared.hypers, rules)
    report.check()
    again = {x.hyper for x in learned}
    kept = tuple(x for x in program.learned if x.hyper not in again)
    program = verify(replace(program, learned=(*kept, *learned)))
    return program, _claims(declaration, own, applied, program, report)


def check(
    declaration: ast.Declaration, prelude: Mapping[str, ast.Function], report: Report
) -> None:
    """Report what is wrong with a modifier whatever it is applied to."""
    name = declaration.name
    one = modifier(ast.Application(name, (), None), declaration, prelude, set(), report)
    values = [e.value for e in one.scope.equations.values()]
    for value in (*values, *(s.initial for s in one.scope.states.values())):
        of_base = {n.spelled for n in walk(value) if isinstance(n, ast.Name) and n.owner == BASE}
        resolve_expression(value, one.scope, one.scope.values() | of_base)


def refuse(
    declaration: ast.Declaration, prelude: Mapping[str, ast.Function], report: Report
) -> None:
    """Report what is wrong with a modifier, and that it is no rule of its own.

    Raises:
        SpecError: always.
    """
    check(declaration, prelude, report)
    if report.empty:
        name = declaration.name.text
        report.error(
            "modifier",
            f"`{name}` is a modifier, and no rule of its own",
            declaration.name.span,
            label="it has to be applied to a rule",
            hint=f"write `adamw with {name}`, for instance, where a rule is named",
        )
    report.check()


def _tree(
    name: ast.Identifier, source: Source, library: Sequence[str], report: Report
) -> ast.Declaration | None:
    """The syntax tree of a modifier; None after a mistake."""
    own = Report()
    tree = parse_partial(source, own).declaration
    report.include(own)
    if tree is None or not own.empty:
        return None
    if not tree.slots:
        report.error(
            "unknown-rule",
            f"`{name.text}` is no modifier",
            name.span,
            label="it is a whole rule",
            hint=f"modifiers of the library are {', '.join(library)}",
        )
        return None
    return tree


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
    found: list[Claim] = []
    # Claims that are settled kind by kind know no sums over all tensors.
    settled = not (program.sections and of_all_tensors(program))
    for place, one in enumerate(applied if settled else ()):
        for node in one.claims:
            settings: dict[str, float] = {}
            for setting in node.settings:
                flat = one.hyper_names.get(setting.name.text)
                value = number(setting.value, f"`{setting.name.text}`", one.scope)
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
                    text=statement(node),
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
    for node in declaration.statements:
        if isinstance(node, ast.LearnAfter) and not learns:
            report.error(
                "statement",
                "`learn after` is about the `learn` statements of its own file",
                node.span,
                label="there is none here",
                hint="what the rule learns starts as the rule's file says",
            )
        elif not isinstance(node, _ALLOWED):
            report.error(
                "statement",
                "a rule with modifiers has no equations of its own",
                node.span,
                label="only `learn`, `recovers` and `misses` stand here",
                hint="write a modifier of its own, or the whole rule",
            )
