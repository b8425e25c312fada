"""Claims, `recovers` and `misses`: which rule a specification is at some coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optdsl.blending.claimed import Names, check_options, label_in, option_of, settings_of
from optdsl.blending.members import listed, members, read_as_they_are
from optdsl.blending.structure import Again, Undecided, check_kinds, check_made, choices, made
from optdsl.blending.world import World, world
from optdsl.diagnostics import Report, Source, Span
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Choice, Domain, Interval, closed, hull, relabelled, spell
from optdsl.ir.evaluate import number as evaluated
from optdsl.ir.ops import TABLE, unaliased
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.ranges import ranges
from optdsl.ir.verify import verify
from optdsl.lower.declarations import Declared, declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.scope import Scope
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast
from optdsl.syntax.format import statement

MAX_CLAIMS = 100
# How many operations the claims of a file may be about, those of a rule for each.
MAX_CLAIMED = 200_000


@dataclass(frozen=True, eq=False)
class Claim:
    """A specification takes the same steps as a rule, or does not, at fixed coefficients.

    Attributes:
        holds: True for `recovers` (it takes the same steps), False for `misses` (it does not).
        text: the claim in one line.
        span: where it is made.
        rule: the rule's name, as the claim has it.
        rule_source: the name of the rule's own file.
        reference: the rule as a program over the specification's hyperparameters.
        bindings: for each hyperparameter of the rule, its value in `reference`.
        domains: the domains of the rule's hyperparameters.
        defaults: the hyperparameters of the rule that have their default values.
        settings: the values of the fixed coefficients, by hyperparameter.
        source: where the specification is that the claim is about, if not in the claim's own file.
        structure: the hyperparameters that decide what the operations of the two are, with the
            values for which these were made.
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
    structure: tuple[tuple[str, float], ...] = ()


def claims(
    names: Names,
    programs: Mapping[str, Program],
    sources: Mapping[str, Source],
    again: Again,
) -> tuple[Claim, ...]:
    """The claims of a file; mistakes in them are reported.

    Args:
        names: the file, and what its statements may use.
        programs: the rules that it refers to, by the names it has for them.
        sources: their texts.
        again: makes a rule for other values of what decides what its operations are.
    """
    found, size = list[Claim](), 0
    scope = names.scope
    claimed = [s for s in scope.declaration.statements if isinstance(s, ast.Claim)]

    def too_large(message: str, node: ast.Claim, label: str) -> tuple[Claim, ...]:
        hint = "keep those that matter"
        scope.report.error("too-large", message, node.span, label=label, hint=hint)
        return ()

    if len(claimed) > MAX_CLAIMS:
        label = f"at most {MAX_CLAIMS} are settled"
        return too_large(f"the file makes {len(claimed):,} claims", claimed[MAX_CLAIMS], label)
    for node in claimed:
        rule = programs.get(node.rule.text)
        if rule is None:
            continue
        size += len(names.program.operations) + len(rule.operations)
        if size > MAX_CLAIMED:
            message = f"the claims are about more than {MAX_CLAIMED:,} operations"
            return too_large(message, node, "the limit is reached here")
        # A mistake in one claim hides nothing of the next one.
        own = replace(scope, report=Report())
        claim = _claim(node, rule, sources[node.rule.text], replace(names, scope=own), again)
        scope.report.include(own.report)
        if claim is not None:
            found.append(claim)
    return tuple(found)


def _claim(
    node: ast.Claim, rule: Program, source: Source, names: Names, again: Again
) -> Claim | None:
    """A claim, its rule's hyperparameters given by options, by the blend, or by their names."""
    report = names.scope.report
    settings = settings_of(node, names)
    check_options(node, rule, names)
    check_kinds(node, rule, names.program, report)
    check_made(node, names.program, settings, report)
    if not report.empty or not names.program.operations:
        return None
    options = {option.name.text: option.value for option in node.options}
    bindings: dict[str, Value] = {}
    defaults: dict[str, None] = {}

    def given(lowering: Lowering, hyper: str) -> Value | None:
        builder = lowering.builder
        if hyper in options:
            label = label_in(options[hyper], rule.hyper(hyper).domain)
            if label is not None:
                return builder.constant(label)
            environment = {
                name: builder.emit("hyper", attribute=flat)
                for name, flat in names.spellings.items()
            }
            value = lowering.expression(options[hyper], environment)
            return option_of(value, hyper, options[hyper], builder, report)
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
        value = given(Lowering(names.scope, builder), hyper)
        if value is not None:
            bindings[hyper] = value
        return value

    own = names.program
    lowering = Lowering(names.scope, Builder())
    known = choices({h.name: h for h in own.hypers}, dict(own.structure) | settings)
    try:
        remade = made(
            rule,
            lambda hyper: given(lowering, hyper),
            lowering.builder,
            known,
            lambda wanted: again(node.rule.text, wanted),
        )
    except Undecided as error:
        report.error(
            "structure",
            f"`{error.hyper}` decides what the operations of `{node.rule.text}` are",
            node.rule.span,
            label="not known when the claim is settled",
            hint=f"give it as a number, {node.rule.text}({error.hyper} = ...)",
        )
        return None
    bound = read_as_they_are(node.rule, remade.program, own.sections, report)
    bound = rewrite(bound, substitute)
    if not report.empty:
        return None
    bound = replace(bound, hypers=own.hypers, learned=(), simplexes=own.simplexes, structure=())
    _check_bindings(node, bound, rule, bindings, settings, report)
    return Claim(
        node.holds,
        statement(node),
        node.span,
        node.rule.text,
        source.loadable,
        verify(bound),
        tuple(bindings.items()),
        {h.name: h.domain for h in rule.hypers},
        tuple(defaults),
        tuple(settings.items()),
        structure=tuple(remade.structure.items()),
    )


