"""Verifies what a specification states: its claims, its convexity and its hyper-gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optdsl.blending import Combination
from optdsl.blending.claims import Claim
from optdsl.diagnostics import Source
from optdsl.differentiate import differentiate
from optdsl.interpret import initial_state, step
from optdsl.ir.domain import hull
from optdsl.ir.lengths import own_lengths
from optdsl.ir.program import Program
from optdsl.ir.sections import example
from optdsl.passes.pipeline import run_passes
from optdsl.passes.specialize import in_kind
from optdsl.prove import Verdict, explanation, settle, snippet
from optdsl.specifications.library import specification
from optdsl.words import counted

# Errors of rounding are far smaller than these tolerances, and wrong derivatives exceed them.
AUTOGRAD_TOLERANCE = 1e-9
DIFFERENCES_TOLERANCE = 1e-5
_WIDTH = 1e-5
_STEPS = 4
_ELEMENTS = 7
# The longest axis that a rule declares, in a run, whose matrices are small.
_LONGEST = 1000


@dataclass(frozen=True)
class Statement:
    """A statement of a specification about itself.

    Attributes:
        text: the statement.
        verdict: how it was settled.
        reason: why, in a few words.
        details: for a refuted statement, what differs.
        test: for a refuted statement, Python code that shows it.
    """

    text: str
    verdict: Verdict
    reason: str
    details: tuple[str, ...] = ()
    test: str = ""


def verify(source: Source) -> tuple[Statement, ...]:
    """Settle the claims, the convexity and the hyper-gradients of a specification.

    Raises:
        SpecError: for a specification with mistakes, which refuted claims are not here.
    """
    found = specification(source, verify=False)
    statements = [_claim(found.program, claim) for claim in found.claims]
    statements += [_convex(c) for c in found.combinations]
    if found.program.learned:
        statements += _hypergradients(replace(found.program, learned=()), found.program)
    return tuple(statements)


def _claim(program: Program, claim: Claim) -> Statement:
    settled = settle(program, claim)
    refuted = settled.verdict is Verdict.REFUTED and settled.difference is not None
    test = "\n".join(snippet(program, settled)) if refuted else ""
    details = tuple(explanation(program, settled))
    return Statement(claim.text, settled.verdict, settled.reason, details, test)


def _convex(combination: Combination) -> Statement:
    text = f"{combination.slot} is a convex combination of {', '.join(combination.parts)}"
    corners = counted(combination.corners, "corner")
    reason = f"weights sum to one and lie in [0, 1] at {corners}"
    return Statement(text, Verdict.PROVED, reason)


def _hypergradients(program: Program, learned: Program) -> list[Statement]:
    """Compare the tangents of the compiler with autograd and with central differences."""
    names = [x.hyper for x in learned.learned]
    shapes, untried = _shapes(program)
    derived = run_passes(differentiate(program, names))
    points = [p for shape in shapes for p in _points(program, shape, inside=True)]
    tangents = [step(derived, *p).tangents for p in points]
    plain = [p for shape in shapes for p in _points(program, shape, inside=False)]
    starting = [step(derived, *p).tangents for p in plain]
    statements = []
    for name in names:
        verdict, reason = Verdict.REFUTED, "not finite at the values that the file gives"
        if not shapes:
            verdict, reason = Verdict.TESTED, f"nothing was tested: not for {', '.join(untried)}"
        elif all(bool(t[name].isfinite().all()) for t in starting):
            found = [t[name] for t in tangents]
            # At sqrt(0), autograd makes NaN of 0 / 0, and only central differences tell.
            by_tape = zip((_autograd(program, p, name) for p in points), found, strict=True)
            tape = _distance(found, [torch.where(e.isfinite(), e, f) for e, f in by_tape])
            differences = _distance(found, [_central(program, p, name) for p in points])
            good = tape < AUTOGRAD_TOLERANCE and differences < DIFFERENCES_TOLERANCE
            reason = f"{tape:.0e} from autograd, {differences:.0e} from central differences"
            reason += f"; not for {', '.join(untried)}" if untried else ""
            verdict = Verdict.TESTED if good else Verdict.REFUTED
        statements.append(Statement(f"hyper-gradient of {name}", verdict, reason))
    return statements


# A step: parameter, gradient, states before it, hyperparameters, t.
Point = tuple[Tensor, Tensor, dict[str, Tensor], dict[str, float], int]


def _shapes(program: Program) -> tuple[list[tuple[int, ...]], list[str]]:
    """The shape of a tensor of each kind, and the kinds that are not tried.

    These are the ones that no shape says to be theirs, and those of whose small matrices one lacks
    an axis that the rule declares, or has a long one.
    """
    if not program.sections:
        return [(_ELEMENTS,)], []
    shapes, missing = [], []
    for section, kind in enumerate(program.sections):
        shape = example(program.sections, section)
        if shape is None or not _has_axes(in_kind(program, program.sections, section), shape):
            missing.append(kind)
        else:
            shapes.append(shape)
    return shapes, missing


def _has_axes(program: Program, shape: tuple[int, ...]) -> bool:
    try:
        lengths = own_lengths(program, shape, program.defaults)
    except ValueError:
        return False
    return max(lengths.values(), default=0) <= _LONGEST


def _points(program: Program, shape: tuple[int, ...], inside: bool) -> list[Point]:
    """The steps of a short run, with default coefficients or with coefficients inside bounds."""
    generator = torch.Generator().manual_seed(0)
    hypers = program.defaults
    for hyper in program.hypers if inside else ():
        bounds = hull(hyper.domain)
        if hyper.domain.discrete:
            continue
        if bounds.upper - bounds.lower < math.inf:
            hypers[hyper.name] = 0.7 * hyper.default + 0.15 * (bounds.lower + bounds.upper)
        elif hyper.default in (bounds.lower, bounds.upper):
            hypers[hyper.name] += 0.1 if hyper.default == bounds.lower else -0.1
    for simplex in program.simplexes if inside else ():
        for name in simplex.hypers:
            rest = 0.3 / len(simplex.hypers)
            hypers[name] = 0.7 * program.hyper(name).default + rest
    theta = torch.randn(shape, generator=generator, dtype=torch.float64)
    state: dict[str, Tensor] = {}
    points = []
    for t in range(1, _STEPS + 1):
        g = torch.randn(shape, generator=generator, dtype=torch.float64)
        g.view(-1)[0] = 0  # an element that never has a gradient
        state = state or initial_state(program, theta, g, hypers)
        points.append((theta, g, state, hypers, t))
        after = step(program, theta, g, state, hypers, t)
        theta, state = after.parameter, after.state
    return points


def _autograd(program: Program, point: Point, name: str) -> Tensor:
    """The derivative of the new parameter by a hyperparameter, from autograd's tape."""
    theta, g, state, hypers, t = point

    def parameter(value: Tensor) -> Tensor:
        return step(program, theta, g, state, {**hypers, name: value}, t).parameter

    at = torch.tensor(hypers[name], dtype=torch.float64)
    found = torch.autograd.functional.jacobian(parameter, at)  # type: ignore[no-untyped-call]
    assert isinstance(found, Tensor)
    return found


def _central(program: Program, point: Point, name: str) -> Tensor:
    """The derivative by a hyperparameter as the central difference of two steps beside a point.

    The values of ``stop_gradient`` are those at the point in both steps.
    """
    theta, g, state, hypers, t = point

    def parameter(offset: float, stop_gradient: Callable[[Tensor], Tensor]) -> Tensor:
        values = {**hypers, name: hypers[name] + offset}
        return step(program, theta, g, state, values, t, stop_gradient).parameter

    held: list[Tensor] = []

    def hold(x: Tensor) -> Tensor:
        held.append(x)
        return x

    parameter(0.0, hold)
    again = iter(2 * held)
    width = _WIDTH * max(abs(hypers[name]), 0.1)
    ahead, behind = (parameter(offset, lambda _: next(again)) for offset in (width, -width))
    return (ahead - behind) / (2 * width)


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of two lists of tensors, relative to the largest number in them."""
    x, y = (torch.cat([z.flatten() for z in tensors]) for tensors in (found, expected))
    scale = max(float(x.abs().max()), float(y.abs().max()), torch.finfo(x.dtype).tiny)
    return float((x - y).abs().max()) / scale
