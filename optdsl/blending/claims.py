"""`recovers` and `misses`: what a specification says it is at some values of its coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass, replace

from optdsl.blending import Blended
from optdsl.blending.members import listed, members
from optdsl.blending.world import World, world
from optdsl.diagnostics import Report, Source, Span, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Choice, Domain, Interval, closed, hull, spell
from optdsl.ir.evaluate import number as evaluated
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value, upstream
from optdsl.ir.ranges import ranges
from optdsl.ir.verify import verify
from optdsl.lower.declarations import Declared, corner_weights, declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.numbers import number
from optdsl.lower.resolve import resolve_expression
from optdsl.lower.scope import Scope, collect
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast
from optdsl.syntax.format import expression

MAX_CLAIMS = 100
# How many operations the claims of a file may be about, those of a rule for every claim.
MAX_CLAIMED = 200_000


@dataclass(frozen=True, eq=False)
class Claim:
    """A specification takes the same steps as a rule, or does not, when coefficients are fixed.

    Attributes:
        holds: whether it says that it does (`recovers`), or that it does not (`misses`).
        text: the claim in one line.
        span: where it is made.
        rule: the rule's name, as the claim has it.
        rule_source: the name of the rule's own file.
        reference: the rule as a program over the specification's hyperparameters.
        bindings: the values in `reference` of the rule's own hyperparameters.
        domains: where these may lie.
        defaults: those of them that nothing gives, so that they are as by default.
        settings: the coefficients that are fixed, by hyperparameter.
        source: where the specification is that the claim is about, if not in the claim's own file.
    """

    holds: bool
    text: str
    span: Span
    rule: str
    rule_source: str
    reference: Program
    bindings: tuple[tuple[str, Value], ...]
    domains: Mapping[str, Domain]
    defaults: tuple[str, ...]
    settings: tuple[tuple[str, float], ...]
    source: str = ""


@dataclass(frozen=True, eq=False)
class Names:
    """What the claims of a file may speak of.

    Attributes:
        scope: the definitions of the file.
        program: the program that they make.
        learnable: the hyperparameters behind each name that can be set.
        spellings: the hyperparameter behind each name that an option's value may use.
        world: of a blend, what its members' hyperparameters are.
    """

    scope: Scope
    program: Program
    learnable: Mapping[str, tuple[str, ...]]
    spellings: Mapping[str, str]
    world: World | None = None


def claims(
    declaration: ast.Declaration,
    names: Names,
    programs: Mapping[str, Program],
    sources: Mapping[str, Source],
    broken: AbstractSet[str],
    report: Report,
) -> tuple[Claim, ...]:
    """The claims of a file; mistakes go to `report`.

    Args:
        declaration: the syntax tree.
        names: what its statements may use.
        programs: the rules that it refers to, by the names it has for them.
        sources: their texts.
        broken: names whose own mistakes are reported already.
        report: for unknown rules, options and coefficients, and for values out of bounds.
    """
    found, size = list[Claim](), 0
    claimed = [s for s in declaration.statements if isinstance(s, ast.Claim)]

    def too_large(message: str, node: ast.Claim, label: str) -> tuple[Claim, ...]:
        hint = "keep those that matter"
        report.error("too-large", message, node.span, label=label, hint=hint)
        return ()

    if len(claimed) > MAX_CLAIMS:
        label = f"at most {MAX_CLAIMS} are settled"
        return too_large(f"the file makes {len(claimed):,} claims", claimed[MAX_CLAIMS], label)
    for node in claimed:
        name = node.rule.text
        rule = programs.get(name)
        if rule is None:
            continue
        size += len(names.program.operations) + len(rule.operations)
        if size > MAX_CLAIMED:
            message = f"the claims are about more than {MAX_CLAIMED:,} operations"
            return too_large(message, node, "the limit is reached here")
        # What is wrong with one claim hides nothing of the next one.
        own = Report()
        settings = _settings(node, names, broken, own)
        _check_names(node, rule, names, broken, own)
        bound = None
        if own.empty and names.program.operations:
            bound = _reference(node, rule, names, dict(settings), own)
        report.include(own)
        if bound is not None:
            origin = sources[name].loadable
            found.append(
                Claim(node.holds, spelled_claim(node), node.span, name, origin, *bound, settings)
            )
    return tuple(found)


def spelled_claim(node: ast.Claim) -> str:
    """A claim in one line."""

    def joined(options: tuple[ast.Option, ...]) -> str:
        return ", ".join(f"{o.name.text} = {expression(o.value)}" for o in options)

    text = f"{'recovers' if node.holds else 'misses'} {node.rule.text}"
    text += f"({joined(node.options)})" if node.options else ""
    return text + (f" at {joined(node.settings)}" if node.settings else "")


def _settings(
    node: ast.Claim, names: Names, broken: AbstractSet[str], report: Report
) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for setting in node.settings:
        name = setting.name.text
        hypers = names.learnable.get(name)
        if hypers is None:
            if name in broken:
                continue
            report.error(
                "unknown-name",
                f"`{name}` is not a hyperparameter",
                setting.name.span,
                hint=_whole(name, names) or nearest(name, names.learnable),
            )
        elif len(hypers) > 1:
            found |= _vector(setting, hypers, names, report)
        else:
            value = number(setting.value, f"`{name}`", names.scope, report)
            domain = names.program.hyper(hypers[0]).domain
            if value is not None and value not in domain:
                report.error(
                    "out-of-bounds",
                    f"`{name}` = {spell(value)} is out of bounds",
                    setting.value.span,
                    label=f"must lie in {domain}",
                )
            elif value is not None:
                found[hypers[0]] = value
    return tuple(found.items())


def _whole(name: str, names: Names) -> str:
    """What to write in place of a component of a weight vector."""
    vector, _, label = name.partition(".")
    return f"write `{vector} = {label}`" if name in names.scope.components else ""


def _vector(
    setting: ast.Option, hypers: tuple[str, ...], names: Names, report: Report
) -> dict[str, float]:
    simplex = next(s for s in names.program.simplexes if s.hypers == hypers)
    weights = corner_weights(setting.value, list(simplex.labels))
    if weights is None:
        report.error(
            "weights",
            f"`{setting.name.text}` has no such weights",
            setting.value.span,
            hint=f"write `uniform`, or one of {', '.join(simplex.labels)}",
        )
        return {}
    return dict(zip(hypers, weights, strict=True))


# The reference, the bindings, the domains, and the names of those that are as by default.
_Bound = tuple[Program, tuple[tuple[str, Value], ...], Mapping[str, Domain], tuple[str, ...]]


def _check_names(
    node: ast.Claim, rule: Program, names: Names, broken: AbstractSet[str], report: Report
) -> None:
    """The options of a claim must be hyperparameters of the rule, given what the file has."""
    known = [h.name for h in rule.hypers]
    allowed = {*names.spellings, *names.scope.components, *broken}
    for option in node.options:
        if option.name.text not in known:
            report.error(
                "unknown-option",
                f"`{node.rule.text}` has no hyperparameter `{option.name.text}`",
                option.name.span,
                hint=nearest(option.name.text, known) or f"it has {', '.join(known)}",
            )
        elif rule.simplex_of(option.name.text) is not None:
            report.error(
                "unknown-option",
                f"`{option.name.text}` of `{node.rule.text}` is a part of a weight vector",
                option.name.span,
                label="a rule's weights are as by default, or a member's in a blend",
            )
        resolve_expression(option.value, names.scope, allowed, broken, report)


def _reference(
    node: ast.Claim, rule: Program, names: Names, settings: Mapping[str, float], report: Report
) -> _Bound | None:
    """The rule with its hyperparameters given by the claim, by the blend, or by their names."""
    options = {option.name.text: option.value for option in node.options}
    bindings: dict[str, Value] = {}
    defaults: dict[str, None] = {}

    def given(lowering: Lowering, hyper: str) -> Value | None:
        builder = lowering.builder
        if hyper in options:
            environment = {
                name: builder.emit("hyper", attribute=flat)
                for name, flat in names.spellings.items()
            }
            value = lowering.expression(options[hyper], environment)
            return _option(value, hyper, options[hyper], builder, report)
        if names.world is not None and (node.rule.text, hyper) in names.world.bound:
            return names.world.value(lowering, node.rule.text, hyper)
        if names.spellings.get(hyper) == hyper:
            return builder.emit("hyper", attribute=hyper, hint=hyper)
        defaults[hyper] = None
        return builder.constant(rule.hyper(hyper).default)

    def substitute(
        builder: Builder, operation: Operation, arguments: tuple[Value, ...]
    ) -> Value | None:
        if operation.opcode != "hyper":
            return None
        hyper = str(operation.attribute)
        value = given(Lowering(names.scope, builder, report), hyper)
        if value is not None:
            bindings[hyper] = value
        return value

    bound = rewrite(rule, substitute)
    if not report.empty:
        return None
    own = names.program
    bound = replace(bound, hypers=own.hypers, learned=(), simplexes=own.simplexes)
    _check_bindings(node, bound, rule, bindings, settings, report)
    domains = {h.name: h.domain for h in rule.hypers}
    return verify(bound), tuple(bindings.items()), domains, tuple(defaults)


def _option(
    value: Value | None, hyper: str, node: ast.Expression, builder: Builder, report: Report
) -> Value | None:
    """The value that a claim's option gives, if it is a number that does not change with `t`."""
    if value is None:
        return None
    if builder[value].type.condition:
        label, hint = "a condition", "write `where(condition, 1, 0)`"
        report.error("type", f"`{hyper}` is a number", node.span, label=label, hint=hint)
        return None
    if any(builder[v].opcode == "step" for v in upstream(builder.operations, (value,))):
        report.error(
            "not-constant",
            f"`{hyper}` changes with `t`",
            node.span,
            label="a function that is called here uses `t`",
            hint="the options of a claim are made of numbers and hyperparameters",
        )
        return None
    return value


