"""Blends of rules that declare axes: at their ends they are the members, and in between means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.compose import blend_source
from optdsl.diagnostics import Source
from optdsl.prove import Verdict, settle
from optdsl.specifications import library
from optdsl.verification import verify

LOW = """
optimizer Low
  "no paper: a test"

hyper lr   = 0.01 in [0, inf)
hyper rank = 4    in {1, ..., inf}
hyper gap  = 200  in {1, ..., inf}

for wide matrices

axis k = min(rank, rows)

state P : rows * k = 0
state m : k * cols = 0

P'     = where(mod(t - 1, gap) == 0, singular_vectors(g, k), P)
m'     = ema(m, transpose(P') @ g, 0.9)
theta' = theta - lr * P' @ m'

otherwise

theta' = theta - lr * g
"""
RANKS = """
blend Ranks
  "no paper: a test"

use Low as A, Low as B

share lr

hyper rank = 2 in {1, ..., inf}
hyper gap  = 2 in {1, ..., inf}
hyper w    = 0.5 in [0, 1]

A.rank = rank
B.rank = rank + MORE
A.gap  = gap
B.gap  = gap

theta' = w * A.theta' + (1 - w) * B.theta'

recovers A at w = 1
recovers Low at w = 1
recovers Low(rank = rank + MORE) at w = 0
"""
SHAPES = [(4, 6), (6, 4), (5,)]


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def trained(cls: type[torch.optim.Optimizer], **hypers: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(randn(n, *s)) for n, s in enumerate(SHAPES)]
    optimizer = cls(parameters, **hypers)  # type: ignore[call-arg]
    for t in range(5):
        for n, p in enumerate(parameters):
            p.grad = randn(100 * t + n, *p.shape)
        optimizer.step()
    trained.states = [optimizer.state[p] for p in parameters]  # type: ignore[attr-defined]
    return parameters


def ranks(more: int) -> Source:
    text = RANKS.replace("rank + MORE", f"rank + {more}" if more else "rank")
    low = Source("low.opt", LOW)
    return Source("<text>", text, None, tuple((name, low) for name in ("A", "B", "Low")))


def verdicts(source: Source) -> list[Verdict]:
    found = library.specification(source, verify=False)
    return [settle(found.program, claim).verdict for claim in found.claims]


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_members_with_axes_of_their_own_lengths(backend: str, tmp_path: Path) -> None:
    (tmp_path / "low.opt").write_text(LOW)
    (tmp_path / "ranks.opt").write_text(ranks(1).text)
    cls = optdsl.load(tmp_path / "ranks.opt", backend=backend, verify=False)
    alone = optdsl.load(tmp_path / "low.opt", backend=backend)
    for w, rank in ((1.0, 2), (0.0, 3)):
        for x, y in zip(trained(cls, w=w), trained(alone, rank=rank, gap=2), strict=True):
            assert torch.equal(x, y)
    trained(cls)
    state = trained.states[0]  # type: ignore[attr-defined]
    assert state["m_a"].shape == (2, 6)
    assert state["m_b"].shape == (3, 6)


def test_axes_of_equal_lengths_are_one_axis() -> None:
    program = library.read(ranks(0))
    assert [name for name, _ in program.axes] == ["k"]
    assert {s.name for s in program.states if 0 in s.sections} == {"P", "m"}
    assert set(verdicts(ranks(0))) == {Verdict.PROVED}


def test_axes_of_other_lengths_are_proved_apart() -> None:
    assert [name for name, _ in library.read(ranks(1)).axes] == ["k_a", "k_b"]
    assert set(verdicts(ranks(1))) == {Verdict.PROVED}
    wrong = ranks(1).text.replace("Low(rank = rank + 1)", "Low(rank = rank)")
    assert verdicts(replace(ranks(1), text=wrong))[2] is not Verdict.PROVED


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.exhaustive
def test_a_blend_with_a_rule_of_full_rank_learns_its_weights() -> None:
    found = verify(blend_source(("galore_adamw", "adamw")))
    assert [s.verdict for s in found[:2]] == [Verdict.PROVED, Verdict.PROVED]
    assert all(s.verdict is not Verdict.REFUTED for s in found)
    for backend in ("eager", "auto"):
        cls = optdsl.blend("galore_adamw", "adamw", learn=False, backend=backend)
        rates = {"adamw_lr_ratio": 0.1, "galoreadamw_rank": 2}
        full = trained(optdsl.load("adamw", backend=backend), lr=1e-3)
        low = trained(optdsl.load("galore_adamw", backend=backend), rank=2)
        for w, wanted in ((0.0, full), (1.0, low)):
            ours = trained(cls, w_galoreadamw=w, w_adamw=1 - w, **rates)
            for x, y in zip(ours, wanted, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-15)
    trained(optdsl.blend("galore_adamw", "adamw"), galoreadamw_rank=2)


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_learned_blend_of_matrices_is_its_member_at_a_vertex(backend: str) -> None:
    # Tangents of weights take the place of what they are computed from, and not of the result.
    rates = {"adafactor_lr_ratio": 1.0, "lr": 1e-2}
    still = {"w": optdsl.Learn("sgd", lr=0)}
    cls = optdsl.blend("adam", "adafactor", learn=still, backend=backend)
    members = (("adam", {"lr": 1e-2}), ("adafactor", {"lr": 1e-2, "weight_decay": 0.0}))
    for w, (name, hypers) in zip((1.0, 0.0), members, strict=True):
        ours = trained(cls, w_adam=w, w_adafactor=1 - w, **rates)
        member = trained(optdsl.load(name, backend=backend), **hypers)
        for x, y in zip(ours, member, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-15)


def test_a_member_of_a_member_keeps_its_axes() -> None:
    text = (
        'blend Outer\n  "no paper: a test"\n\nuse Ranks, Low\n\nhyper z = 0.5 in [0, 1]\n'
        "hyper rank = 2 in {1, ..., inf}\n\nRanks.rank = rank\nLow.rank = rank\n\n"
        "theta' = z * Ranks.theta' + (1 - z) * Low.theta'\n\nrecovers Ranks at z = 1\n"
    )
    members = (("Ranks", ranks(1)), ("Low", Source("low.opt", LOW)))
    source = Source("<text>", text, None, members)
    assert [name for name, _ in library.read(source).axes] == ["k_a", "k_b", "k"]
    assert verdicts(source) == [Verdict.PROVED]


# --- wide matrices and matrices as they are -------------------------------------------------------


@pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_rule_of_wide_matrices_is_blended_with_one_of_matrices(backend: str) -> None:
    cls = optdsl.blend("muon", "galore_adamw", learn=False, backend=backend)
    rates = {"galoreadamw_lr_ratio": 1.0, "galoreadamw_rank": 2, "galoreadamw_weight_decay": 0.0}
    muon = trained(optdsl.load("muon", backend=backend))
    low = trained(optdsl.load("galore_adamw", backend=backend), rank=2, lr=1e-3)
    for w, wanted in ((0.0, muon), (1.0, low)):
        ours = trained(cls, w_galoreadamw=w, w_muon=1 - w, **rates)
        for x, y in zip(ours, wanted, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-14)
    # Each matrix has the states of the way that it is read in.
    assert {n for n, x in trained.states[1].items() if torch.is_tensor(x)} == {  # type: ignore[attr-defined]
        *("step", "m_muon", "tall_P", "tall_m", "tall_v")
    }


def test_a_rule_of_wide_matrices_is_proved_to_be_a_part_of_a_blend() -> None:
    assert verdicts(blend_source(("muon", "galore_adamw"))) == [Verdict.PROVED] * 2


WIDE = """
optimizer Sides
  "no paper: a test of everything that has a side"

