"""`optdsl verify`: a line a statement, and what is refuted in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl import SpecError
from optdsl.cli import main
from optdsl.diagnostics import Source
from optdsl.prove import Verdict
from optdsl.specifications import library
from optdsl.verification import verify
from tests.paper import six_source

SPECS = Path(__file__).parents[2] / "specs"


def test_the_whole_library_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(SPECS)]) == 0
    text = capsys.readouterr().out
    assert "0 refuted" in text.splitlines()[-1]
    for name in library.list_specs():
        assert f"{name}.opt\n" in text


def test_the_five_endpoints_of_mada_are_proved() -> None:
    found = {s.text: s.verdict for s in verify(six_source())}
    claims = [text for text in found if text.startswith("recovers")]
    assert [c.split()[1] for c in claims] == ["Adam", "AVGrad", "Yogi", "Adan", "Lion"]
    assert {found[c] for c in claims} == {Verdict.PROVED}
    assert found["hyper-gradient of kappa"] is Verdict.TESTED


def test_what_the_legacy_rule_recovers_and_what_it_misses() -> None:
    found = {s.text: s.verdict for s in verify(library.open_source("mada_legacy"))}
    claims = {text: verdict for text, verdict in found.items() if "hyper-gradient" not in text}
    assert set(claims.values()) == {Verdict.PROVED}
    starts = [" ".join(c.split()[:2]).partition("(")[0] for c in claims]
    assert starts == [
        "recovers AdamW", "recovers AVGrad", "recovers Yogi", "recovers Lion", "misses Lion",
        "misses Adan",
    ]  # fmt: skip


def test_a_planted_claim_is_refuted_with_both_equations_and_a_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = library.open_source("mada").text
    wrong = text.replace("recovers Lion   at gamma = 0", "recovers Lion   at gamma = 0.5")
    path = tmp_path / "mine.opt"
    path.write_text(wrong)
    assert main(["verify", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "refuted  recovers Lion at gamma = 0.5" in shown
    assert "where they differ, MADA has" in shown
    assert "where they differ, Lion has" in shown
    assert "torch.testing.assert_close(x, y" in shown
    assert shown.splitlines()[-1].endswith("1 refuted")
    assert main(["check", str(path)]) == 1
    assert "mine.opt:44:1: error[refuted]" in capsys.readouterr().err


def test_a_wrong_derivative_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: here the compiler is made to forget a term."""
    from dataclasses import replace

    from optdsl.ir import ops

    row = ops.TABLE["mix"]
    monkeypatch.setitem(ops.TABLE, "mix", replace(row, derivative=lambda b, y, x, d: d[1]))
    text = library.open_source("adam_avgrad").text.replace("AdamAVGrad", "Broken")
    text = text.replace("learn rho", "learn beta2 in [0.5, 0.9999]")
    found = {s.text: s.verdict for s in verify(Source("broken.opt", text))}
    assert found["hyper-gradient of beta2"] is Verdict.REFUTED


def test_mistakes_and_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.opt").write_text("optimizer A\n")
    assert main(["verify", str(tmp_path), str(SPECS / "adam.opt")]) == 1
    out, err = capsys.readouterr()
    assert "no-update" in err
    assert "makes no claims" in out
    assert main(["verify", str(tmp_path / "none.opt")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
    assert "has no .opt files" in capsys.readouterr().err


def verdicts(text: str) -> dict[str, Verdict]:
    return {s.text: s.verdict for s in verify(Source("t.opt", text))}


def test_derivatives_are_judged_inside_the_bounds() -> None:
    """At a corner a central difference would leave them; a kink lies at a default of its own."""
    corner = "blend C\nuse Adam, Yogi\nshare lr, beta1, beta2, eps, weight_decay\n" + (
        "hyper lr = 1e-3 in [0, inf)\nhyper eps = 1e-8 in [0, inf)\nYogi.m0 = 0\nYogi.v0 = 0\n"
        "hyper w = Adam on simplex(Adam, Yogi)\ns = w.Adam * Adam.s + w.Yogi * Yogi.s\n"
        "theta' = Adam.theta'\nlearn w by SGD(lr = 0.1)\n"
    )
    root = "optimizer R\nhyper a = 0 in [0, 2]\ntheta' = theta - sqrt(a) * g\n" + (
        "learn a by SGD(lr = 0.1)\n"
    )
    held = "optimizer H\nhyper a = 0.5 in [0, 1]\ntheta' = theta - a * stop_gradient(a * g)\n" + (
        "learn a by SGD(lr = 0.1)\n"
    )
    for text in (corner, root, held):
        found = {v for k, v in verdicts(text).items() if k.startswith("hyper-gradient")}
        assert found == {Verdict.TESTED}


def test_a_claim_outside_the_rules_bounds_is_not_tested_by_no_run() -> None:
    text = "optimizer V\nhyper lr = 0.1 in [0, 1]\nhyper b = 0.5 in [0, 0.99]\n" + (
        "theta' = theta - lr * b\nrecovers AdamW(beta1 = b, eps = lr - 1) at lr = 0.5\n"
    )
    with pytest.raises(SpecError, match="must lie in"):
        verdicts(text)
    with pytest.raises(SpecError, match="part of a weight vector"):
        verdicts(text.replace("AdamW(beta1 = b, eps = lr - 1)", "Memory(w_adam = 1)"))


def test_a_kind_whose_small_matrices_lack_an_axis_is_not_tried() -> None:
    text = "optimizer L\nhyper lr = 0.1 in [0, 1]\nfor matrices\naxis k = 1000000000\n" + (
        "state P : rows * k = 0\nP' = P + sum(g over cols)\ntheta' = theta - lr * g * sum(P')\n"
        "otherwise\ntheta' = theta - lr * g\nlearn lr in [0.01, 1] by SGD(lr = 0.1)\n"
    )
    for rule in (text, text.replace("otherwise\ntheta' = theta - lr * g\n", "")):
        (found,) = verify(Source("t.opt", rule))
        assert found.verdict is Verdict.TESTED
        assert "not for matrices" in found.reason
