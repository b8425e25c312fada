"""Blends of rules with sections: made, proved, merged and trained kind by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler, interpret
from optdsl.cli import main
from optdsl.compose import blend_source
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.prove import Verdict, settle
from optdsl.specifications import library
from optdsl.verification import verify

PAIRS = [
    ("muon", "adamw"),
    ("muon", "normuon"),
    ("adafactor", "adam"),
    ("lamb", "adafactor"),
    ("muon", "schedule_free_adamw"),
]
SHAPES = [(4, 3), (3, 4), (2, 3, 2), (5,), ()]


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def trained(
    cls: type[torch.optim.Optimizer], steps: int = 4, **hypers: float | str
) -> list[Tensor]:
    parameters = [nn.Parameter(randn(n, *s)) for n, s in enumerate(SHAPES)]
    optimizer = cls(parameters, **hypers)  # type: ignore[call-arg]
    for t in range(steps):
        for n, p in enumerate(parameters):
            p.grad = randn(100 * t + n, *p.shape)
        optimizer.step()
    return [p.detach() for p in parameters]


def assert_equal(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 0.0) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def read(text: str) -> Program:
    return library.read(Source("<text>", text))


@pytest.mark.parametrize("rules", PAIRS, ids="-".join)
def test_a_blend_is_proved_to_be_each_member_for_every_kind(rules: tuple[str, str]) -> None:
    found = library.specification(blend_source(rules), verify=False)
    assert len(found.claims) == 2
    for claim in found.claims:
        settled = settle(found.program, claim)
        assert settled.verdict is Verdict.PROVED, settled.reason
        assert settled.reason.endswith("for every kind")


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize("rules", PAIRS[:4], ids="-".join)
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_blend_at_an_end_is_the_member(rules: tuple[str, str], backend: str) -> None:
    cls = optdsl.blend(*rules, learn=False, backend=backend)
    (simplex,) = cls.compiled.program.simplexes
    programs = [library.read(library.open_source(rule)) for rule in rules]
    # Learning rates of the blend are the first rule's, with the others' as multiples.
    for hyper, rule, program in zip(simplex.hypers, rules, programs, strict=True):
        weights = {h: float(h == hyper) for h in simplex.hypers}
        own = {} if program is programs[0] else {"lr": program.hyper("lr").default}
        ours = trained(cls, **weights)
        theirs = trained(optdsl.load(rule, learn=False, backend=backend), **own)
        for x, y in zip(ours, theirs, strict=True):
            # To the bit; but a multiple of a learning rate may be rounded, and C may compile what
            # torch runs for the member.
            exact = backend == "eager" and not own
            torch.testing.assert_close(x, y, rtol=0, atol=0 if exact else 1e-12)


def test_equal_states_are_one_buffer_kind_by_kind() -> None:
    both = library.read(blend_source(("muon", "normuon")), verify=False)
    found = {s.name: (s.origins, s.sections) for s in both.states}
    assert found["m"] == (("Muon.m", "NorMuon.m"), ())
    # Rows of second moments for matrices, and two second moments with betas of their own elsewhere.
    assert {n: s for n, (_, s) in found.items() if n != "m"} == {
        "v": (0,), "otherwise_v": (1,), "adamw_v": (1,)
    }  # fmt: skip


MERGED = """
blend Merged
  "no paper: a test"

use Muon, AdamW

hyper w            = 0.5  in [0, 1]
hyper beta         = 0.9  in [0, 1)
hyper weight_decay = 0.01 in [0, inf)
hyper lr           = 1e-3 in [0, inf)

Muon.adamw_beta1 = beta
AdamW.beta1      = beta
Muon.lr_ratio    = 1

share lr, weight_decay

theta' = w * Muon.theta' + (1 - w) * AdamW.theta'

