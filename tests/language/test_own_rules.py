"""Hyperparameters learn by a user's own rules: files beside a specification, or named by a path."""

import pickle
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl import Learn, OptionError, SpecError
from optdsl.specifications import library
from tests.processes import printed

HALF = """
optimizer Half
hyper lr = 0.01 in [0, inf)
state count = 0
count' = count + 1
theta' = theta - 0.5 * lr * g * count'
"""
DESCENT = """
optimizer Descent
hyper lr = 0.1 in [0, 1]
theta' = theta - lr * g
"""
GRADIENTS = (3.0, -2.0, 1.5, 4.0)


def trained(cls: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = cls([parameter])
    step(optimizer)
    return optimizer


def step(optimizer: torch.optim.Optimizer) -> None:
    for g in GRADIENTS:
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()


def expected_rate(rate: float = 0.1) -> float:
    """The learning rate after the steps, by hand: d theta / d lr is minus the last gradient."""
    last = count = 0.0
    for g in GRADIENTS:
        if last:
            count += 1
            rate = min(max(rate + 0.5 * 0.01 * g * last * count, 0.0), 1.0)
        last = g
    return rate


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "half.opt").write_text(HALF)
    (tmp_path / "descent.opt").write_text(DESCENT)
    (tmp_path / "learner.opt").write_text(f"{DESCENT}learn lr by Half(lr = 0.01)\n")
    return tmp_path


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_file_beside_the_specification(directory: Path, backend: str) -> None:
    cls = optdsl.load(directory / "learner.opt", backend=backend, order="exact")
    assert trained(cls).param_groups[0]["lr"] == pytest.approx(expected_rate(), rel=1e-12)
    assert optdsl.load(directory / "learner.opt", backend=backend, order="exact") is cls


def test_a_file_by_its_path(directory: Path) -> None:
    learn = {"lr": Learn(directory / "half.opt", lr=0.01)}
    cls = optdsl.load(directory / "descent.opt", learn=learn, order="exact")
    assert trained(cls).param_groups[0]["lr"] == pytest.approx(expected_rate(), rel=1e-12)
    assert "learned by half" in str(cls.__doc__)
    text = {"lr": Learn(str(directory / "half.opt"), lr=0.01)}
    assert optdsl.load(directory / "descent.opt", learn=text, order="exact") is cls
    with pytest.raises(OptionError, match="half has no hyperparameter 'lrr': did you mean `lr`"):
        optdsl.load("sgd", learn={"lr": Learn(directory / "half.opt", lrr=1, bounds=(0, 1))})


def test_a_changed_file_is_another_rule(directory: Path) -> None:
    def load() -> type[torch.optim.Optimizer]:
        learn = {"lr": Learn(directory / "half.opt")}
        return optdsl.load(directory / "descent.opt", learn=learn, order="exact")

    first = load()
    (directory / "half.opt").write_text(HALF.replace("0.5 *", "0 *"))
    assert load() is not first
    assert trained(load()).param_groups[0]["lr"] == 0.1


def test_a_pickle_carries_the_rule(directory: Path) -> None:
    """It is loaded where the files are not."""
    optimizer = trained(optdsl.load(directory / "learner.opt", order="exact"))
    content = directory / "optimizer.pickle"
    content.write_bytes(pickle.dumps(optimizer))
    for path in directory.glob("*.opt"):
        path.unlink()
    code = (
        f"import pickle; o = pickle.load(open({str(content)!r}, 'rb'));"
        "g = o.param_groups[0]['params'][0]; g.grad = g.detach().clone(); o.step();"
        "print(o.param_groups[0]['lr'])"
    )
    learned = float(printed(code))
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = parameter.detach().clone()
    optimizer.step()
    assert learned == optimizer.param_groups[0]["lr"]


def test_the_nearer_rule_is_meant(directory: Path) -> None:
    """As in `use`; a file that is called like the rule by which it learns means the library's."""
    (directory / "sgd.opt").write_text(HALF.replace("Half", "SGD"))
    (directory / "learner.opt").write_text(f"{DESCENT}learn lr by SGD(lr = 0.01)\n")
    cls = optdsl.load(directory / "learner.opt", order="exact")
    assert trained(cls).param_groups[0]["lr"] == pytest.approx(expected_rate(), rel=1e-12)
    (directory / "sgd.opt").write_text(f"{DESCENT}learn lr by SGD(momentum = 0)\n")
    assert library.read(library.open_source(directory / "sgd.opt")).learned[0].rule == "sgd"


def test_a_blend_of_paths_learns_and_takes_own_rules(directory: Path) -> None:
    other = directory / "elsewhere"
    other.mkdir()
    (other / "double.opt").write_text(
        DESCENT.replace("Descent", "Double").replace("lr *", "2 * lr *")
    )
    learn = {"w": Learn(directory / "half.opt")}
    cls = optdsl.blend(directory / "descent.opt", str(other / "double.opt"), "sgd", learn=learn)
    optimizer = trained(cls)
    weights = [optimizer.param_groups[0][f"w_{name}"] for name in ("descent", "double", "sgd")]
    assert sum(weights) == pytest.approx(1)
    # The bigger step along such gradients lowers the loss more.
    assert weights[1] == max(weights) > 1 / 3 + 1e-3


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("learn lr by Halff", "did you mean `half`"),
        ("learn lr by Half(momentum = 1)", "half has no hyperparameter `momentum`"),
        ("learn lr by Half(lr = -1)", "must lie in"),
        ("learn lr by Broken", "unknown name `nothing`"),
        ("learn lr by Circle", "is made of itself"),
        ("learn lr by Twice", "may be any of several files"),
    ],
)
def test_mistakes_are_told(directory: Path, statement: str, words: str) -> None:
    (directory / "broken.opt").write_text(DESCENT.replace("- lr", "- nothing"))
    (directory / "circle.opt").write_text(f"{DESCENT}learn lr by Learner\n")
    (directory / "twice.opt").write_text(HALF)
    (directory / "TWICE.opt").write_text(HALF)
    (directory / "learner.opt").write_text(f"{DESCENT}{statement}\n")
    with pytest.raises(SpecError, match=words):
        optdsl.load(directory / "learner.opt")


def test_paths_that_cannot_be(directory: Path) -> None:
    bounds = (0, 1)
    with pytest.raises(OptionError, match="cannot be read"):
        optdsl.load("sgd", learn={"lr": Learn("./missing.opt", bounds=bounds)})
    other = directory / "other"
    other.mkdir()
    (other / "half.opt").write_text(HALF.replace("0.5", "0.25"))
    two = [Learn(d / "half.opt", bounds=bounds) for d in (directory, other)]
    with pytest.raises(OptionError, match="two rules of one name"):
        optdsl.load("sgd", learn={"lr": two[0], "momentum": two[1]})


@pytest.mark.parametrize("name", ["Sgdd", "SGDD", "sgdd"])
def test_a_misspelt_rule_is_found_whatever_its_case_and_the_file_itself_is_not_meant(
    directory: Path, name: str
) -> None:
    (directory / "sgddd.opt").write_text(f"{DESCENT}learn lr by {name}(lr = 0.01)\n")
    with pytest.raises(SpecError, match="did you mean `sgd`"):
        optdsl.load(directory / "sgddd.opt")
    (directory / "mixed.opt").write_text(f"blend Mixed\nuse {name}, Adam\n")
    (directory / "sgddd.opt").unlink()
    with pytest.raises(SpecError, match="did you mean `sgd`"):
        optdsl.load(directory / "mixed.opt")
