"""What the documents show is what happens."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import optdsl
from optdsl.diagnostics import Source, SpecError
from optdsl.ir.ops import FUNCTIONS
from optdsl.specifications import library
from optdsl.syntax.format import format
from optdsl.syntax.parse import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LANGUAGE = (ROOT / "docs" / "language.md").read_text()
PAPER = (ROOT / "docs" / "from-paper-to-spec.md").read_text()


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def test_the_specification_in_the_readme_is_the_librarys() -> None:
    assert blocks(README)[0] == library.open_source("adam").text


def test_the_mistake_in_the_readme_is_rendered_so() -> None:
    text = library.open_source("adam").text.replace("debias(v', beta2)", "debias(v', beta3)")
    with pytest.raises(SpecError) as caught:
        library.read(Source("mine.opt", text))
    assert f"{caught.value}\n" in blocks(README)


def test_the_python_of_the_readme_runs() -> None:
    class Model(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.hidden, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
            self.embed = torch.nn.Embedding(3, 2)

    model = Model()
    names = {
        "model": model,
        "loss": model(torch.randn(4, 3)).square().mean(),
        "text": library.open_source("adam").text,
    }
    for block in blocks(README, "python"):
        exec(block, names)
    assert set(names["opt"].metrics()) >= {"rho", "hypergradient/rho"}


def test_the_commands_of_the_readme_exist() -> None:
    from optdsl.cli import _parser

    for line in re.findall(r"^\$ optdsl (.*?)(?:\s+[#>].*)?$", README, flags=re.MULTILINE):
        assert _parser().parse_args(line.split()).command


def test_the_example_of_the_language_compiles() -> None:
    assert optdsl.compile(blocks(LANGUAGE)[0]).__name__ == "Momentum"


def test_the_evaluation_points_of_the_language_page_are_there() -> None:
    text = next(b for b in blocks(LANGUAGE) if b.startswith("optimizer AveragedSGD"))
    assert optdsl.compile(text).compiled.evaluates
    modifier = next(b for b in blocks(LANGUAGE) if b.startswith("modifier EmaWeights"))
    assert modifier.splitlines()[1:] == [
        line
        for line in library.open_source("ema_weights").text.splitlines()[2:]
        if not line.startswith("#")
    ]
    for block in blocks(LANGUAGE, "python"):
        exec(block, {})


def test_the_rules_of_matrices_in_the_documents_take_steps() -> None:
    """Each on a matrix, a vector, and a stack of matrices."""
    every = [b for text in (LANGUAGE, PAPER) for b in blocks(text)]
    texts = [b for b in every if not b.startswith("modifier")]
    found = [b for b in texts if re.search(r"^for .*matrices$", b, flags=re.MULTILINE)]
    names = []
    for text in found:
        cls = optdsl.compile(text)
        names.append(cls.__name__)
        parameters = [torch.nn.Parameter(torch.randn(s)) for s in [(3, 4), (5,), (2, 4, 3)]]
        before = [p.detach().clone() for p in parameters]
        optimizer = cls(parameters)
        for _ in range(2):
            for p in parameters:
                p.grad = torch.randn_like(p)
            optimizer.step()
        for p, old in zip(parameters, before, strict=True):
            assert torch.isfinite(p).all(), text
            assert not torch.equal(p, old), text
    assert names == [
        "RowScaled",
        "Standardized",
        "Shampoo",
        "LowRank",
        "ScaledSigns",
        "Factored",
        "SignsForMatrices",
        "Powers",
        "MyMuon",
    ]


def test_the_rules_that_draw_and_store_in_the_documents_take_steps() -> None:
    for name in ("NoisySGD", "SmallMomentum"):
        text = next(b for b in blocks(LANGUAGE) if b.startswith(f"optimizer {name}"))
        theta = torch.nn.Parameter(torch.ones(6, dtype=torch.bfloat16))
        optimizer = optdsl.compile(text)([theta], seed=1)
        theta.grad = torch.ones_like(theta)
        optimizer.step()
        assert torch.isfinite(theta).all()
        assert optimizer.param_groups[0]["seed"] == 1
    assert optimizer.state[theta]["b"].dtype is torch.bfloat16


def test_the_sums_over_all_tensors_of_the_language_page_are_there() -> None:
    text = next(b for b in blocks(LANGUAGE) if b.startswith("optimizer GlobalAdaGrad"))
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 2)]
    optimizer = optdsl.compile(text)(parameters)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [g["shared/n"] for g in optimizer.param_groups] == [5.0]
    torch.testing.assert_close(parameters[0].detach(), torch.full((3,), -0.1 / 5**0.5))


def test_every_rule_and_modifier_stands_on_the_page_of_what_can_be_said() -> None:
    page = (ROOT / "docs" / "what-it-can-say.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", page))
    modifiers = {p.stem for p in (ROOT / "specs" / "modifiers").glob("*.opt")}
    assert named >= {*optdsl.list_specs(), *modifiers}
    assert set(re.findall(r"`([a-z_]+)`", README)) >= set(optdsl.list_specs())


def test_the_python_of_the_page_about_papers_runs() -> None:
    """With the specifications that the page shows, whose modifier is the library's."""
    cautious, modifier, muon = (b for b in blocks(PAPER) if b.startswith(("optimizer", "modifier")))
    names: dict[str, Any] = {"cautious": cautious, "muon": muon}
    for block in blocks(PAPER, "python"):
        exec(block, names)
    shown = [line for line in library.open_source("cautious").text.splitlines() if line[:1] != "#"]
    assert modifier.splitlines() == shown


