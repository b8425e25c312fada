"""Modifiers: equations of a rule redefined by files of their own, as in ``AdamW with Cautious``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.blending.claims import Claim
from optdsl.blending.structure import Again
from optdsl.diagnostics import Note, Report, Source
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.domain import spell
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import is_stacked
from optdsl.ir.verify import verify
from optdsl.lower.declarations import Declared
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.numbers import in_domain
from optdsl.lower.resolve import resolve_expression, walk
from optdsl.lower.sampling import sampled
from optdsl.lower.scope import Scope
from optdsl.lower.sections import joined
from optdsl.lower.stores import stored
from optdsl.modifying.bound import Settled, settled
from optdsl.modifying.inputs import check_inputs
from optdsl.modifying.kinds import Part, parts
from optdsl.modifying.modifier import BASE, Modifier, modifier, name_of
from optdsl.modifying.weave import Weaver
from optdsl.passes.specialize import as_kind
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
    given: Mapping[str, float],
    again: Again,
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
        given: values of hyperparameters that decide what the operations are, where they are not
            the defaults.
        again: makes the rule for other values of what decides what its operations are.

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
    taken = set[str]()
    if base is not None:
        bound = {option.name.text for option in node.options}
        taken = {h.name for h in base.hypers} - bound | {s.name for s in base.states}
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
    if base is None:
        report.check()
    assert base is not None
    whole = settled(base, node, applied, scope, given, again)
    check_inputs(whole.base, whole.applied, {h.name: h for h in whole.hypers}, report)
    making = _Making(declaration, whole, parts(node, base.sections, whole.applied, report), report)
    report.check()
    program = making.program()
    declared = Declared({h.name: h for h in program.hypers}, program.simplexes)
    learned = learning(scope, declared.learnable, declared.hypers, rules)
    again_learned = {x.hyper for x in learned}
    kept = tuple(x for x in program.learned if x.hyper not in again_learned)
    learned = sampled((*kept, *learned), declaration.statements, program.sample, report)
    report.check()
    # What the combination says itself holds, whatever its modifiers say.
    program = _stored(program, making.settled.applied, report)
    program = stored(program, declaration.statements, report)
    report.check()
    program = verify(replace(program, learned=learned))
    return program, _claims(making, program)


@dataclass(frozen=True, eq=False)
class _Making:
    """Makes the program of a rule with its modifiers, kind by kind.

    Attributes:
        declaration: the file.
        settled: the rule and its modifiers.
        parts: its kinds.
        report: receives the mistakes.
    """

    declaration: ast.Declaration
    settled: Settled
    parts: Sequence[Part]
    report: Report

    def program(self, without: int | None = None) -> Program:
        """The program, or the one without a modifier, by its place.

        Raises:
            SpecError: with every mistake in the report.
        """
        kinds = [part.kind for part in self.parts]
        programs = [self._part(part, kinds, without) for part in self.parts]
        found = programs[0] if kinds == [""] else joined(kinds, kinds, programs)
        others = (
            h for n, one in enumerate(self.settled.applied) if n != without for h in one.hypers
        )
        hypers = {h.name: h for h in (*self.settled.base.hypers, *others)}
        in_order = (h for h in self.settled.hypers if h.name in hypers)
        return replace(found, hypers=tuple(in_order))

    def _part(self, part: Part, kinds: Sequence[str], without: int | None) -> Program:
        base = self.settled.base
        own = as_kind(base, part.kind, part.section) if part.kind else base
        applied = [
            replace(one, scope=view)
            for n, (one, view) in enumerate(zip(self.settled.applied, part.views, strict=True))
            if view is not None and n != without
        ]
        whole = any(map(is_stacked, kinds))
        weaver = Weaver(self.declaration, own, applied, self.report, self.settled.choices, whole)
        try:
            return weaver.program()
        except TooManyOperations:
            self.report.error(
                "too-large",
                f"the rule needs more than {MAX_OPERATIONS:,} operations",
                self.declaration.name.span,
                label="with its modifiers it is too large for one optimizer",
                hint="use fewer of them",
            )
            self.report.check()
            raise


def check(
    declaration: ast.Declaration, prelude: Mapping[str, ast.Function], report: Report
) -> None:
    """Report what is wrong with a modifier whatever it is applied to."""
    name = declaration.name
    one = modifier(ast.Application(name, (), None), declaration, prelude, set(), report)
    for view in one.scope.sections or (one.scope,):
        values = [e.value for e in view.equations.values()]
        values += [x.counter for x in view.randoms.values() if x.counter is not None]
        for value in (*values, *(s.initial for s in view.states.values())):
            of_base = {
                n.spelled for n in walk(value) if isinstance(n, ast.Name) and n.owner == BASE
            }
            resolve_expression(value, view, view.values() | of_base)


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
    if not tree.modifier:
        report.error(
            "unknown-rule",
            f"`{name.text}` is no modifier",
            name.span,
            label="it is a whole rule",
            hint=f"modifiers of the library are {', '.join(library)}",
        )
        return None
    return tree


def _stored(program: Program, applied: Sequence[Modifier], report: Report) -> Program:
    """The program, stored as its modifiers say, of which no two speak of one name."""
    said: dict[str, tuple[Modifier, ast.Store]] = {}
    for one in applied:
        span = one.application.modifier.span
        for node in one.stores:
            for name in node.names:
                first, other = said.setdefault(name.text, (one, node))
                if first is not one:
                    report.error(
                        "duplicate",
                        f"`{name.text}` is stored twice",
                        span,
                        label=f"as {node.codec.text} by this modifier",
                        notes=[
                            Note(f"as {other.codec.text} by this", first.application.modifier.span)
                        ],
                        hint="leave out one of the two",
                    )
        program = stored(program, one.stores, report, span)
    return program


def _claims(making: _Making, program: Program) -> tuple[Claim, ...]:
    """What the modifiers claim: at some settings the program is the one without that modifier."""
    declaration, report = making.declaration, making.report
    applied = making.settled.applied
    found: list[Claim] = []
    for place, one in enumerate(applied):
        for node in one.claims:
            settings: dict[str, float] = {}
            for setting in node.settings:
                flat = one.hyper_names.get(setting.name.text)
                if flat is None:
                    continue
                domain = program.hyper(flat).domain
                value = in_domain(setting.value, f"`{setting.name.text}`", domain, one.scope)
                if value is None:
                    continue
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
            without = making.program(place)
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
                    rule=making.settled.base.name,
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


_ALLOWED = (ast.Hyper, ast.Learn, ast.LearnAfter, ast.LearnSample, ast.Claim, ast.Store)


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
                label="only `hyper`, `learn`, `recovers` and `misses` stand here",
                hint="write a modifier of its own, or the whole rule",
            )
