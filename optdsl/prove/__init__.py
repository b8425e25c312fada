"""Decides claims: by a proof, by runs that show no difference, or by a counterexample."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.algebra import normal_form
from optdsl.algebra.fix import fix, fixed_further, partly_fixed, with_points
from optdsl.blending.claims import Claim
from optdsl.diagnostics import Note, Report
from optdsl.ir.domain import spell
from optdsl.ir.evaluate import Uniforms
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.specialize import in_kind, of_one_matrix
from optdsl.prove.equality import equal, written_alike
from optdsl.prove.equations import differences
from optdsl.prove.kinds import equal_kinds, fixed, with_totals
from optdsl.prove.mixed import spans_tensors
from optdsl.prove.shaken import ALIKE
from optdsl.prove.snippets import snippet
from optdsl.prove.trial import MAX_WORK, Counterexample, Trial, Valid, trial
from optdsl.words import counted

__all__ = ["Settlement", "Verdict", "explanation", "settle", "settle_all", "snippet"]

# A step that no run has.
_NEVER = 10**9


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
        kind: of a rule with sections, the kind of tensors for which they differ.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    equations: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    difference: Counterexample | None = None
    kind: str = ""


def settle(program: Program, claim: Claim, share: int = 1) -> Settlement:
    """Prove, test or refute a claim that a program makes.

    A claim of a rule with sections holds if it holds for every kind. With `share`, the claim may
    take that fraction of the work that one claim may take.
    """
    program, reference = with_points(program, claim.reference)
    kinds, found = program.sections or reference.sections, list[Settlement]()
    if not kinds:
        return _settled(program, reference, claim, share)
    share *= len(kinds)
    both = [with_totals(p) for p in (program, reference)]
    mine, theirs = ([of_one_matrix(in_kind(p, kinds, n)) for n in range(len(kinds))] for p in both)
    pairs = list(zip(mine, theirs, strict=True))
    known: list[bool | None] = [None] * len(kinds)
    settings = dict(_structure(program, claim)) | dict(claim.settings)
    if any(p.tangents for p in both):
        together = [(fixed(left, settings), fixed(right, settings)) for left, right in pairs]
        known = [*equal_kinds(together, normal_form.MAX_WORK // share)]
    for kind, (left, right), proved in zip(kinds, pairs, known, strict=True):
        left, right = (eliminate_dead(replace(p, tangents=())) for p in (left, right))
        found.append(_settled(left, right, claim, share, proved))
        if found[-1].verdict is Verdict.REFUTED:
            return replace(found[-1], reason=f"for {kind}, {found[-1].reason}", kind=kind)
    if claim.holds and spans_tensors([*mine, *theirs]):
        seen = trial(mine, theirs, settings, _valid(claim), MAX_WORK // share, all(known))
        if seen.found is not None:
            reason = _after(seen.found) + _made_at(program, claim)
            return Settlement(claim, Verdict.REFUTED, reason, difference=seen.found)
    doubtful = [s for s in found if s.verdict is Verdict.TESTED]
    reasons = dict.fromkeys(s.reason for s in found)
    if len(reasons) == 1:
        reason = f"{found[0].reason}, for every kind"
    else:
        told = zip(kinds, found, strict=True)
        reason = "; ".join(f"for {k}, {s.reason}" for k, s in told if not doubtful or s in doubtful)
    return replace((doubtful or found)[0], reason=reason)


def _settled(
    program: Program, reference: Program, claim: Claim, share: int, proved: bool | None = None
) -> Settlement:
    """How a claim is settled of a program and a rule without sections.

    `proved` says whether they are known to be equal over the reals; None where that is to be found.
    """
    settings = dict(_structure(program, claim)) | dict(claim.settings)
    work, both = normal_form.MAX_WORK // share, (program, reference)
    quick = not claim.holds and not of_matrices(program.kind)
    if proved is None and not quick:
        proved = _proved(both, settings, work)
    # A proof is about real numbers; runs show whether computed numbers agree with it.
    seen = trial(program, reference, settings, _valid(claim), MAX_WORK // share, proved or False)
    if proved is None and seen.found is None:
        # A difference settles what `misses`, without a proof that there is none.
        proved = _proved(both, settings, work)
    if not seen.runs and not seen.unread:
        reason = f"what {claim.rule} is given is outside its bounds in every run"
        return Settlement(claim, Verdict.REFUTED, reason)
    if seen.found is None:
        if proved and claim.holds and seen.runs and not seen.parted:
            return Settlement(
                claim, Verdict.PROVED, "equal over the reals" + _made_at(program, claim)
            )
        if proved and not claim.holds:
            return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")
        reason = _extent(seen, of_matrices(program.kind)) + _made_at(program, claim)
        return Settlement(claim, Verdict.TESTED if claim.holds else Verdict.REFUTED, reason)
    reason = _after(seen.found) + _made_at(program, claim)
    if not claim.holds and proved and seen.found.run.of_matrices:
        # Without an error analysis, the proof counts for more than the run.
        return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")
    if not claim.holds:
        return Settlement(claim, Verdict.PROVED, reason, difference=seen.found)
    left, right = (fix(p, settings) for p in both)
    mine, theirs = differences(left, right, work)
    return Settlement(claim, Verdict.REFUTED, reason, (tuple(mine), tuple(theirs)), seen.found)


def _valid(claim: Claim) -> Valid:
    """Says whether the values that a claim gives its rule at a step are within its bounds."""
    domains = [claim.domains[name] for name, _ in claim.bindings]
    bound = Uniforms(claim.reference, tuple(value for _, value in claim.bindings))

    def valid(hypers: Mapping[str, float], t: int) -> bool:
        if t > 1 and bound.steady:
            return True
        return all(x in domain for x, domain in zip(bound.at(hypers, t), domains, strict=True))

    return valid


def _after(found: Counterexample) -> str:
    """Where two rules differ, and what of the run may be why."""
    run = found.run
    what = "the points of evaluation" if found.evaluated else "they"
    reason = f"{what} differ after step {len(run.gradients)}"
    if len({part.section for part in run.parts}) > 1:
        reason += ", with tensors of several kinds"
    if any(part.hypers for part in run.parts):
        reason += ", with groups whose hyperparameters differ"
    if any(min(part.missing, default=_NEVER) < len(run.gradients) for part in run.parts):
        reason += ", where a tensor has no gradient in a step"
    return reason


def _proved(both: tuple[Program, Program], settings: Mapping[str, float], work: int) -> bool:
    """Whether two programs are known to be equal over the reals at some settings."""
    left, right = (partly_fixed(p, settings) for p in both)
    if written_alike(left, right):
        return True
    left, right = fixed_further(left), fixed_further(right)
    return written_alike(left, right) or equal(left, right, work)


def _structure(program: Program, claim: Claim) -> dict[str, float]:
    """The values of hyperparameters for which the two programs were made."""
    return dict(program.structure) | dict(claim.structure)


def _made_at(program: Program, claim: Claim) -> str:
    """The same in words, without what the claim says itself."""
    given, made = dict(claim.settings), _structure(program, claim)
    found = [f"{name} = {spell(x)}" for name, x in made.items() if name not in given]
    return f" at {', '.join(found)}" if found else ""


def _extent(seen: Trial, matrices: bool) -> str:
    """What was compared of two programs that agreed, and what was not."""
    reason = f"{counted(seen.runs, 'run')} of up to {seen.steps} steps differ by rounding at most"
    if matrices:
        reason += f", or by {ALIKE:g} of how far they move"
    if seen.unread:
        where = counted(seen.unread, "run")
        reason += f"; {where} left out, whose small matrices lack an axis that a rule declares"
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

    A refuted claim is reported with the equations that differ.
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
                notes.append("`optdsl verify` prints a test that shows it")
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