def test_the_language_page_names_every_function() -> None:
    named = set(re.findall(r"`([a-z_0-9]+)\(", LANGUAGE))
    assert named >= {*FUNCTIONS, *library.prelude()}


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


BLENDING = (ROOT / "docs" / "blending.md").read_text()


def test_the_sampled_rule_of_the_learning_page_is_as_the_page_says() -> None:
    (text,) = (b for b in blocks(LEARNING) if b.startswith("optimizer Sampled"))
    assert format(parse(Source("sampled.opt", text))) == text
    theta = torch.nn.Parameter(torch.zeros(16 * 8 * 2048))
    optimizer = optdsl.compile(text)([theta])
    assert optimizer.compiled.program.sample == 8
    theta.grad = torch.ones_like(theta)
    optimizer.step()
    kept = {k: x.numel() for k, x in optimizer.state[theta].items() if "/" in k}
    assert kept.keys() & {"tangent/beta1", "pending/g"}
    assert max(kept.values()) == 16 * 2048


def test_the_blends_of_the_documents_compile() -> None:
    found = [b for text in (LANGUAGE, BLENDING) for b in blocks(text) if b.startswith("blend ")]
    assert [optdsl.compile(b).__name__ for b in found] == ["Pair", "Gated"]


def test_the_specifications_of_the_documents_are_in_the_canonical_layout(tmp_path: Path) -> None:
    from optdsl.cli import main

    texts = [b for text in (LANGUAGE, BLENDING, PAPER) for b in blocks(text)]
    found = [b for b in texts if b.startswith(("blend ", "optimizer ", "modifier "))]
    assert len(found) == 23
    files = [tmp_path / f"{number}.opt" for number in range(len(found))]
    for file, text in zip(files, found, strict=True):
        file.write_text(text)
    assert main(["fmt", "--check", *map(str, files)]) == 0


