"""Decides claims: by a proof, by runs that show no difference, or by a counterexample."""

from __future__ import annotations

import enum
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.algebra import normal_form
from optdsl.algebra.fix import fix
from optdsl.blending.claims import Claim
from optdsl.diagnostics import Note, Report
from optdsl.ir.domain import Choice, Domain, spell, spell_in
from optdsl.ir.evaluate import Uniforms, number
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices, read_as, section_of
from optdsl.passes.specialize import in_kind, of_one_matrix
from optdsl.prove.equality import equal
from optdsl.prove.equations import differences
from optdsl.prove.shaken import ALIKE
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
    kinds, found = program.sections or claim.reference.sections, list[Settlement]()
    if not kinds:
        return _settled(program, claim.reference, claim, share)
    for section, kind in enumerate(kinds):
        both = (in_kind(p, kinds, section) for p in (program, claim.reference))
        left, right = map(of_one_matrix, both)
        found.append(_settled(left, right, claim, share * len(kinds)))
        if found[-1].verdict is Verdict.REFUTED:
            return replace(found[-1], reason=f"for {kind}, {found[-1].reason}", kind=kind)
    doubtful = [s for s in found if s.verdict is Verdict.TESTED]
    reasons = dict.fromkeys(s.reason for s in found)
    if len(reasons) == 1:
        reason = f"{found[0].reason}, for every kind"
    else:
        told = zip(kinds, found, strict=True)
        reason = "; ".join(f"for {k}, {s.reason}" for k, s in told if not doubtful or s in doubtful)
    return replace((doubtful or found)[0], reason=reason)


def _settled(program: Program, reference: Program, claim: Claim, share: int) -> Settlement:
    """How a claim is settled of a program and a rule without sections."""
    settings = dict(_structure(program, claim)) | dict(claim.settings)
    left, right = fix(program, settings), fix(reference, settings)
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
    seen = trial(program, reference, settings, valid, MAX_WORK // share, proved)
    if not seen.runs:
        reason = f"what {claim.rule} is given is outside its bounds in every run"
        return Settlement(claim, Verdict.REFUTED, reason)
    if seen.found is None:
        if proved and claim.holds and not seen.parted:
            return Settlement(
                claim, Verdict.PROVED, "equal over the reals" + _made_at(program, claim)
            )
        if proved and not claim.holds:
            return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")
        reason = _extent(seen, of_matrices(program.kind)) + _made_at(program, claim)
        return Settlement(claim, Verdict.TESTED if claim.holds else Verdict.REFUTED, reason)
    reason = f"they differ after step {len(seen.found.run.gradients)}" + _made_at(program, claim)
    if not claim.holds and proved and seen.found.run.shape is not None:
        # Without an error analysis, the proof counts for more than the run.
        return Settlement(claim, Verdict.REFUTED, "the two are equal over the reals")
    if not claim.holds:
        return Settlement(claim, Verdict.PROVED, reason, difference=seen.found)
    mine, theirs = differences(left, right, work)
    return Settlement(claim, Verdict.REFUTED, reason, (tuple(mine), tuple(theirs)), seen.found)


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
    shape, chosen = _tensor(program, settlement)
    reshaped = f".reshape{shape}" if shape else ""
    group = f'{{"params": [p], "kind": {settlement.kind!r}}}' if chosen else "p"
    return [
        "import optdsl",
        "import torch",
        "",
        "def run(name, **hypers):",
        "    def at(t):",
        "        return {k: v[t] if isinstance(v, list) else v for k, v in hypers.items()}",
        "",
        *_parameter(list(found.run.theta), reshaped),
        f"    optimizer = optdsl.load(name, learn=False, verify=False)([{group}], **at(0))",
        f"    for t, g in enumerate({gradients}):",
        "        optimizer.param_groups[0].update(at(t))",
        f"        p.grad = torch.tensor(g, dtype=torch.float64){reshaped}",
        "        optimizer.step()",
        f"    return p.detach(){'.flatten()' if reshaped else ''}",
        "",
        *_called("x", source, hypers, {h.name: h.domain for h in program.hypers}),
        *_called("y", rule, bound, claim.domains),
        f"# x is {', '.join(map(repr, found.left))}",
        f"# y is {', '.join(map(repr, found.right))}",
        f"torch.testing.assert_close(x, y, rtol={found.tolerance:g}, atol={found.tolerance:g})",
    ]


def _spelled(value: object, domain: Domain) -> str:
    """The value of a hyperparameter in Python, where labels are strings."""
    labelled = isinstance(domain, Choice) and domain.labels and isinstance(value, float)
    return repr(spell_in(domain, value) if labelled else value)  # type: ignore[arg-type]


def _parameter(numbers: list[float], reshaped: str) -> list[str]:
    """The lines that make the parameter."""
    if not reshaped:
        return [f"    p = torch.nn.Parameter(torch.tensor({numbers}, dtype=torch.float64))"]
    return [
        f"    x = torch.tensor({numbers}, dtype=torch.float64)",
        f"    p = torch.nn.Parameter(x{reshaped})",
    ]


def _tensor(program: Program, settlement: Settlement) -> tuple[tuple[int, ...], bool]:
    """A shape for the parameter of a counterexample, () for a row of numbers.

    The second result is whether its group must choose the kind, which no shape alone is of.
    """
    assert settlement.difference is not None
    run, kinds = settlement.difference.run, program.sections or settlement.claim.reference.sections
    if not kinds:
        return (), False
    shapes: list[tuple[int, ...]] = [(n := len(run.theta),), (n, 1), (n, 1, 1)]
    if run.shape is not None:
        rows, cols = run.shape[1:]
        shapes = [(rows, cols), run.shape, (rows, cols, 1)]
    wanted = kinds.index(settlement.kind)
    for shape in shapes:
        read = read_as(settlement.kind, shape)[-2:]
        fits = run.shape is None or (math.prod(shape) == len(run.theta) and read == run.shape[1:])
        if fits and section_of(kinds, shape) == wanted:
            return (shape if len(shape) > 1 else ()), False
    return (shapes[0] if len(shapes[0]) > 1 else ()), True


def _called(
    result: str, name: str, hypers: Mapping[str, object], domains: Mapping[str, Domain]
) -> list[str]:
    arguments = ", ".join(f"{h}={_spelled(x, domains[h])}" for h, x in hypers.items())
    indented = textwrap.wrap(f"{arguments},", 80, initial_indent="    ", subsequent_indent="    ")
    return [f"{result} = run(", f"    {name!r},", *indented, ")"]
