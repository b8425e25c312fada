"""The template of a package of specifications works when it is installed."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import optdsl
from optdsl.cli import main

TEMPLATE = Path(__file__).resolve().parents[2] / "docs" / "package-template"


@pytest.mark.slow
def test_the_template_is_installed_and_its_rules_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, target = tmp_path / "copy", tmp_path / "target"
    shutil.copytree(TEMPLATE, copy)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(str(target))
    # Its own tests are those of a user who has installed it.
    for name, test in runpy.run_path(str(copy / "tests" / "test_my_rules.py")).items():
        if name.startswith("test_"):
            test()
    assert "my_rules" not in sys.modules
    assert optdsl.load("MyRule with my_half").__name__ == "MyRuleWithMyHalf"
    capsys.readouterr()
    assert main(["show", "my_rule"]) == 0
    assert "Polyak" in capsys.readouterr().out