def _check_bindings(
    node: ast.Claim,
    bound: Program,
    rule: Program,
    bindings: Mapping[str, Value],
    settings: Mapping[str, float],
    report: Report,
) -> None:
    """The values that a claim gives to the hyperparameters of the rule must be within their bounds.

    Every value of an option must be. A hyperparameter of the specification that the rule has under
    the same name may have wider bounds; the claim is then about the values within both bounds.
    """
    found = ranges(bound, settings)
    options = {option.name.text: option for option in node.options}
    for name, value in bindings.items():
        allowed, actual = rule.hyper(name).domain, found[value]
        option, fixed = options.get(name), _fixed(bound, value, settings)
        span = option.value.span if option else node.rule.span
        if fixed is not None:
            possible = fixed in allowed
        elif option is not None:
            possible = closed(hull(allowed)).includes(closed(actual))
        else:
            possible = _overlap(actual, allowed)
        given_by = bound.operations[unaliased(bound.operations, value)]
        own = str(given_by.attribute) if given_by.opcode == "hyper" else ""
        if own and relabelled(bound.hyper(own).domain, allowed):
            report.error(
                "labels",
                f"`{name}` of `{rule.name}` is given a choice with other labels",
                span,
                label=f"must be a choice from {allowed}",
                hint=f"give it another value as an option, {rule.name}({name} = ...)",
            )
        if possible:
            continue
        leaves = f"cannot lie in {actual}" if option is None else "can leave its bounds"
        given = leaves if fixed is None else f"cannot be {spell(fixed)}"
        report.error(
            "out-of-bounds",
            f"`{name}` of `{rule.name}` {given}",
            span,
            label=f"must lie in {allowed}",
            hint="" if option else f"give it as an option, {rule.name}({name} = ...)",
        )


def _fixed(program: Program, value: Value, settings: Mapping[str, float]) -> float | None:
    """The value of an expression at some settings; None if it depends on anything else."""
    behind = [program.operations[v] for v in program.needed((value,))]
    given = [o for o in behind if TABLE[o.opcode].leaf and o.opcode != "constant"]
    known = all(o.opcode == "hyper" and o.attribute in settings for o in given)
    return evaluated(program, value, settings) if known else None


def _overlap(actual: Interval, allowed: Domain) -> bool:
    """Whether a number of an interval may lie in a domain."""
    if isinstance(allowed, Choice):
        return any(x in actual for x in allowed.values)
    lower, upper = max(actual.lower, allowed.lower), min(actual.upper, allowed.upper)
    if lower == upper:
        return lower in actual and lower in allowed
    return lower < upper


def names_of(scope: Scope, program: Program, world: World | None = None) -> Names:
    """The names that the claims of a file may use; of a blend, with those of its members."""
    if world is not None:
        return Names(scope, program, world.learnable, world.spellings, world)
    own = Declared({h.name: h for h in program.hypers}, program.simplexes)
    single = {name: name for name, hypers in own.learnable.items() if hypers == (name,)}
    return Names(scope, program, own.learnable, single)


def names_of_mistaken(scope: Scope, programs: Mapping[str, Program]) -> Names:
    """The names that the claims of a file with mistakes may use.

    The mistakes themselves, and names that are unknown because of them, are not reported again.
    """
    silent = replace(scope, report=Report())
    own = declared(silent)
    broken = scope.broken | ({*scope.hypers, *scope.weights} - own.learnable.keys())
    if not scope.declaration.blend:
        return names_of(replace(scope, broken=broken), _empty(own))
    found = members(scope.declaration, programs, silent.report)
    broken |= listed(scope.declaration) - found.keys()
    settled = world(replace(silent, broken=broken), found, own)
    return names_of(replace(scope, broken=broken), _empty(settled.declared), settled)


def _empty(own: Declared) -> Program:
    """A program of some hyperparameters and no operations."""
    return Program(hypers=tuple(own.hypers.values()), simplexes=own.simplexes)
