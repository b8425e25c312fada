"""Mistakes in modifiers of one's own, and what modifiers do to names: each was a fault once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import optdsl
from optdsl.diagnostics import SpecError
from optdsl.specifications import library
from optdsl.verification import verify


def made(directory: Path, combination: str, **files: str) -> type[torch.optim.Optimizer]:
    for name, text in files.items():
        (directory / f"{name}.opt").write_text(text)
    (directory / "made.opt").write_text(f"optimizer Made = {combination}\n")
    return optdsl.load(str(directory / "made.opt"), backend="eager")


def stepped(cls: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = cls([p])  # type: ignore[call-arg]
    p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer


def test_what_a_rule_learns_must_still_move_it(tmp_path: Path) -> None:
    text = "modifier Mine of beta1\nbeta1 = 0.1\n"
    with pytest.raises(SpecError, match="`beta1` cannot be learned"):
        made(tmp_path, "HyperAdam with Mine", mine=text)


def test_names_of_equations_stay_apart(tmp_path: Path) -> None:
    mine = "modifier Mine of theta'\nmask = theta\ntheta' = mask - base.lr * base.update\n"
    (tmp_path / "y.opt").write_text("optimizer Y = AdamW with Cautious\n")
    stepped(made(tmp_path, "Y with Mine as Cautious", mine=mine))


def test_names_of_states_stay_apart(tmp_path: Path) -> None:
    mine = (
        "modifier Mine of g\nhyper q = 1 in [0, 2]\nstate m = 0\nstate mine_m = 0\n"
        "state mine_q = 0\nm' = m + q\nmine_m' = mine_m + 1\nmine_q' = g\n"
        "g = base.g * mine_m + m + mine_q\n"
    )
    optimizer = stepped(made(tmp_path, "AdamW with Mine", mine=mine))
    (state,) = optimizer.state.values()
    assert len(state) == 2 + 3 + 1
    assert "mine_q" not in state  # which is a hyperparameter


def test_too_many_modifiers(tmp_path: Path) -> None:
    listed = ", ".join(f"Grams as c{n}" for n in range(200))
    with pytest.raises(SpecError, match="200 modifiers are applied"):
        made(tmp_path, f"AdamW with {listed}")
    stepped(made(tmp_path, f"AdamW with {', '.join(f'Grams as c{n}' for n in range(20))}"))


def test_a_modifier_is_checked_without_a_rule(tmp_path: Path) -> None:
    file = tmp_path / "bad.opt"
    file.write_text("modifier Bad of update\nupdate = base.update * foo + bar(1) + sin(a, b)\n")
    with pytest.raises(SpecError) as caught:
        library.checked(library.open_source(file))
    named = {d.span.text for d in caught.value.diagnostics}
    assert named >= {"foo", "bar", "a", "b"}


@pytest.mark.parametrize(
    ("combination", "text", "message"),
    [
        ("AdamW with Mine", "of g, g\ng = base.g", "`g` is listed twice"),
        ("AdamW with Mine", "of update\nupdate = base.update > 0", "`update` is a number"),
        ("AdamW with Mine", "of lr\nlr = base.lr * g", "`lr` is a uniform number"),
        ("AdamW with Mine", "of m'\nm' = base.m' > 0", "`m'` is a number"),
        ("AdamW with Mine", "of g\ng = base.update", "`.*` depends on itself once `Mine`"),
        ("AdamW with Mine", "of update\nupdate = base.updat", "unknown name `base.updat`"),
        ("AdamW with Mine", "of g\nstate s = s2\nstate s2 = 0\ns' = g\ns2' = g\ng = base.g",
         "`s2` has no value before"),
        ("Adam(lr = 1) with Warmup", "of g\ng = base.g", "leave out `lr = ...`"),
        ("Adaptivity(w_sgd = 1)", "of g\ng = base.g", "is a part of a weight vector"),
        ("AdamW with Grams\n\nlearn after 3", "of g\ng = base.g", "`learn after` is about"),
    ],
)  # fmt: skip
def test_a_mistake_is_told(tmp_path: Path, combination: str, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        made(tmp_path, combination, mine=f"modifier Mine {text}\n")


def test_a_wrong_claim_comes_with_a_test_that_runs(tmp_path: Path) -> None:
    mine = (
        "modifier Mine of update\nhyper w = 1 in [0, 1]\nupdate = base.update * (1 + w)\n"
        "recovers base at w = 1\n"
    )
    with pytest.raises(SpecError, match="recovers base at w = 1") as caught:
        made(tmp_path, "AdamW with Grams, Mine", mine=mine)
    assert "`optdsl verify` prints a test that shows it" in str(caught.value)
    found = verify(library.open_source(tmp_path / "made.opt"))
    (refuted,) = (statement for statement in found if statement.test)
    assert refuted.text.startswith("recovers base at w = 1")
    with pytest.raises(AssertionError, match="not close"):
        exec(refuted.test, {})


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("adamw with", SpecError),
        ("adamw with cautious,", SpecError),
        ("adamw with cautious # comment", ValueError),
        ("adamw with cautious\nlearn lr by SGD", SpecError),
        ("adamw(lr = -1)", SpecError),
    ],
)
def test_what_is_no_rule_is_refused(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        optdsl.load(name)


def test_options_alone_make_a_rule() -> None:
    cls = optdsl.load("adam(lr = 0.3)", backend="eager")
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    cls([p]).step()
    other = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    other.grad = torch.ones_like(other)
    torch.optim.Adam([other], lr=0.3).step()
    assert p.item() == pytest.approx(other.item(), rel=1e-14)


def test_a_file_in_a_directory_with_such_a_name_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a with b").mkdir()
    (tmp_path / "a with b" / "q.opt").write_text(library.open_source("sgd").text)
    assert optdsl.load("a with b/q.opt").__name__ == "SGD"
