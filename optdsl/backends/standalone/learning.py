"""The functions of a standalone file that learn coefficients, and the statements that call them.

Derivatives of the step before are kept in the states of tensors, as the eager backend keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import EntryPoint
from optdsl.backends.eager import emit_function
from optdsl.backends.emitted import EmittedFunction, wrapped
from optdsl.backends.naming import identifier
from optdsl.backends.standalone import texts_of_learning as texts
from optdsl.backends.standalone.lines import listed
from optdsl.backends.standalone.rule import Rule
from optdsl.ir.domain import Interval
from optdsl.learning import SQUARE, TAKEN, Block, Coefficient, measured_key, square_keys
from optdsl.plan.keys import tangent
from optdsl.schedule import Result, make_kernel


def moves(rule: Rule) -> list[EmittedFunction]:
    """The functions that compute new coefficients, one for each block."""
    return [_move(block) for block in rule.blocks]


def _move(block: Block) -> EmittedFunction:
    program = block.program
    name = "_".join(["move", *(identifier(c.name) for c in block.coefficients)])
    results = tuple(Result(s.name, s.next, s.type) for s in program.states)
    return emit_function(make_kernel(name, program, results), numbers=True)


def coefficients(rule: Rule, scope: str = "") -> list[Coefficient]:
    """What is learned, or what is learned for a scope."""
    own = [c for block in rule.blocks for c in block.coefficients]
    return [c for c in own if scope in {"", c.learned.scope}]


def common(rule: Rule) -> list[str]:
    """The entries of groups that are the same in all of them, since they share a coefficient."""
    return [key for c in coefficients(rule, "optimizer") for key in (c.name, *c.defaults())]


def bounds(rule: Rule) -> dict[str, Interval]:
    """The bounds of what is learned."""
    return {c.name: c.learned.bounds for c in coefficients(rule)}


def functions(rule: Rule, entries: Sequence[EntryPoint]) -> list[str]:
    """The tables and functions of learning; none of a rule that learns nothing.

    Args:
        rule: the rule.
        entries: those of `moves`.
    """
    if not rule.blocks:
        return []
    learned = coefficients(rule)
    rows = [f'"{key}": 0.0' for c in learned for key in c.defaults()]
    tables = listed("LEARNED = (", (c.name for c in learned))
    tables += wrapped("LEARNING = {", rows, "}")
    cosines = [c.name for c in learned if c.learned.signal == "cosine"]
    square = texts.SQUARE if any(c.learned.signal == "normalized" for c in learned) else ""
    measured = texts.HYPERGRADIENTS.replace("@TANGENT@", tangent(learned[0].name))
    measured = measured.replace("@PART@", "_, " if len(rule.parts) > 1 else "")
    if cosines:
        tables += listed("COSINES = (", cosines)
    measured = measured.replace("@COSINES@\n", f"{texts.COSINES if cosines else ''}{square}")
    tables += listed("COMMON = (", common(rule)) if common(rule) else []
    found = ["\n".join([texts.COMMENT, *tables]), measured]
    found += [texts.AGREE] if common(rule) else []
    found += [texts.STEPS] if _waits(rule) else []
    for scope, name, what in _SCOPES:
        pairs = [p for p in zip(rule.blocks, entries, strict=True) if p[0].scope == scope]
        if pairs:
            lines = [line for block, entry in pairs for line in _moved(block, entry)]
            text = texts.LEARN.replace("@NAME@", name).replace("@WHAT@", what)
            found.append(text.replace("@MOVES@", "\n    ".join(lines)))
    if coefficients(rule, "group") and coefficients(rule, "optimizer"):
        found.append(texts.TOTAL)
    return found


_SCOPES = (
    ("optimizer", "learn", "what parameter groups share"),
    ("group", "learn_of_group", "the coefficients of a parameter group"),
)


def _moved(block: Block, entry: EntryPoint) -> list[str]:
    """The statements that compute the entries of a block after a step."""
    sums = {measured_key(c.name): f'sums["{c.name}"]' for c in block.coefficients}
    sums |= {key: f'sums["{key}"]' for c in block.coefficients for key in square_keys(c.name)}
    sums |= {TAKEN: "taken", SQUARE: f'sums["{SQUARE}"]'}
    arguments = [f'float(group["{name}"])' for name in entry.states]
    pairs = zip(entry.keywords, entry.hypers, strict=True)
    arguments += [f"{keyword}={sums[hyper]}" for keyword, hyper in pairs]
    names = listed("names = (", entry.results)
    return [*wrapped(f"found = {entry.name}(", arguments, ")"), *names, texts.MOVED]


def measuring(rule: Rule) -> list[str]:
    """The statements of a step that measure hyper-gradients, before anything moves."""
    if not rule.blocks:
        return []
    if not coefficients(rule, "group"):
        taken = "steps_of(self.state, self.state)" if _waits(rule) else "0.0"
        return ["sums = hypergradients(work, self.state)", f"taken = {taken}"]
    lines = [
        "parts = [[x for x in work if x[-1] is hypers] for hypers in groups]",
        "sums = [hypergradients(part, self.state) for part in parts]",
    ]
    if not _waits(rule):
        return [*lines, "taken = [0.0 for _ in groups]"]
    lines.append('taken = [steps_of(self.state, x["params"]) for x in self.param_groups]')
    return lines


def _waits(rule: Rule) -> bool:
    """Whether something is learned only after some steps."""
    return any(c.learned.after for c in coefficients(rule))


def learning(rule: Rule) -> list[str]:
    """The statements of a step that move the coefficients."""
    if not rule.blocks:
        return []
    lines = []
    grouped = bool(coefficients(rule, "group"))
    if coefficients(rule, "optimizer"):
        given = "total(sums), max(taken)" if grouped else "sums, taken"
        lines += [f"learn(self.param_groups, {given})"]
    if grouped:
        lines += [
            "for group, own, steps in zip(self.param_groups, sums, taken, strict=True):",
            "    learn_of_group([group], own, steps)",
        ]
    if rule.order == "exact":
        lines += [
            "for group, hypers in zip(self.param_groups, groups, strict=True):",
            "    hypers.update((name, group[name]) for name in LEARNED)",
        ]
    return lines
