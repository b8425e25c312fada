"""Claims about sums over all tensors, inputs and choices: what must not be proved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optdsl.diagnostics import Source, SpecError
from optdsl.ir.program import Program
from optdsl.prove import Settlement, Verdict, settle, snippet
from optdsl.specifications import library


def rule(name: str, body: str, declarations: str = "") -> str:
    return f"""
optimizer {name}
  "no paper: a test"

hyper lr = 0.1 in [0, 1]
{declarations}
theta' = theta - lr * ({body})
"""


def settled(text: str, other: str, claim: str = "recovers Other") -> tuple[Program, Settlement]:
    rules = (("Other", Source("other.opt", other)),)
    source = Source("<text>", f"{text}\n{claim}\n", None, rules)
    found = library.specification(source, verify=False)
    return found.program, settle(found.program, found.claims[0])


H, K = "input h", "input k"
CASES = [
    # An input may be any number, although it is zero until it is given.
    ("g + h", H, "g + h", H, Verdict.PROVED),
    ("g + h", H, "g", H, Verdict.REFUTED),
    ("g + h", H, "g", "", Verdict.REFUTED),
    ("g + h", H, "g + k", K, Verdict.REFUTED),
    ("g / h", H, "g / h + 0 * h", H, Verdict.PROVED),
    ("where(given(h), g + h, g)", H, "g + h", H, Verdict.TESTED),
    ("where(given(h), g + h, g)", H, "where(given(h), g + h, 2 * g)", H, Verdict.REFUTED),
    ("where(given(h), g + h, g)", H, "where(given(k), g + k, g)", K, Verdict.REFUTED),
    # A sum over all tensors is not that of one.
    ("g * sum(g^2 over all)", "", "g * sum(g^2)", "", Verdict.REFUTED),
    ("g * sum(sum(g)^2 over all)", "", "g * sum(g over all)^2", "", Verdict.REFUTED),
    ("g * sum(1 + 0 * g over all)", "", "g * sum(1 + 0 * g)", "", Verdict.REFUTED),
    ("g * sum(2 * g over all)", "", "2 * g * sum(g over all)", "", Verdict.TESTED),
    # What rounding may decide is not proved either.
    ("g * floor(t * 0.7 / 0.7)", "", "g * floor(t)", "", Verdict.TESTED),
    ("where(0 <= g < 1, g, 2 * g)", "", "where(0 < g < 1, g, 2 * g)", "", Verdict.TESTED),
    ("where(0 <= g < 1, g, 2 * g)", "", "where(0 <= g <= 1, g, 2 * g)", "", Verdict.REFUTED),
]  # fmt: skip


@pytest.mark.parametrize(("mine", "own", "other", "theirs", "verdict"), CASES)
def test_a_claim(mine: str, own: str, other: str, theirs: str, verdict: Verdict) -> None:
    _, found = settled(rule("Mine", mine, own), rule("Other", other, theirs))
    assert found.verdict is verdict, found.reason


@pytest.mark.parametrize("case", [3, 6, 8, 9])
def test_a_wrong_claim_is_refuted_by_a_run_that_anyone_can_repeat(
    case: int, tmp_path: Path
) -> None:
    """The run has several tensors, or what is given to its steps."""
    mine, own, other, theirs, _ = CASES[case]
    (tmp_path / "other.opt").write_text(rule("Other", other, theirs))
    text = rule("Mine", mine, own) + "\nrecovers Other\n"
    source = Source(str(tmp_path / "mine.opt"), text, str(tmp_path))
    (tmp_path / "mine.opt").write_text(text)
    found = library.specification(source, verify=False)
    wrong = settle(found.program, found.claims[0])
    assert wrong.difference is not None
    scope: dict[str, torch.Tensor] = {}
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        exec(compile("\n".join(snippet(found.program, wrong)), "<snippet>", "exec"), scope)
    for name, numbers in (("x", wrong.difference.left), ("y", wrong.difference.right)):
        expected = torch.tensor(numbers, dtype=torch.float64)
        torch.testing.assert_close(scope[name], expected, rtol=1e-12, atol=1e-12)


def test_a_choice_has_its_meaning_by_its_labels() -> None:
    """The place of a label is another one where the labels stand in another order."""
    body, own = "where(m == a, g, 2 * g)", "hyper m = a in {a, b}"
    turned = "where(m == b, g, 2 * g)", "hyper m = b in {b, a}"
    with pytest.raises(SpecError, match="other labels"):
        settled(rule("Mine", body, own), rule("Other", *turned))
    _, found = settled(rule("Mine", body, own), rule("Other", *turned), "recovers Other(m = 0)")
    assert found.verdict is Verdict.REFUTED


MODES = "hyper mode = plain in {plain, double, none}"
BY_MODE = "where(mode == plain, 1, where(mode == double, 2, 0)) * g"


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("recovers Other at mode = plain", Verdict.PROVED),
        ("recovers Other(how = twice) at mode = double", Verdict.PROVED),
        ("recovers Other(how = once) at mode = double", Verdict.REFUTED),
        ("misses Other(how = twice) at mode = none", Verdict.PROVED),
        ("recovers Other at mode = 1", Verdict.REFUTED),
    ],
)
def test_claims_set_choices_by_their_labels(claim: str, verdict: Verdict) -> None:
    other = rule("Other", "where(how == once, 1, 2) * g", "hyper how = once in {once, twice}")
    _, found = settled(rule("Mine", BY_MODE, MODES), other, claim)
    assert found.verdict is verdict, found.reason
