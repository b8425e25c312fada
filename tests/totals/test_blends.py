"""Blends of rules with sums over all tensors and with inputs: endpoints, ranges, learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn, SpecError
from optdsl.compose import blend_source
from optdsl.prove import Verdict, settle
from optdsl.specifications import library

pytestmark = pytest.mark.broad(2)

SHAPES = [(4, 3), (3, 4), (5,), ()]
BACKENDS = ["eager", "auto"]
PAIRS = [
    ("prodigy", "adamw"),
    ("adamw with clip", "lion"),
    ("prodigy", "muon"),
    ("muon with clip", "adamw"),
    ("sophia_g", "muon"),
]


def randn(seed: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def trained(cls: Any, steps: int = 4, **hypers: float) -> list[Tensor]:
    parameters = [nn.Parameter(randn(n, s)) for n, s in enumerate(SHAPES)]
    optimizer = cls(parameters, **hypers)
    asks = any(s.input for s in cls.compiled.program.states)
    for t in range(steps):
        for n, p in enumerate(parameters):
            p.grad = randn(100 * t + n, tuple(p.shape))
        given = {p: randn(7 * t, tuple(p.shape)).square() for p in parameters}
        optimizer.step(inputs={"hessian": given} if asks and t % 3 == 0 else None)
    return [p.detach() for p in parameters]


@pytest.mark.parametrize(
    "rules", [PAIRS[2], PAIRS[4], ("adafactor with clip", "adam")], ids="-".join
)
def test_a_blend_is_proved_to_be_each_member(rules: tuple[str, str]) -> None:
    found = library.specification(blend_source(rules), verify=False)
    for claim in found.claims:
        settled = settle(found.program, claim)
        assert settled.verdict is Verdict.PROVED, settled.reason


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize(
    ("rules", "backend"),
    [(PAIRS[0], "auto"), (PAIRS[1], "auto"), (PAIRS[2], "eager"), (PAIRS[3], "auto"),
     (PAIRS[4], "auto")],
)  # fmt: skip
def test_a_blend_at_an_end_is_the_member(rules: tuple[str, str], backend: str) -> None:
    cls = optdsl.blend(*rules, learn=False, backend=backend)
    (simplex,) = cls.compiled.program.simplexes
    for place, (hyper, rule) in enumerate(zip(simplex.hypers, rules, strict=True)):
        member = optdsl.load(rule, learn=False, backend=backend)
        own = {"lr": library.read(library.open_source(rule)).hyper("lr").default} if place else {}
        ours = trained(cls, **{h: float(h == hyper) for h in simplex.hypers})
        for x, y in zip(ours, trained(member, **own), strict=True):
            # A multiple of a learning rate may be rounded, and products that members share are
            # not fused with their sums.
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12 if place else 1e-15)


# --- over which tensors ---------------------------------------------------------------------------

APART = """
optimizer Apart
  "no paper: a test"

for matrices

theta' = theta - g / sum(g^2 over all)

otherwise

theta' = theta - g / sum(g^2 over all)
"""

TOGETHER = """
optimizer Together
  "no paper: a test"

scale  = sum(x over all)
theta' = theta - g / scale

for matrices

x = sum(g over cols)^2

otherwise

x = g^2
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sum_in_a_section_is_over_its_tensors_and_elsewhere_over_all(backend: str) -> None:
    """Sums that are written alike in two sections are two, and what is common is one."""
    g = [randn(9 + n, s) for n, s in enumerate(SHAPES)]
    of_matrices = [x.dim() == 2 for x in g]
    squares = [float(x.square().sum()) for x in g]
    rows = [
        float((x.sum(1) if m else x).square().sum()) for x, m in zip(g, of_matrices, strict=True)
    ]
    for text, parts in ((APART, squares), (TOGETHER, rows)):
        held = [nn.Parameter(torch.zeros_like(x)) for x in g]
        optimizer = optdsl.compile(text, backend=backend)(held)
        for p, x in zip(held, g, strict=True):
            p.grad = x.clone()
        optimizer.step()
        for p, x, own in zip(held, g, of_matrices, strict=True):
            pairs = zip(parts, of_matrices, strict=True)
            same = (y for y, m in pairs if text is TOGETHER or m == own)
            torch.testing.assert_close(p.detach(), -x / sum(same), rtol=1e-13, atol=0)


