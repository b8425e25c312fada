"""The sdist and the wheel hold what they should, and read the same as a checkout."""

import email
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import optdsl

ROOT = Path(__file__).resolve().parents[2]
STEM = f"optdsl-{optdsl.__version__}"

READ_EVERYTHING = """
import json
from optdsl import resources as r
specs = {name: [r.spec_path(name).name, r.spec_text(name)] for name in r.spec_names()}
texts = {"grammar": r.grammar_text(), "prelude": r.prelude_text(), "specs": specs}
print(json.dumps({"file": r.__file__, "texts": texts}))
"""


@dataclass(frozen=True)
class Distributions:
    sdist: Path
    wheel: Path  # built from the sdist, as an installer would

    def sdist_names(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            names = archive.getnames()
        assert all(name.startswith(f"{STEM}/") for name in names)
        return {name.removeprefix(f"{STEM}/") for name in names}

    def wheel_names(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


@dataclass(frozen=True)
class Reading:
    file: Path
    texts: dict[str, object]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Distributions(sdist=out / f"{STEM}.tar.gz", wheel=out / f"{STEM}-py3-none-any.whl")


def read_everything(somewhere_else: Path, python_path: Path | None) -> Reading:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if python_path is not None:
        environment["PYTHONPATH"] = str(python_path)
    done = subprocess.run(
        [sys.executable, "-c", READ_EVERYTHING],
        cwd=somewhere_else,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return Reading(file=Path(answer["file"]).resolve(), texts=answer["texts"])


def data_files() -> set[str]:
    files = [*(ROOT / "specs").glob("*.*"), *(ROOT / "grammars").glob("*")]
    return {path.relative_to(ROOT).as_posix() for path in files}


@pytest.mark.slow
class TestContent:
    def test_sdist(self, distributions: Distributions) -> None:
        names = distributions.sdist_names()
        assert data_files() <= names
        assert {
            "LICENSE",
            "Makefile",
            "PKG-INFO",
            "README.md",
            "constraints.txt",
            "optdsl/optimizers.pyi",
            "optdsl/py.typed",
            "optdsl/resources.py",
            "pyproject.toml",
            "tests/packaging/test_distributions.py",
        } <= names
        assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]

    def test_wheel(self, distributions: Distributions) -> None:
        names = distributions.wheel_names()
        assert {f"optdsl/_{name}" for name in data_files()} <= names
        assert {
            "optdsl/optimizers.pyi",
            "optdsl/py.typed",
            "optdsl/resources.py",
            f"{STEM}.dist-info/licenses/LICENSE",
        } <= names
        assert {name.split("/")[0] for name in names} == {"optdsl", f"{STEM}.dist-info"}
        assert not [name for name in names if "__pycache__" in name]

    def test_wheel_holds_every_module(self, distributions: Distributions) -> None:
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "optdsl").rglob("*.py")}
        assert modules <= distributions.wheel_names()

    def test_metadata(self, distributions: Distributions) -> None:
        with zipfile.ZipFile(distributions.wheel) as archive:
            metadata = email.message_from_bytes(archive.read(f"{STEM}.dist-info/METADATA"))
            entry_points = archive.read(f"{STEM}.dist-info/entry_points.txt").decode()
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata["License-File"] == "LICENSE"
        assert metadata["Requires-Python"] == ">=3.11"
        assert "optdsl = optdsl.cli:main" in entry_points
        urls = dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))
        assert set(urls) == {"Source", "Documentation", "Changelog", "Issues"}
        assert all(url.startswith(urls["Source"]) for url in urls.values())

    def test_the_links_of_the_readme_work_on_a_package_index(
        self, distributions: Distributions
    ) -> None:
        with zipfile.ZipFile(distributions.wheel) as archive:
            text = archive.read(f"{STEM}.dist-info/METADATA").decode()
        assert "Description-Content-Type: text/markdown" in text
        targets = re.findall(r"\]\(([^)\s]+)\)", text)
        assert len(targets) >= 15
        assert [target for target in targets if not target.startswith("https://")] == []
        source = "https://github.com/optdsl/optdsl"
        assert f"{source}/blob/main/docs/language.md" in targets
        assert f"{source}/raw/main/docs/pictures/training.png" in targets
        # Each leads to a file of the repository, and the rest of the text is the README's.
        own = [target for target in targets if target.startswith(source)]
        paths = [re.sub(f"{source}/(blob|raw)/main/", "", target) for target in own]
        assert [path for path in paths if not (ROOT / path).exists()] == []
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert readme in re.sub(f"{source}/(blob|raw)/main/", "", text)


@pytest.mark.slow
class TestReading:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Reading:
        reading = read_everything(tmp_path, ROOT)
        assert reading.file == ROOT / "optdsl/resources.py"
        assert reading.texts["specs"]
        return reading

    def test_wheel_reads_as_the_checkout(
        self, distributions: Distributions, checkout: Reading, tmp_path: Path
    ) -> None:
        unpacked = tmp_path / "unpacked"
        with zipfile.ZipFile(distributions.wheel) as archive:
            archive.extractall(unpacked)
        wheel = read_everything(tmp_path, unpacked)
        assert wheel.file == (unpacked / "optdsl/resources.py").resolve()
        assert wheel.texts == checkout.texts
        code = (
            "import optdsl\n"
            "for name in optdsl.list_specs(): optdsl.load(name)\n"
            "print(optdsl.__file__)"
        )
        environment = {**os.environ, "PYTHONPATH": str(unpacked)}
        loaded = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(loaded.stdout.strip()).is_relative_to(unpacked)

    def test_editable_install_reads_as_the_checkout(
        self, checkout: Reading, tmp_path: Path
    ) -> None:
        if not editable_here():
            pytest.skip("this checkout is not installed in editable mode")
        editable = read_everything(tmp_path, None)
        assert editable.file == checkout.file
        assert editable.texts == checkout.texts


def editable_here() -> bool:
    try:
        origin = importlib.metadata.distribution("optdsl").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    if origin is None:
        return False
    record = json.loads(origin)
    return record.get("dir_info", {}).get("editable", False) and record["url"] == ROOT.as_uri()


def test_the_citation_names_the_same_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [optdsl.__version__]


def test_the_citation_names_the_same_repository() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert f'repository-code: "{urls["Source"]}"' in citation.splitlines()


def pinned(file: str) -> dict[str, str]:
    """The versions that a file of constraints names, by package."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9.a-z]+", pin) for pin in pins)
    return dict(pin.split("==") for pin in pins)


def test_every_requirement_is_constrained() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    trainers = {"ecosystem", "timm"}
    common = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    own = itertools.chain(
        *project["optional-dependencies"].values(),
        *(wanted for group, wanted in groups.items() if group not in trainers),
    )
    others = itertools.chain(*(groups[group] for group in trainers))
    for file, requirements in [
        ("constraints.txt", [*common, *own]),
        ("constraints-ecosystem.txt", [*common, *others]),
    ]:
        # A group may include another one, which is looked at itself.
        named = [r for r in requirements if isinstance(r, str)]
        wanted = {re.split(r"[^A-Za-z0-9-]", r)[0].lower() for r in named}
        assert wanted <= set(pinned(file))


def test_the_trainers_are_tested_with_the_same_torch() -> None:
    assert pinned("constraints-ecosystem.txt")["torch"] == pinned("constraints.txt")["torch"]
