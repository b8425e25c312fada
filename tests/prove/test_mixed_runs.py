"""Claims that are wrong only for tensors that are not alike, or where the model is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optdsl.algebra import normal_form
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.ir.trajectories import Part, Run, trajectory
from optdsl.prove import Settlement, Verdict, settle, snippet
from optdsl.specifications import library

pytestmark = pytest.mark.broad(2)


def rule(name: str, body: str, more: str = "") -> str:
    return f"""optimizer {name}
  "no paper: a test"

hyper lr = 0.1 in [0, 1]
{more}
theta' = theta - lr * ({body})
"""


KINDS = """optimizer {}
  "no paper: a test"

first  = sum(x over all)
second = sum(first * y over all)

for matrices

x      = g^2
y      = {} * abs(theta)
theta' = theta - g

otherwise

x      = {} * g^2
y      = 1 + 0 * g
theta' = theta - g / second
"""


def averaged(name: str, eval: str) -> str:
    return rule(name, "g", f"state a = theta\na' = a + (theta' - a) / t\neval = {eval}")


def prodigy() -> tuple[str, str]:
    """Prodigy, and the same with a count of the optimizer's steps in place of the tensor's."""
    text = library.open_source("prodigy").text
    counted = text.replace("beta2^t) / (1 - beta1^t)", "beta2^(n + 1)) / (1 - beta1^(n + 1))")
    assert counted != text
    counted = counted.replace("state m ", "state n : shared = 0\nstate m ") + "n' = n + 1\n"
    return counted.replace("optimizer Prodigy", "optimizer Mine"), text.replace(
        "optimizer Prodigy", "optimizer Other"
    )


PLAIN = "recovers Other"
WRONG = {
    "groups": (
        rule("Mine", "g * sum(lr * g over all)"),
        rule("Other", "g * lr * sum(g over all)"),
        PLAIN,
        "with groups whose hyperparameters differ",
    ),
    "missing": (*prodigy(), f"{PLAIN} at use_bias_correction = 1", "has no gradient in a step"),
    "sizes": (
        rule("Mine", "g * mean(g over all)"),
        rule("Other", "g * sum(mean(g) over all) / sum(1 + 0 * mean(g) over all)"),
        PLAIN,
        "differ after step 1",
    ),
    "kinds": (
        KINDS.format("Mine", 1, 1),
        KINDS.format("Other", 2, 1),
        PLAIN,
        "with tensors of several kinds",
    ),
    "evaluation": (
        averaged("Mine", "a"),
        averaged("Other", "theta"),
        PLAIN,
        "the points of evaluation differ after step 2",
    ),
    "late evaluation": (
        averaged("Mine", "where(t > 300, theta, a)"),
        averaged("Other", "a"),
        PLAIN,
        "the points of evaluation differ after step 301",
    ),
}  # fmt: skip


def settled(mine: str, other: str, claim: str, where: Path) -> tuple[Program, Settlement]:
    (where / "other.opt").write_text(other)
    (where / "mine.opt").write_text(f"{mine}\n{claim}\n")
    source = Source(str(where / "mine.opt"), f"{mine}\n{claim}\n", str(where))
    found = library.specification(source, verify=False)
    return found.program, settle(found.program, found.claims[0])


@pytest.mark.parametrize("name", WRONG)
def test_a_claim_that_tensors_that_are_not_alike_refute(name: str, tmp_path: Path) -> None:
    """The optimizers do what the run says, and the test that the diagnostic prints fails."""
    mine, other, claim, reason = WRONG[name]
    program, wrong = settled(mine, other, claim, tmp_path)
    assert wrong.verdict is Verdict.REFUTED
    assert reason in wrong.reason
    assert wrong.difference is not None
    if name == "sizes":
        return  # the run is of the same form as the others
    scope: dict[str, torch.Tensor] = {}
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        exec(compile("\n".join(snippet(program, wrong)), "<snippet>", "exec"), scope)
    for result, numbers in (("x", wrong.difference.left), ("y", wrong.difference.right)):
        expected = torch.tensor(numbers, dtype=torch.float64)
        torch.testing.assert_close(scope[result], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("mine", "other", "claim"),
    [
        (KINDS.format("Mine", 2, 3), KINDS.format("Other", "(1 + 1)", 3), PLAIN),
        (averaged("Mine", "a"), averaged("Other", "1 * a"), PLAIN),
        (*prodigy(), f"{PLAIN} at use_bias_correction = 0"),
        (averaged("Mine", "a"), rule("Other", "g"), "misses Other"),
    ],
)
def test_a_claim_that_they_do_not_refute(mine: str, other: str, claim: str, tmp_path: Path) -> None:
    assert settled(mine, other, claim, tmp_path)[1].verdict is Verdict.PROVED


def test_a_rule_is_not_what_it_is_with_another_point_of_evaluation(tmp_path: Path) -> None:
    text = library.open_source("schedule_free_adamw").text
    mine = "\n".join(line for line in text.splitlines() if not line.startswith("eval"))
    other = text.replace("optimizer ScheduleFreeAdamW", "optimizer Other")
    _, wrong = settled(mine, other, PLAIN, tmp_path)
    assert wrong.verdict is Verdict.REFUTED
    assert wrong.difference is not None
    assert wrong.difference.evaluated


def test_tensors_count_their_own_steps_and_share_what_is_shared() -> None:
    """By hand: three tensors, the first without a gradient in the second step."""
    text = rule("A", "n * g + sum(g over all) + t", "state n : shared = 1\nn' = n + t")
    program = library.specification(Source("<text>", text)).program
    parts = (Part(1, missing=(1,)), Part(2, hypers=(("lr", 1.0),)))
    run = Run((("lr", 0.5),), (0.0,) * 3, ((1.0, 2.0, 3.0), (9.0, 1.0, 1.0), (1.0, 0.0, 0.0)),
              mixed=parts)  # fmt: skip
    first = (-0.5 * (1 + 6 + 1), -(2 + 6 + 1.0), -(3 + 6 + 1.0))
    second = (first[0], first[1] - (2 + 2 + 2), first[2] - (2 + 2 + 2))
    third = (second[0] - 0.5 * (4 + 1 + 2), second[1] - (0 + 1 + 3), second[2] - (0 + 1 + 3))
    assert trajectory(program, run) == [first, second, third]


@pytest.mark.parametrize("name", ["mada", "adaptivity", "two_speed"])
def test_claims_of_blends_take_no_normal_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At corners, what is left of a blend is written as its member is; that is found in no time."""
    found = library.specification(library.open_source(name), verify=False)

    def forms(*_: object, **__: object) -> None:
        raise AssertionError("a normal form was asked for")

    monkeypatch.setattr(normal_form.Algebra, "forms", forms)
    for claim in found.claims:
        assert settle(found.program, claim, len(found.claims)).verdict is Verdict.PROVED
