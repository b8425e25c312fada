"""Claims settled: proved by algebra, tested by runs, or refuted by a counterexample."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from optdsl.algebra.fix import fix
from optdsl.blending.claims import Claim
from optdsl.diagnostics import Note, Report
from optdsl.ir.evaluate import number
from optdsl.ir.program import Program
from optdsl.prove.equality import equal
from optdsl.prove.equations import differences
from optdsl.prove.trial import STEPS, TOLERANCE, Counterexample, counterexample

__all__ = ["Settlement", "Verdict", "refuted_claims", "settle"]


class Verdict(enum.Enum):
    """How a claim was settled."""

    PROVED = "proved"
    """Equal over the reals, by algebra."""
    TESTED = "tested"
    """Not proved, and no run showed a difference."""
    REFUTED = "refuted"
    """A run shows the opposite, or, of a `misses`, none does."""


@dataclass(frozen=True, eq=False)
class Settlement:
    """A claim and how it was settled.

    Attributes:
        claim: the claim.
        verdict: the verdict on the claim as it stands.
        reason: how the verdict was reached, in a few words.
        equations: of the specification and of the rule, those that differ.
        difference: a run in which specification and rule part, if one was found.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    equations: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    difference: Counterexample | None = None


def settle(program: Program, claim: Claim) -> Settlement:
    """Prove a claim, or else test it, or refute it."""
    settings = dict(claim.settings)
    left, right = fix(program, settings), fix(claim.reference, settings)
    if equal(left, right):
        if claim.holds:
            return Settlement(claim, Verdict.PROVED, "equal over the reals")
        return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")

    def valid(hypers: Mapping[str, float]) -> bool:
        """Whether the rule may have what the claim gives it."""
        bound = {n: number(claim.reference, v, hypers) for n, v in claim.bindings}
        return all(value in claim.domains[name] for name, value in bound.items())

    found, runs = counterexample(program, claim.reference, settings, valid)
    if not runs:
        reason = f"what {claim.rule} is given is outside its bounds in every run"
        return Settlement(claim, Verdict.REFUTED, reason)
    if found is None:
        reason = f"{runs} runs of {STEPS} steps agree to {TOLERANCE:g}"
        return Settlement(claim, Verdict.TESTED if claim.holds else Verdict.REFUTED, reason)
    reason = f"they differ after step {len(found.run.gradients)}"
    if not claim.holds:
        return Settlement(claim, Verdict.PROVED, reason, difference=found)
    mine, theirs = differences(left, right)
    return Settlement(claim, Verdict.REFUTED, reason, (tuple(mine), tuple(theirs)), found)


def refuted_claims(program: Program, claims: Iterable[Claim], report: Report) -> None:
    """Report the claims that are wrong: with the equations that differ, and a run to paste."""
    for claim in claims:
        settlement = settle(program, claim)
        if settlement.verdict is Verdict.REFUTED:
            notes = explanation(program, settlement)
            if settlement.difference is not None:
                test = (f"    {line}".rstrip() for line in snippet(program, settlement))
                notes.append("\n".join(["a test that shows it:", *test]))
            report.error(
                "refuted",
                f"`{claim.text}` is wrong",
                claim.span,
                label=settlement.reason,
                notes=[Note(text) for text in notes],
                hint="change the claim, or the equations",
            )


def explanation(program: Program, settlement: Settlement) -> list[str]:
    """The equations that differ, in words; nothing for a claim that holds."""
    found = []
    lines_differ = any(settlement.equations)
    claim = settlement.claim
    for owner, lines in zip((program.name, claim.rule), settlement.equations, strict=True):
        if lines:
            indented = "".join(f"\n    {line}" for line in lines)
            found.append(f"where they differ, {owner} has{indented}")
    if lines_differ and claim.defaults:
        names = ", ".join(claim.defaults)
        found.append(
            f"{names} of {claim.rule} are its own defaults; give them as options, "
            f"{claim.rule}({claim.defaults[0]} = ...)"
        )
    return found


def snippet(program: Program, settlement: Settlement) -> list[str]:
    """Python that takes the steps of a counterexample with both optimizers, ready to be run."""
    claim, found = settlement.claim, settlement.difference
    assert found is not None
    hypers = dict(found.run.hypers)
    steps = range(1, len(found.run.gradients) + 1)
    bound: dict[str, object] = {}
    for name, value in claim.bindings:
        values = [number(claim.reference, value, hypers, t) for t in steps]
        # What follows a schedule is set anew for every step.
        bound[name] = values[0] if len(set(values)) == 1 else values
    gradients = ", ".join(str(list(g)) for g in found.run.gradients)
    source, rule = claim.span.source.loadable, claim.rule_source
    return [
        "import optdsl",
        "import torch",
        "",
        "def run(name, **hypers):",
        "    def at(t):",
        "        return {k: v[t] if isinstance(v, list) else v for k, v in hypers.items()}",
        "",
        f"    p = torch.nn.Parameter(torch.tensor({list(found.run.theta)}, dtype=torch.float64))",
        "    optimizer = optdsl.load(name, learn=False, verify=False)([p], **at(0))",
        f"    for t, g in enumerate([{gradients}]):",
        "        optimizer.param_groups[0].update(at(t))",
        "        p.grad = torch.tensor(g, dtype=torch.float64)",
        "        optimizer.step()",
        "    return p.detach()",
        "",
        *_called("x", source, hypers),
        *_called("y", rule, bound),
        f"# x is {_numbers(found.left)}",
        f"# y is {_numbers(found.right)}",
        f"torch.testing.assert_close(x, y, rtol={TOLERANCE:g}, atol={TOLERANCE:g})",
    ]


def _called(result: str, name: str, hypers: Mapping[str, object]) -> list[str]:
    arguments = ", ".join(f"{hyper}={value!r}" for hyper, value in hypers.items())
    indented = textwrap.wrap(f"{arguments},", 80, initial_indent="    ", subsequent_indent="    ")
    return [f"{result} = run(", f"    {name!r},", *indented, ")"]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(repr(v) for v in values)