recovers Muon at w = 1
recovers AdamW at w = 0
"""


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
def test_states_are_merged_only_for_the_kinds_for_which_they_are_equal() -> None:
    """AdamW is a member, and Muon's rule for other tensors: there both have one momentum."""
    program = read(MERGED)
    found = {s.name: (s.origins, s.sections) for s in program.states}
    assert found["m"] == (("Muon.m", "AdamW.m"), (1,))
    assert found["m_muon"] == (("Muon.m",), (0,))
    assert found["m_adamw"] == (("AdamW.m",), (0,))
    cls = optdsl.compile(MERGED, backend="eager")
    muon, adamw = (optdsl.load(name, backend="eager") for name in ("muon", "adamw"))
    assert_equal(trained(cls, w=1.0), trained(muon, weight_decay=0.01))
    assert_equal(trained(cls, w=0.0), trained(adamw))
    half, *parts = (trained(cls, steps=1, w=w) for w in (0.5, 1.0, 0.0))
    for x, y, z in zip(half, *parts, strict=True):
        torch.testing.assert_close(x, 0.5 * y + 0.5 * z, rtol=1e-14, atol=1e-15)


# --- what decides the operations ------------------------------------------------------------------

BOUND = """
blend Bound
  "no paper: a test"

use Muon, NorMuon

hyper w = 1 in [0, 1]
hyper k = 1 in {0, 1, 2}

Muon.ns_steps    = 2 * k + 1
NorMuon.ns_steps = 4

theta' = w * Muon.theta' + (1 - w) * NorMuon.theta'

recovers Muon(ns_steps = 3) at w = 1
recovers NorMuon at w = 0
misses Muon(ns_steps = 4, adamw_beta2 = 0.9) at w = 1
"""


def test_how_often_a_function_calls_itself_is_the_blends() -> None:
    cls = optdsl.blend("muon", "adamw", learn=False)
    assert cls.compiled.program.structure == (("muon_ns_steps", 5.0),)
    for steps in (5, 2, 0):
        ours = trained(cls, w_muon=1.0, w_adamw=0.0, muon_ns_steps=steps)
        assert_equal(ours, trained(optdsl.load("muon"), ns_steps=steps))


@pytest.mark.exhaustive
def test_what_decides_the_operations_may_be_bound_to_what_is_known() -> None:
    assert read(BOUND).structure == (("k", 1.0),)
    cls = optdsl.compile(BOUND)
    for k in (0, 1, 2):
        # Sums that are fused with products round otherwise where a blend needs both members.
        muon, normuon = optdsl.load("muon"), optdsl.load("normuon")
        assert_equal(trained(cls, k=k), trained(muon, ns_steps=2 * k + 1), 1e-12)
        assert_equal(trained(cls, k=k, w=0.0), trained(normuon, ns_steps=4), 1e-12)


def test_a_declared_default_decides_the_operations_of_all_that_share_it() -> None:
    text = BOUND.partition("hyper k")[0] + "hyper ns_steps = 2 in {0, ..., 9}\nshare ns_steps\n"
    text += "theta' = w * Muon.theta' + (1 - w) * NorMuon.theta'\nrecovers Muon at w = 1\n"
    assert read(text).structure == (("ns_steps", 2.0),)
    blend, muon = optdsl.compile(text, backend="eager"), optdsl.load("muon", backend="eager")
    assert_equal(trained(blend), trained(muon, ns_steps=2))


def test_a_claim_about_another_depth_is_refuted() -> None:
    text = BOUND.replace("Muon(ns_steps = 3)", "Muon(ns_steps = 4)").partition("misses")[0]
    found = library.specification(Source("<text>", text), verify=False)
    settled = settle(found.program, found.claims[0])
    assert settled.verdict is Verdict.REFUTED
    assert settled.kind == "matrices"


INNER = """
blend Inner
  "no paper: a test"

use Muon, AdamW

share lr

hyper w = 0.5 in [0, 1]

theta' = w * Muon.theta' + (1 - w) * AdamW.theta'
"""
OUTER = """
blend Outer
  "no paper: a test"

use Inner, NorMuon

hyper depth = 5   in {0, ..., 9}
hyper z     = 0.5 in [0, 1]

Inner.muon_ns_steps = depth
NorMuon.ns_steps    = depth

theta' = z * Inner.theta' + (1 - z) * NorMuon.theta'

recovers Inner at z = 1
recovers NorMuon at z = 0
"""


