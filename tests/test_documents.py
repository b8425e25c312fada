"""What the documents show is what happens."""

import re
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl import library
from optdsl.diagnostics import Source, SpecError
from optdsl.ir.ops import FUNCTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LANGUAGE = (ROOT / "docs" / "language.md").read_text()


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
    model = torch.nn.Linear(3, 2)
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


def test_the_language_page_names_every_function() -> None:
    named = set(re.findall(r"`([a-z_]+)\(", LANGUAGE))
    assert named >= {*FUNCTIONS, *library.prelude()}


def test_links_between_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
