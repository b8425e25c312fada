"""Decides claims: by a proof, by runs that show no difference, or by a counterexample."""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.algebra import normal_form
from optdsl.algebra.fix import fix
from optdsl.blending.claims import Claim
from optdsl.diagnostics import Note, Report
from optdsl.ir.evaluate import Uniforms, number
from optdsl.ir.program import Program
from optdsl.prove.equality import equal
from optdsl.prove.equations import differences
from optdsl.prove.trial import MAX_WORK, Counterexample, Trial, trial
from optdsl.words import counted

__all__ = ["Settlement", "Verdict", "explanation", "settle", "settle_all", "snippet"]


class Verdict(enum.Enum):
    """How a claim was settled."""

    PROVED = "proved"
    """`recovers`: equal over the reals, and no run differs. `misses`: a run differs."""
    TESTED = "tested"
    """`recovers` only: no proof was found, and no run differs."""
    REFUTED = "refuted"
    """`recovers`: a run differs. `misses`: no run does, or the two are equal over the reals."""


@dataclass(frozen=True, eq=False)
class Settlement:
    """A claim and how it was settled.

    Attributes:
        claim: the claim.
        verdict: the verdict on the claim as it stands.
        reason: how the verdict was reached, in a few words.
        equations: the equations that differ, of the specification and of the rule.
        difference: a run in which specification and rule differ, if one was found.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    equations: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    difference: Counterexample | None = None


def settle(program: Program, claim: Claim, share: int = 1) -> Settlement:
    """Prove, test or refute a claim that a program makes.

    With `share`, the claim may take that fraction of the work that one claim may take.
    """
    settings = dict(claim.settings)
    left, right = fix(program, settings), fix(claim.reference, settings)
    work = normal_form.MAX_WORK // share
    proved = equal(left, right, work)

    domains = [claim.domains[name] for name, _ in claim.bindings]
    bound = Uniforms(claim.reference, tuple(value for _, value in claim.bindings))

    def valid(hypers: Mapping[str, float], t: int) -> bool:
        """Whether the values that the claim gives the rule at a step are in its bounds."""
        if t > 1 and bound.steady:
            return True
        return all(x in domain for x, domain in zip(bound.at(hypers, t), domains, strict=True))

    # A proof is about real numbers; runs show whether computed numbers agree with it.
    seen = trial(program, claim.reference, settings, valid, MAX_WORK // share)
    if not seen.runs:
        reason = f"what {claim.rule} is given is outside its bounds in every run"
        return Settlement(claim, Verdict.REFUTED, reason)
    if seen.found is None:
        if proved and claim.holds and not seen.parted:
            return Settlement(claim, Verdict.PROVED, "equal over the reals")
        if proved and not claim.holds:
            return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")
        return Settlement(claim, Verdict.TESTED if claim.holds else Verdict.REFUTED, _extent(seen))
    reason = f"they differ after step {len(seen.found.run.gradients)}"
    if not claim.holds:
        return Settlement(claim, Verdict.PROVED, reason, difference=seen.found)
    mine, theirs = differences(left, right, work)
    return Settlement(claim, Verdict.REFUTED, reason, (tuple(mine), tuple(theirs)), seen.found)


def _extent(seen: Trial) -> str:
    """What was compared of two programs that agreed, and what was not."""
    reason = f"{counted(seen.runs, 'run')} of up to {seen.steps} steps differ by rounding at most"
    if seen.parted:
        reason += (
            f"; in {counted(seen.parted, 'run')} rounding may have decided that they are far apart"
        )
    if seen.unexplained:
        where = counted(seen.unexplained, "run")
        reason += f"; in {where} rounding is too large to explain anything, so nothing was tested"
    if seen.beyond is not None:
        reason += f"; what changes after step {seen.beyond:,} was not reached"
    if seen.far is not None:
        reason += f"; a state is compared with {seen.far:,}, which a count of steps did not reach"
    if seen.unseen:
        reason += f"; {counted(seen.unseen, 'condition')} went one way only"
    return reason


def settle_all(program: Program, claims: Sequence[Claim], report: Report) -> None:
    """Report refuted claims, and add a note about each claim that was only tested.

    A refuted claim is reported with the equations that differ, and with code that shows it.
    """
    for claim in claims:
        settlement = settle(program, claim, len(claims))
        if settlement.verdict is Verdict.TESTED:
            report.remark(
                "note",
                "tested",
                f"`{claim.text}` was tested, and not proved",
                claim.span,
                label=settlement.reason,
            )
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
    """The equations that differ, in words; empty for a claim that holds."""
    found, claim = [], settlement.claim
    for owner, lines in zip((program.name, claim.rule), settlement.equations, strict=True):
        if lines:
            found.append("\n    ".join([f"where they differ, {owner} has", *lines]))
    if found and claim.defaults:
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
        # A value that changes from step to step is given as a list.
        bound[name] = values[0] if len(set(values)) == 1 else values
    gradients = str([list(g) for g in found.run.gradients])
    if len(steps) > 2 and len(set(found.run.gradients)) == 1:
        gradients = f"[{list(found.run.gradients[0])}] * {len(steps)}"
    source, rule = claim.source or claim.span.source.loadable, claim.rule_source
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
        f"    for t, g in enumerate({gradients}):",
        "        optimizer.param_groups[0].update(at(t))",
        "        p.grad = torch.tensor(g, dtype=torch.float64)",
        "        optimizer.step()",
        "    return p.detach()",
        "",
        *_called("x", source, hypers),
        *_called("y", rule, bound),
        f"# x is {', '.join(map(repr, found.left))}",
        f"# y is {', '.join(map(repr, found.right))}",
        f"torch.testing.assert_close(x, y, rtol={found.tolerance:g}, atol={found.tolerance:g})",
    ]


def _called(result: str, name: str, hypers: Mapping[str, object]) -> list[str]:
    arguments = ", ".join(f"{hyper}={value!r}" for hyper, value in hypers.items())
    indented = textwrap.wrap(f"{arguments},", 80, initial_indent="    ", subsequent_indent="    ")
    return [f"{result} = run(", f"    {name!r},", *indented, ")"]
