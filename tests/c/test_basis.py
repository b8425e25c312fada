"""Bases of tangents: sums of their products are the dot products of the tangents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from optdsl import interpret
from optdsl.backends.c.basis import Basis, find_basis
from optdsl.backends.c.collect import collect
from optdsl.differentiate import differentiate
from optdsl.ir.program import Program, Tangent, Value
from optdsl.passes.pipeline import run_passes
from optdsl.plan import plans
from optdsl.plan.keys import pending
from tests.oracles import problems
from tests.oracles.running import read_text
from tests.paper import SIX

from . import rules

SIZE = 50


def differentiated(*lines: str) -> Program:
    """A program with its update in the last line, whose tangent by `w` is the update's factor."""
    of = run_passes(
        read_text("\n".join(["optimizer Rule", "hyper a = 0.5", "hyper b = 2", *lines, ""]))
    )
    return replace(of, tangents=(Tangent("w", of.parameter),))


def basis(of: Program) -> tuple[Program, Basis]:
    tangents = [t.value for t in of.tangents]
    return find_basis(of, [s.next for s in of.states], tangents)


def values(of: Program, asked: tuple[Value, ...], seed: int) -> tuple[Tensor, list[Tensor]]:
    """A gradient, and some values of a program, in float64."""
    generator = problems.seeded(seed)
    hypers = problems.interior_hypers(of, generator) | {pending("t"): 3.0}
    theta, gradient = (problems.randn(generator, SIZE) for _ in range(2))
    state = {s.name: problems.randn(generator, SIZE).abs() + 0.1 for s in of.states}
    named = replace(of, tangents=tuple(Tangent(str(n), v) for n, v in enumerate(asked)))
    found = interpret.step(named, theta, gradient, state, hypers, 4).tangents
    return gradient, [found[str(n)].expand(SIZE) for n in range(len(asked))]


def compared(of: Program, seed: int) -> list[tuple[float, float, float]]:
    """Each dot product as the tangent gives it, and as its basis does, with its magnitude."""
    made, found = basis(of)
    tangents = tuple(t.value for t in of.tangents)
    asked = (*tangents, *found.factors, *found.coefficients)
    g, numbers = values(made, asked, seed)
    known = dict(zip(asked, numbers, strict=True))
    terms = [g.clone() for _ in found.products]
    for term, product in zip(terms, found.products, strict=True):
        for factor in product:
            term *= known[factor]
    pairs = []
    for tangent, weights in zip(tangents, found.weights, strict=True):
        parts = [float(known[c][0]) * terms[k] for k, c in weights]
        size = sum(float(part.abs().sum()) for part in parts)
        pairs.append((float((g * known[tangent]).sum()), sum(float(p.sum()) for p in parts), size))
    return pairs


@pytest.mark.parametrize("rule", ["mada", "adan", "adam_avgrad"])
def test_the_sums_of_products_are_the_dot_products(rule: str) -> None:
    for plan in plans(rules.differentiated(rule), False):
        assert plan.fused is not None
        for seed in range(2):
            for expected, found, size in compared(collect(plan.fused), seed):
                assert found == pytest.approx(expected, abs=1e-13 * size, rel=0)


def test_six_tangents_of_mada_need_eleven_sums() -> None:
    program = differentiate(rules.read("mada"), list(SIX))
    (plan,) = (p for p in plans(program, False) if p.kind == "replay")
    assert plan.fused is not None
    _, found = basis(collect(plan.fused))
    assert len(found.weights) == 6
    assert len(found.products) == 11


STATES = ("state m = 1", "state n = 1", "m' = m", "n' = n")


def test_a_sum_that_is_computed_anyway_is_one_factor() -> None:
    of = differentiated("state m = 1", "m' = a * m + b * g", "theta' = theta * m'")
    _, found = basis(of)
    assert len(found.products) == 1


def test_a_difference_of_leaves_is_not_taken_apart() -> None:
    """Sums of two large numbers would lose what is left of them."""
    of = differentiated(*STATES, "theta' = a * (m - n) * theta + b * theta")
    _, found = basis(of)
    opcodes = {of.operations[f].opcode for f in found.factors}
    assert "sub" in opcodes
    assert "state" not in opcodes


def test_what_does_not_depend_on_the_element_multiplies_the_sum_of_gradients() -> None:
    (pair,) = compared(differentiated(*STATES, "theta' = a * theta + b"), 0)
    assert pair[0] == pytest.approx(pair[1], abs=1e-13 * pair[2], rel=0)
    _, found = basis(differentiated(*STATES, "theta' = a * theta + b"))
    assert () in found.products


def test_a_chunk_with_a_product_too_large_for_its_precision_is_computed_with_care() -> None:
    """Each factor is a float, and the product of gradient and tangent is not."""
    text = "optimizer Sum\nhyper w = 1 in [-9, 9]\nstate m = 0\nm' = g\ntheta' = theta + w * m'\n"
    learn = {"w": rules.Learn("sgd", after=10**9)}
    held = torch.nn.Parameter(torch.zeros(300))
    optimizer = rules.optdsl.compile(text, backend="c", learn=learn)([held])
    held.grad = torch.ones(300)
    held.grad[130] = 1e30
    for _ in range(2):
        optimizer.step()
    large = float(torch.tensor(1e30).double())
    assert optimizer.metrics()["hypergradient/w"] == pytest.approx(large**2, rel=1e-12)