def _check_bindings(
    node: ast.Claim,
    bound: Program,
    rule: Program,
    bindings: Mapping[str, Value],
    settings: Mapping[str, float],
    report: Report,
) -> None:
    """The rule must be able to have what a claim gives it, by an option or by a name.

    An option must keep within the rule's bounds. A hyperparameter that has its name in common with
    one of the rule may have wider bounds, of which the claim takes those that both have.
    """
    found = ranges(bound, settings)
    options = {option.name.text: option for option in node.options}
    for name, value in bindings.items():
        allowed, actual = rule.hyper(name).domain, found[value]
        option = options.get(name)
        fixed = _fixed(bound, value, settings)
        if fixed is not None:
            possible = fixed in allowed
        elif option is not None:
            possible = closed(hull(allowed)).includes(closed(actual))
        else:
            possible = _overlap(actual, allowed)
        if possible:
            continue
        given = "can leave its bounds" if fixed is None else f"cannot be {spell(fixed)}"
        if fixed is None and option is None:
            given = f"cannot lie in {actual}"
        report.error(
            "out-of-bounds",
            f"`{name}` of `{rule.name}` {given}",
            node.rule.span if option is None else option.value.span,
            label=f"must lie in {allowed}",
            hint="" if option is not None else f"give it as an option, {rule.name}({name} = ...)",
        )