CIRCLE = """
optimizer Circle
  "no paper: a test"

a      = sum(x over all)
b      = sum(y over all)
theta' = theta - g / (a + b)

for matrices

x = g^2 * b
y = g^2

otherwise

x = g^2
y = g^2 * a
"""


def test_sums_that_depend_on_each_other_by_way_of_sections_are_refused() -> None:
    with pytest.raises(SpecError, match="a sum over all tensors depends on itself"):
        optdsl.compile(CIRCLE)


ELSEWHERE = """
optimizer {}
  "no paper: a test"

scale = sum(x over all)

for matrices

x      = g^2
theta' = theta - g / scale

otherwise

x      = {} * g^2
theta' = theta - g
"""


@pytest.mark.parametrize(("factor", "verdict"), [(1, Verdict.PROVED), (2, Verdict.REFUTED)])
def test_what_another_kind_adds_to_a_sum_counts_in_a_proof(
    factor: int, verdict: Verdict, tmp_path: Any
) -> None:
    """For each kind the two rules are written alike, and no tensor of one kind alone tells."""
    (tmp_path / "other.opt").write_text(ELSEWHERE.format("Other", factor))
    mine = tmp_path / "mine.opt"
    mine.write_text(ELSEWHERE.format("Mine", 1) + "\nrecovers Other\n")
    found = library.specification(library.open_source(str(mine)), verify=False)
    assert settle(found.program, found.claims[0]).verdict is verdict


# --- inputs ---------------------------------------------------------------------------------------

NEEDS = """
optimizer Needs
  "no paper: a test"

input hessian

theta' = theta - g / hessian
"""


def test_members_have_inputs_of_one_name_in_common(tmp_path: Any) -> None:
    """It is needed at every step if one member needs it."""
    (tmp_path / "needs.opt").write_text(NEEDS)
    both = tmp_path / "both.opt"
    both.write_text(
        'blend Both\n  "no paper: a test"\n\nuse Needs, SophiaG\n\nhyper w = 0.5 in [0, 1]\n\n'
        "theta' = w * Needs.theta' + (1 - w) * SophiaG.theta'\n\nrecovers Needs at w = 1\n"
    )
    found = library.specification(library.open_source(str(both)), verify=False)
    assert settle(found.program, found.claims[0]).verdict is Verdict.PROVED
    assert [s.name for s in found.program.states if s.input] == ["hessian"]
    p, g = nn.Parameter(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0])
    optimizer = optdsl.load(str(both), verify=False)([p], w=1.0)
    p.grad = g
    with pytest.raises(ValueError, match="needs its input at every step"):
        optimizer.step()
    optimizer.step(inputs={"hessian": {p: torch.full((3,), 2.0)}})
    torch.testing.assert_close(p.detach(), 1 - g / 2)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize("rules", [("prodigy", "muon"), ("adamw with clip", "lion")], ids="-".join)
def test_a_weight_is_learned_by_its_hyper_gradient(rules: tuple[str, str]) -> None:
    """The derivative of the loss after the next step, by differences along the simplex."""
    names = [w for s in optdsl.blend(*rules, learn=False).compiled.program.simplexes
             for w in s.hypers]  # fmt: skip
    cls = optdsl.blend(*rules, learn={"w": Learn("sgd", lr=0.0)})

    def after(weight: float) -> tuple[list[Tensor], Any]:
        held = [nn.Parameter(randn(n, s)) for n, s in enumerate(SHAPES)]
        optimizer = cls(held, lr=0.1, **dict(zip(names, (weight, 1 - weight), strict=True)))
        for n, p in enumerate(held):
            p.grad = randn(50 + n, tuple(p.shape))
        optimizer.step()
        return held, optimizer

    held, optimizer = after(0.3)
    for p in held:
        p.grad = torch.ones_like(p)  # the loss is the sum of all elements
    optimizer.step()
    found = [optimizer.metrics()[f"hypergradient/{name}"] for name in names]
    up, down = (float(sum(p.detach().sum() for p in after(x)[0])) for x in (0.3001, 0.2999))
    assert found[0] - found[1] == pytest.approx((up - down) / 2e-4, rel=1e-6)
