"""The command line, as a user sees it."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import optdsl
from optdsl.cli import main
from optdsl.diagnostics import Source
from optdsl.report.specification import _equations
from optdsl.specifications import library
from optdsl.specifications.library import read

GOOD = library.open_source("adam").text
# Weight decay is declared and forgotten.
LOOSE = re.sub(r"(h +=) .*", r"\1 g", GOOD)
BAD = GOOD.replace("beta2)", "beta3)")


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optdsl", *arguments], input=stdin, capture_output=True, text=True,
        check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip


def test_check_says_what_it_checked_and_every_mistake(tmp_path: Path) -> None:
    good, bad, worse = (tmp_path / n for n in ("good.opt", "bad.opt", "worse.txt"))
    good.write_text(GOOD)
    bad.write_text(BAD)
    worse.write_text("optimizer A\nx = \ntheta' = thet\n")
    result = run("check", str(good))
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 file, no mistakes\n", "")
    result = run("check", str(good), str(good))
    assert (result.returncode, result.stdout, result.stderr) == (0, "2 files, no mistakes\n", "")
    result = run("check", str(bad), str(good), str(worse))
    assert result.returncode == 1
    assert result.stderr.count("error[unknown-name]") == 3
    assert result.stderr.count("error[syntax]") == 1
    assert "did you mean `beta2`?" in result.stderr
    assert result.stderr.rstrip().endswith("4 mistakes in 2 of 3 files")
    assert "Traceback" not in result.stderr


def test_warnings_are_told_and_strict_ones_are_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "loose.opt"
    path.write_text(LOOSE)
    result = run("check", str(path))
    assert result.returncode == 0
    assert "warning[unused]: the hyperparameter `weight_decay` has no effect" in result.stderr
    result = run("check", "--strict", str(path))
    assert result.returncode == 1
    assert "error[unused]" in result.stderr
    assert result.stderr.rstrip().endswith("1 mistake in 1 file")
    assert "warning[unused]" in run("show", str(path)).stdout


def test_loading_warns_once_and_the_library_never(tmp_path: Path) -> None:
    path = tmp_path / "loose.opt"
    path.write_text(LOOSE.replace("state v", "state u"))
    path.write_text(path.read_text().replace("state u", "state u = 0\nu' = u\nstate v"))
    for _ in range(2):  # the second time from a note
        with pytest.warns(optdsl.SpecWarning) as caught:
            optdsl.load(path)
        (warned,) = caught
        assert warned.filename == __file__
        assert "`weight_decay` has no effect" in str(warned.message)
        assert "nothing reads the state `u`" in str(warned.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in library.list_specs():
            optdsl.load(name)


def test_a_blend_tells_where_a_shared_hyperparameter_acts(tmp_path: Path) -> None:
    """Adam adds its weight decay to the gradient, Adan shrinks the parameter by its own."""
    result = run("blend", "adam", "adan")
    assert "share weight_decay  # in h of Adam, in theta' of Adan" in result.stdout
    told = "note[share]: `weight_decay` acts in different places in the members that share it"
    assert told in result.stderr
    assert "`Adan` has theta' = (theta - lr * update) / (1 + lr * weight_decay)" in result.stderr
    path = tmp_path / "mine.opt"
    assert run("blend", "adam", "adan", "-o", str(path)).returncode == 0
    assert told in run("show", str(path)).stdout
    assert run("check", "--strict", str(path)).returncode == 0  # a note is no mistake
    with pytest.warns(optdsl.SpecWarning) as caught:
        optdsl.blend("adam", "adan")
    (line,) = str(caught[0].message).splitlines()
    assert line.startswith("the rules share weight_decay, and use it in different places; ")
    assert run("blend", "adamw", "avgrad").stderr == ""
    assert "as in `optdsl blend adam lion`" in run("blend", "adam").stderr


def test_a_blend_takes_own_rules_by_path_and_learns_by_none_of_them(tmp_path: Path) -> None:
    for name in ("mine.opt", "sgd.opt"):
        (tmp_path / name).write_text(GOOD.replace("Adam", Path(name).stem.title()))
    mine = str(tmp_path / "mine.opt")
    assert "use Mine, AdamW" in run("blend", mine, "adamw").stdout
    result = run("blend", mine, "adamw", "-o", str(tmp_path / "both.opt"))
    assert result.returncode == 2
    assert "would learn its weights by" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["check", "-"], ["list"], ["show", "mada_legacy"], ["show", "adam", "--ir"]]
)
def test_the_front_half_starts_without_torch_and_pydantic(arguments: list[str]) -> None:
    code = (
        "import sys; from optdsl.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'matplotlib', 'networkx', 'sympy'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=GOOD, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_show_backend_needs_no_torch() -> None:
    code = (
        "import sys; from optdsl.cli import main; main(['show', 'adam', '--backend', 'eager']);"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["check", "nowhere.opt"], "cannot read"),
        (["check", "."], "cannot read"),
        (["show", "adamm"], "did you mean `adam`?"),
        (["show", "adamw wiht clip"], "did you mean 'adamw with clip'?"),
        (["show", "adam", "--backend", "cuda"], "the backends are eager, c, triton"),
        (["show", "adam", "--backend", "auto"], "the backends are eager, c, triton"),
        (["train", "--optimizers", "adamm", "--steps", "1"], "adamm"),
        (["train", "--text", "nowhere.txt"], "nowhere.txt"),
        (["train", "--steps", "0"], "steps must be a whole number, 1 or more, not '0'"),
        (["train", "--steps", "x"], "steps must be a whole number, 1 or more, not 'x'"),
        (["train", "--seeds", "0"], "seeds must be a whole number, 1 or more, not '0'"),
        (["train", "--seed", "-1"], "seed must be a whole number that is not negative, not '-1'"),
        (["train", "--formats", "gif"], "formats must be one or more of png, svg, pdf, not 'gif'"),
        (["train", "--set", "ADAM.beta1=7", "--steps", "1"], "optimizer 'adam' rejects"),
        (["train", "--set", "lion"], "NAME.HYPER=VALUE"),
        ([], "COMMAND"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_usage_errors_are_one_clear_line_and_status_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    told = [x for x in errors.splitlines() if not x.startswith(("usage:", " "))]
    assert len(told) == 1


def test_a_usage_error_of_the_command_is_one_clear_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "optdsl", "show", "adamm"], capture_output=True, text=True,
        check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert result.returncode == 2
    assert "did you mean `adam`?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_text_is_one_line_and_status_2(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    result = run("train", "--text", str(empty), "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert str(empty) in result.stderr.replace("\n", "")
    assert not (tmp_path / "out").exists()


def test_fmt_rewrites_in_place_checks_and_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.opt"
    loose = GOOD.replace(" = ", "=").replace("beta1)", "beta1 )")
    path.write_text(loose)
    path.chmod(0o640)
    assert main(["fmt", "--check", str(path)]) == 1
    assert path.read_text() == loose
    assert main(["fmt", str(path)]) == 0
    assert path.read_text() == GOOD
    assert path.stat().st_mode & 0o777 == 0o640
    assert main(["fmt", "--check", str(path)]) == 0
    assert run("fmt", "-", stdin=loose).stdout == GOOD
    assert [p.name for p in tmp_path.iterdir()] == ["a.opt"]


def test_fmt_shows_what_it_would_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.opt"
    loose = GOOD.replace("s      = h^2", "s=h ^ 2")
    path.write_text(loose)
    assert main(["fmt", "--diff", str(path)]) == 1
    assert path.read_text() == loose
    printed = capsys.readouterr().out.splitlines()
    changed = [line for line in printed if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-s=h ^ 2", "+s      = h^2"]
    path.write_text(GOOD)
    assert main(["fmt", "--diff", str(path)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("check", ["No file is changed"]),
        ("fmt", ["Rewrite each file", "in place", "--check", "--diff"]),
        ("show", ["eager", "triton"]),
        ("train", ["--tuned", "--seeds", "linear warm-up", "cosine", "its file has as defaults"]),
    ],
)
def test_help_says_what_a_command_does(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if word not in text] == []


def test_only_public_names_are_listed() -> None:
    import optdsl
    import optdsl.training

    for module in (optdsl, optdsl.training):
        public = [name for name in dir(module) if not name.startswith("__")]
        assert public == sorted(module.__all__)


def test_fmt_follows_links_and_respects_read_only(tmp_path: Path) -> None:
    target, link = tmp_path / "a.opt", tmp_path / "link.opt"
    target.write_bytes(GOOD.replace("\n", "\r\n").encode("utf-8-sig"))
    link.symlink_to(target)
    assert main(["fmt", "--check", str(link)]) == 1
    assert main(["fmt", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_bytes() == GOOD.encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_fmt_does_not_overwrite_a_read_only_file(tmp_path: Path) -> None:
    path = tmp_path / "a.opt"
    path.write_text(GOOD.replace(" = ", "="))
    path.chmod(0o444)
    assert main(["fmt", str(path)]) == 2


def test_an_unreadable_file_does_not_hide_the_mistakes_of_others(tmp_path: Path) -> None:
    bad = tmp_path / "bad.opt"
    bad.write_text(BAD)
    result = run("check", str(tmp_path / "missing.opt"), str(bad))
    assert result.returncode == 2
    assert "error[unknown-name]" in result.stderr
    assert "missing.opt: No such file" in result.stderr


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("check - <&-", 2, "standard input"),
        ("check - < <(printf '\\377')", 2, "UTF-8"),
        ("show adam > /dev/full", 2, "cannot write"),
    ],
)
def test_odd_streams_are_no_tracebacks(command: str, status: int, words: str) -> None:
    line = f"{sys.executable} -m optdsl {command}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_terminal_without_unicode_shows_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.opt"
    path.write_text(GOOD.replace("Adam:", "Ädam:"), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "optdsl", "show", str(path)], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert result.returncode == 0
    assert "\\xc4dam" in result.stdout


def test_fmt_leaves_a_broken_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.opt"
    path.write_text("optimizer A\nx  =  \n")
    assert main(["fmt", str(path)]) == 1
    assert path.read_text() == "optimizer A\nx  =  \n"


def test_show_tells_equations_hyperparameters_states_and_bytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "mada_legacy"]) == 0
    text = capsys.readouterr().out
    assert "vhat     = debias(rho * v' + (1 - rho) * stop_gradient(V'), beta2)" in text
    assert "beta2         = 0.95    in [0, 1)" in text
    assert "rho    in [0, 1]         by sgd(lr = 0.1, clip = 10)     after 50 steps" in text
    # Six states and six stored tangents of four bytes.
    assert "State: 48 bytes per parameter in float32 in eager code, 24 of them tangents" in text
    assert max(map(len, text.splitlines())) <= 88
    assert main(["show", "mada_legacy", "--no-learn"]) == 0
    assert "State: 24 bytes per parameter" in capsys.readouterr().out


def test_list_names_every_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line[:1].strip()} >= set(library.list_specs())


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m optdsl show mada_legacy --ir | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("program MADALegacy\n", "")


def test_the_page_on_a_modified_rule_keeps_functions_and_constants(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "adamw with direction"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for text in (
        "m' = ema(m, g, beta1)",
        "num = debias(m', beta1)",
        "weight_decay * finite(theta)",
        "direction.scale = stop_gradient(direction.length) / direction.length",
    ):
        assert text in told


def test_functions_are_named_only_where_they_are_meant() -> None:
    """What is shown takes the step of what it is shown for, to the bit."""
    import torch

    from optdsl import interpret

    for text, shown in (
        ("b * m + (1 - b) * g", "ema(m, g, b)"),
        ("b * m + (1 - c) * g", "b * m + (1 - c) * g"),
        ("b * m + (2 - b) * g", "b * m + (2 - b) * g"),
        ("-(g / (1 - b^t))", "-debias(g, b)"),
        ("g / (1 - b^2)", "g / (1 - b^2)"),
        ("max(where(g - g == 0, g, 0), m)", "max(finite(g), m)"),
        ("where(g - g == 0, m, 0)", "where(g - g == 0, m, 0)"),
        ("where(g - g == 0, g, 1)", "where(g - g == 0, g, 1)"),
    ):
        rule = "optimizer A\nhyper b = 0.5 in [0, 1)\nhyper c = 0.5 in [0, 1)\nstate m = 0\n"
        rule += "m' = {}\ntheta' = theta - c * b * m'\n"
        first, second = (read(Source("a", rule.format(value))) for value in (text, shown))
        (found,) = (e for e in _equations(first).items() if e[0] == "m'")
        assert found[1] == shown
        g, m = torch.tensor([1.5, torch.inf], dtype=torch.float64), torch.ones(2)
        ends = [
            interpret.step(p, m, g, {"m": m}, {"b": 0.3, "c": 0.7}, 3).parameter
            for p in (first, second)
        ]
        torch.testing.assert_close(*ends, rtol=0, atol=0, equal_nan=True)
