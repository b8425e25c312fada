"""Modifiers that declare inputs, given to ``step(inputs=...)`` as those of rules are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.prove import Verdict
from optdsl.specifications import library
from optdsl.verification import verify

NUDGED = """
modifier Nudged of g

hyper scale = 0.5 in [0, inf)

input noise
input temperature : shared

hot = where(given(temperature), temperature, 1)
g   = where(given(noise), base.g + scale * hot * noise, base.g)

recovers base at scale = 0
"""
MASKED = """
modifier Masked of update

input mask

for matrices

update = base.update * mask
"""


def rule(directory: Path, combination: str, *modifiers: str) -> Path:
    for text in modifiers:
        name = text.split()[1].lower()
        (directory / f"{name}.opt").write_text(text)
    (directory / "x.opt").write_text(f"optimizer X = {combination}\n")
    return directory / "x.opt"


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_what_is_given_changes_the_gradient(backend: str, tmp_path: Path) -> None:
    """torch's AdamW, with gradients that are changed by hand."""
    source = rule(tmp_path, "AdamW with Nudged", NUDGED)
    ours, theirs = (nn.Parameter(randn(0, 4, 3)) for _ in range(2))
    optimizer = optdsl.load(source, backend=backend)([ours], lr=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.1)
    for t in range(6):
        g, z = randn(2 * t + 1, 4, 3), randn(2 * t + 2, 4, 3)
        inputs = [{"noise": {ours: z}, "temperature": 3.0}, {"noise": {ours: z}}, {}][t % 3]
        ours.grad, theirs.grad = g.clone(), g + 0.5 * (3.0, 1.0, 0.0)[t % 3] * z
        optimizer.step(inputs=inputs)  # type: ignore[arg-type]
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_claims_hold_whatever_is_given(tmp_path: Path) -> None:
    found = verify(library.open_source(rule(tmp_path, "AdamW with Nudged", NUDGED)))
    assert [s.verdict for s in found] == [Verdict.PROVED]


def test_an_input_in_a_section_is_of_its_tensors(tmp_path: Path) -> None:
    source = rule(tmp_path, "Muon with Masked", MASKED)
    cls = optdsl.load(source)
    matrix, vector = nn.Parameter(randn(0, 4, 3)), nn.Parameter(randn(1, 4))
    optimizer = cls([matrix, vector], weight_decay=0.0)
    before = matrix.detach().clone(), vector.detach().clone()
    matrix.grad, vector.grad = randn(2, 4, 3), randn(3, 4)
    mask = torch.zeros_like(matrix)
    mask[0] = 1
    optimizer.step(inputs={"mask": {matrix: mask}})
    assert (matrix != before[0]).any(1).tolist() == [True, False, False, False]
    assert (vector != before[1]).all()
    with pytest.raises(ValueError, match="needs its input at every step"):
        optimizer.step()


def test_inputs_of_one_name_are_one_input(tmp_path: Path) -> None:
    text = "modifier Curved of lr\n\ninput hessian\n\n"
    text += "lr = where(given(hessian), base.lr, 2 * base.lr)\n"
    source = rule(tmp_path, "SophiaG with Curved", text)
    program = library.read(library.open_source(source))
    assert [s.name for s in program.states if s.input] == ["hessian"]


@pytest.mark.parametrize(
    ("combination", "text", "complaint"),
    [
        (
            "Adam with N",
            "modifier N of g\n\ninput lr\n\ng = lr * base.g\n",
            "a hyperparameter here",
        ),
        ("Adam with N", "modifier N of g\n\ninput m\n\ng = m * base.g\n", "a state here"),
        (
            "SophiaG with N",
            "modifier N of g\n\ninput hessian : shared\n\ng = hessian * base.g\n",
            "`hessian` is an input of `N`, and a tensor elsewhere",
        ),
        (
            "Adan with N",
            "modifier N of g\n\ninput z\n\ng = base.g + z\n",
            "`z` is an input, which is given to steps only",
        ),
    ],
)
def test_mistakes_with_inputs(combination: str, text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(optdsl.SpecError, match=complaint):
        optdsl.load(rule(tmp_path, combination, text))