def test_the_files_that_documents_name_exist() -> None:
    """Relative to the repository or to one of its packages; examples are named mine or my_rule."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    package = ROOT / "optdsl"
    bases = [ROOT, package, *(p for p in package.rglob("*") if p.is_dir())]
    for document in documents:
        for name in re.findall(r"`([\w./]+\.(?:py|pyi|lark|opt))`", document.read_text()):
            if Path(name).stem in {"NAME", "mine", "my_rule"}:
                continue
            assert any((base / name).exists() for base in bases), f"{document.name}: {name}"


def test_the_fragment_of_a_weight_vector_is_one() -> None:
    fragment = next(b for b in blocks(BLENDING) if b.startswith("hyper w"))
    compiled = optdsl.compile("blend B\nuse Adam, AVGrad, Lion\n" + fragment).compiled
    assert [s.name for s in compiled.program.simplexes] == ["w"]


def test_the_python_of_the_blending_page_runs() -> None:
    names = {"model": torch.nn.Linear(3, 2)}
    for block in blocks(BLENDING, "python"):
        exec(block, names)
    assert names["opt"].metrics()["w_lion"] == 1 / 3


def test_what_the_blending_page_shows_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from optdsl.cli import main

    shown = [b for b in blocks(BLENDING, "console") if "..." in b]
    assert len(shown) == 2
    for block in shown:
        command, *lines = block.splitlines()
        assert main(command.removeprefix("$ optdsl ").split()) == 0
        printed = capsys.readouterr().out.splitlines()
        expected = [line for line in lines if line != "..."]
        start = printed.index(expected[0])
        assert printed[start : start + len(expected)] == expected


def test_the_blending_page_lists_the_librarys_blends() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", BLENDING, flags=re.MULTILINE))
    texts = {name: library.open_source(name).text for name in optdsl.list_specs()}
    assert listed == {name for name, text in texts.items() if text.startswith("blend ")}


def test_the_language_page_names_every_reserved_word() -> None:
    from optdsl.syntax.parse import KEYWORDS

    listed = re.search(r"The words `([a-z\s]+)` are reserved", LANGUAGE)
    assert listed
    assert set(listed[1].split()) == {word.lower() for word in KEYWORDS}


LEARNING = (ROOT / "docs" / "learning.md").read_text()


class DictLogger:
    """In place of a logger that is not installed: what was logged, by step."""

    steps: dict[int, dict[str, float]]

    def __init__(self, **_: Any) -> None:
        self.steps = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.steps.setdefault(step, {})[name] = value

    def log(self, values: dict[str, float], step: int) -> None:
        self.steps.setdefault(step, {}).update(values)


def test_the_loggers_of_the_learning_page_get_every_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package, name in (("torch.utils.tensorboard", "SummaryWriter"), ("wandb", "init")):
        stand_in = ModuleType(package)
        setattr(stand_in, name, DictLogger)
        monkeypatch.setitem(sys.modules, package, stand_in)
    names: dict[str, Any] = {
        "optdsl": optdsl,
        "model": torch.nn.Linear(3, 2),
        "loss_of": lambda model, x, y: (model(x) - y).square().mean(),
        "batches": [(torch.randn(4, 3), torch.randn(4, 2)) for _ in range(3)],
        "torch": torch,
        "held_out_x": torch.randn(4, 3),
        "held_out_y": torch.randn(4, 2),
    }
    for block in blocks(LEARNING, "python"):
        exec(block, names)
    written, logged = names["writer"].steps, names["run"].steps
    assert list(written) == list(logged) == [0, 1, 2]
    assert {"optimizer/rho", "optimizer/hypergradient/rho"} <= set(written[2])
    of_tensors = {
        f"{key}/{x}" for key in ("lr", "hypergradient/lr") for x in ("mean", "min", "max")
    }
    assert set(logged[2]) == {"loss", *of_tensors}
    everything = [v for steps in (written, logged) for s in steps.values() for v in s.values()]
    assert all(type(value) is float for value in everything)
    assert set(names["own"]) == {"weight", "bias"}
    assert names["momentum"].shape == names["model"].weight.shape
    own = names["own"].values()
    assert (min(own), max(own)) == (logged[2]["lr/min"], logged[2]["lr/max"])


def test_the_statements_of_the_learning_page_compile() -> None:
    """Each with a rule that has the hyperparameter."""
    text = "optimizer Own\nhyper rho = 0.5 in [0, 1]\ntheta' = theta - rho * g\n"
    found = re.findall(r"`(learn rho [^`]*SGD[^`]*)`", LEARNING)
    assert len(found) >= 3
    for statement in found:
        assert optdsl.compile(text + statement).compiled.program.learned