def _fixed(program: Program, value: Value, settings: Mapping[str, float]) -> float | None:
    """The number that a value is at some settings; None where it depends on anything else."""
    for behind in program.needed((value,)):
        operation = program.operations[behind]
        stage = TABLE[operation.opcode].stage
        known = operation.opcode == "hyper" and operation.attribute in settings
        if stage.given and stage is not Stage.LITERAL and not known:
            return None
    return evaluated(program, value, settings)


def _overlap(actual: Interval, allowed: Domain) -> bool:
    """Whether a number of an interval may lie in a domain."""
    if isinstance(allowed, Choice):
        return any(x in actual for x in allowed.values)
    lower, upper = max(actual.lower, allowed.lower), min(actual.upper, allowed.upper)
    if lower == upper:
        return lower in actual and lower in allowed
    return lower < upper


def names_of(program: Program, scope: Scope) -> Names:
    """What the claims of an optimizer may speak of."""
    own = Declared({h.name: h for h in program.hypers}, program.simplexes)
    single = {name: name for name, hypers in own.learnable.items() if hypers == (name,)}
    return Names(scope, program, own.learnable, single)


def names_of_blend(blended: Blended) -> Names:
    """What the claims of a blend may speak of: its members, too."""
    own = blended.world
    return Names(blended.scope, blended.program, own.learnable, own.spellings, own)


def names_of_mistaken(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    programs: Mapping[str, Program],
    broken: AbstractSet[str],
) -> tuple[Names, AbstractSet[str]]:
    """What the claims of a file with mistakes may speak of, and the names to say no more of.

    The mistakes themselves are not reported again.
    """
    silent = Report()
    scope, undefined = collect(declaration, prelude, silent, broken)
    own = declared(scope, silent)
    unknown = frozenset(broken | undefined | {*scope.hypers, *scope.weights} - {*own.learnable})
    if not declaration.blend:
        return names_of(_nothing(own), scope), unknown
    found = members(declaration, programs, silent)
    unknown |= listed(declaration) - set(found)
    settled = world(declaration, found, scope, own, unknown, silent)
    program = _nothing(settled.declared)
    return Names(scope, program, settled.learnable, settled.spellings, settled), unknown


def _nothing(own: Declared) -> Program:
    """A program of some hyperparameters and no operations."""
    hypers = tuple(own.hypers.values())
    return Program("", (), hypers, (), (), (), Value(0), simplexes=own.simplexes)