hyper lr = 0.1 in [0, inf)

for wide matrices

axis k = min(2, rows)

random Z : rows * k = normal at 1

state L : rows * rows = identity(rows)
state q : cols        = 1
state M : k * cols    = 0

L'     = ema(L, g @ transpose(g), 0.5)
q'     = q + max(abs(g) over rows) + diagonal(transpose(g) @ g)
M'     = M + transpose(Z) @ g
scaled = inverse_root(L' + identity(rows), 2) @ g / q'
update = scaled + Z @ M' * sqrt(rows / cols) + sum(M' over k) + mean(g over cols)
theta' = theta - lr * update

otherwise

theta' = theta - lr * g
"""
PLAIN = """
optimizer Plain
  "no paper: a test"

hyper lr = 0.1 in [0, inf)

for matrices

theta' = theta - lr * g

otherwise

theta' = theta - lr * g
"""
MIXED = """
blend Mixed
  "no paper: a test"

use Sides, Plain

share lr

hyper w = 1 in [0, 1]

theta' = w * Sides.theta' + (1 - w) * Plain.theta'

recovers Sides at w = 1
"""


def test_everything_that_has_a_side_is_turned(tmp_path: Path) -> None:
    (tmp_path / "sides.opt").write_text(WIDE.replace(" + sum(M' over k)", ""))
    (tmp_path / "plain.opt").write_text(PLAIN)
    (tmp_path / "mixed.opt").write_text(MIXED)
    ours = trained(optdsl.load(tmp_path / "mixed.opt", verify=True))
    theirs = trained(optdsl.load(tmp_path / "sides.opt"))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_what_has_no_other_side_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sides.opt").write_text(
        WIDE.replace("sum(M' over k)", "sum(M' * sum(M' over cols))")
    )
    (tmp_path / "plain.opt").write_text(PLAIN)
    (tmp_path / "mixed.opt").write_text(MIXED)
    with pytest.raises(optdsl.SpecError, match="`Sides` is for wide matrices, and cannot be said"):
        optdsl.load(tmp_path / "mixed.opt")