def test_a_blend_kind_by_kind_may_be_a_member() -> None:
    rules = tuple((n, library.open_source(n)) for n in ("Muon", "AdamW"))
    inner = Source("inner.opt", INNER, None, rules)
    members = (("Inner", inner), ("NorMuon", library.open_source("normuon")))
    source = Source("<text>", OUTER, None, members)
    found = library.specification(source, verify=False)
    assert found.program.structure == (("depth", 5.0),)
    for claim in found.claims:
        assert settle(found.program, claim).verdict is Verdict.PROVED
    short = library.read(source, verify=False, choices=(("depth", 1.0),))
    assert short.structure == (("depth", 1.0),)
    assert len(short.operations) < len(found.program.operations)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", PAIRS[:3], ids="-".join)
@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_hyper_gradients_of_weights(rules: tuple[str, str], shape: tuple[int, ...]) -> None:
    """Against autograd, and against differences of a loss of the new parameter."""
    source = blend_source(rules)
    program = library.read(source, verify=False)
    derived = compiler.derive(source)
    theta, g, target = randn(1, *shape), randn(2, *shape), randn(3, *shape)
    hypers: dict[str, float] = program.defaults
    state = interpret.initial_state(program, theta, g, hypers)
    state = interpret.step(program, theta, g, state, hypers, 1).state
    tangents = interpret.step(derived, theta, g, state, hypers, 2).tangents
    (simplex,) = program.simplexes
    assert tangents.keys() == set(simplex.hypers)

    def loss(values: Mapping[str, float | Tensor]) -> Tensor:
        after = interpret.step(program, theta, g, state, {**hypers, **values}, 2).parameter
        return ((after - target) ** 2).sum()

    slope = 2 * (interpret.step(program, theta, g, state, hypers, 2).parameter - target)
    for hyper in simplex.hypers:
        x = torch.tensor(hypers[hyper], dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(loss({hyper: x}), x)
        found = (tangents[hyper] * slope).sum()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    # Along the simplex: from one weight to the other.
    first, second = simplex.hypers
    width = 1e-4
    up, down = (
        loss({first: hypers[first] + d, second: hypers[second] - d}) for d in (width, -width)
    )
    found = ((tangents[first] - tangents[second]) * slope).sum()
    torch.testing.assert_close(found, (up - down) / (2 * width), rtol=1e-6, atol=1e-9)


@pytest.mark.broad(3)
@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize("rules", PAIRS, ids="-".join)
@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.exhaustive
def test_weights_are_learned_on_matrices_and_vectors(rules: tuple[str, str], order: str) -> None:
    cls = optdsl.blend(*rules, order=order)
    parameters = [nn.Parameter(randn(n, *s)) for n, s in enumerate(SHAPES)]
    optimizer = cls(parameters, lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.stack([((p - 0.25) ** 2).sum() for p in parameters]).sum()
        loss.backward()
        losses.append(float(loss))
        optimizer.step()
    (simplex,) = cls.compiled.program.simplexes
    weights = [optimizer.param_groups[0][h] for h in simplex.hypers]
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert weights[0] != 0.5
    assert losses[-1] < losses[0]


def test_verify_settles_all_that_a_blend_states() -> None:
    found = verify(blend_source(("adafactor", "adam")))
    verdicts = {s.text.split()[0]: s.verdict for s in found}
    assert verdicts["recovers"] is Verdict.PROVED
    assert verdicts["theta'"] is Verdict.PROVED
    assert verdicts["hyper-gradient"] is Verdict.TESTED


def test_the_command_line_blends_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blend", "muon", "adamw"]) == 0
    assert "use Muon, AdamW" in capsys.readouterr().out
