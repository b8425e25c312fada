"""`optdsl verify`: a line a statement, and what is refuted in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl import library
from optdsl.cli import main
from optdsl.diagnostics import Source
from optdsl.prove import Verdict
from optdsl.verification import verify

SPECS = Path(__file__).parents[2] / "specs"


def test_the_whole_library_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(SPECS)]) == 0
    text = capsys.readouterr().out
    assert "0 refuted" in text.splitlines()[-1]
    for name in library.list_specs():
        assert f"{name}.opt\n" in text


def test_the_five_endpoints_of_mada_are_proved() -> None:
    found = {s.text: s.verdict for s in verify(library.open_source("mada"))}
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
    assert "mine.opt:45:1: error[refuted]" in capsys.readouterr().err


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
