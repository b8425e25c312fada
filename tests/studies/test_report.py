"""The report: verdicts, tables, and the page in a browser."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from optdsl.cli import main
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Judged, Table, Verdict
from optdsl.pages.html import Page, render
from optdsl.studies.catalog import STUDIES
from optdsl.studies.catalog.counterexample import CounterexampleStudy
from optdsl.studies.conduct import conduct
from optdsl.studies.frame.files import read_study, write_study
from optdsl.studies.frame.values import Results

from .test_frame import Here
from .toys import ToyStudy

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), "")


def claim(*met: bool | None) -> Claim:
    return Claim("A", "said", "measured", tuple(Criterion("x < 1", "x = 0", m) for m in met))


def test_a_verdict_follows_from_the_criteria() -> None:
    assert claim(True, True).verdict is Verdict.HOLDS
    assert claim(True, False).verdict is Verdict.IN_PART
    assert claim(False, False).verdict is Verdict.NOT_HERE
    assert claim(True, None).verdict is claim().verdict is Verdict.UNKNOWN
    assert claim(True, False).sentence == "The claim holds in part: 1 of 2 criteria are met."


def draw(figure: Figure) -> None:
    figure.subplots().plot([0, 1], [1, 0], label="<a & b>")


def page(tmp_path: Path) -> Path:
    chart = Chart("figure-a", "A line & more.", draw)
    tables = (Table("T", ("name", "value"), (("<x>", Judged("1 & more", False)),)),)
    claims = [
        Claim("First <claim>", "p", "m", (Criterion("a", "b", True),), (chart,), tables),
        Claim("Second", "p", "m", (Criterion("a", "b", False),), (Chart("b", "B.", draw),)),
    ]
    chapters = [Chapter("one", "One", "Text.", claims)]
    commands = {"one": "optdsl study one.yaml"}
    text = render(Page("A page", ["Hello."], chapters, commands, ["run 1: no"]), tmp_path)
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    text = page(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in text
    # Names of XML vocabularies are addresses that nobody opens.
    loaded = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"|@import|url\((?!#)', text)
    assert not [address for address in loaded if address]
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert "First &lt;claim&gt;" in text
    assert '<td>&lt;x&gt;</td><td class="bad">1 &amp; more</td>' in text
    assert {"figure-a.png", "figure-a.svg", "b.png"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.skipif(not BROWSER, reason="there is no browser here")
@pytest.mark.parametrize("width", [390, pytest.param(1200, marks=pytest.mark.exhaustive)])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    path = page(tmp_path)
    shot = tmp_path / "shot.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    options += [f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900"]
    command = [BROWSER, *options]
    seen = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in seen.stderr
    assert seen.stdout.count("<figure") == 2
    assert len(re.findall(r"<svg[^>]*viewBox", seen.stdout)) == 2
    subprocess.run(
        [*command, f"--screenshot={shot}", path.as_uri()], capture_output=True, timeout=120
    )
    assert shot.stat().st_size > 5000


WIDE = ("name", *(f"a column of some words, {n}" for n in range(12)))
# Where boxes of a page in a frame end, whether a table scrolls, and where its caption is then.
MEASURE = """onload = () => {
  const page = frames[0].document, ends = (what) => Math.max(...[...page.querySelectorAll(what)]
    .map((box) => box.getBoundingClientRect().right));
  const box = page.querySelector(".wide:has(thead)"), scrolls = box.scrollWidth > box.clientWidth;
  box.scrollLeft = 200;
  const caption = page.querySelector("article caption").getBoundingClientRect();
  document.body.dataset.found = [page.documentElement.scrollWidth, ends("svg"), ends(".wide"),
    scrolls, Math.round(caption.left), caption.right < 390].join(" ");
}"""


@pytest.mark.skipif(not BROWSER, reason="there is no browser here")
def test_a_phone_shows_whole_figures_and_wide_tables_in_boxes(tmp_path: Path) -> None:
    table = Table("A caption", WIDE, (tuple(f"{n}.{n}{n}" for n in range(13)),))
    chart = Chart("wide", "A line.", draw)
    claims = [Claim("A", "p", "m", (Criterion("a", "b", True),), (chart,), (table,))]
    text = render(Page("A page", [], [Chapter("one", "One", "T.", claims)], {}), tmp_path)
    frame = f'<iframe width="390" height="4000" style="border:0" srcdoc="{escape(text)}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!DOCTYPE html><body>{frame}<script>{MEASURE}</script></body>")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=800,1000"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    seen = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="(\S+) (\S+) (\S+) (\S+) (\S+) (\S+)"', seen.stdout)
    assert found, seen.stderr
    width, figures, boxes, scrolls, left, whole = found.groups()
    assert float(width) == 390
    assert float(figures) <= 374
    assert float(boxes) <= 374
    # The caption stays where it is while the table moves.
    assert (scrolls, left, whole) == ("true", "16", "true")


def test_a_study_writes_its_report(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    out = tmp_path / "out"
    study = ToyStudy(trace=tmp_path / "trace", does="fail")
    text = conduct([study], out, Here()).read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert "ValueError: the toy is broken" in text
    assert "not decided" not in text
    assert "The claim does not hold here" in text
    assert read_study(out / "toy.yaml", {"toy": ToyStudy}) == study
    with (out / "toy.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    squares = [(row["number"], row["value"]) for row in rows if row["quantity"] == "square"]
    assert squares == [("2", "4.0"), ("3", "9.0")]
    with (out / "toy-series.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["value"] for row in found] == ["1.0", "nan"] * 2
    assert {row["key"] for row in found} < {row["key"] for row in rows} | {""}
    table = (out / "tables" / "toy-1-1.csv").read_text(encoding="utf-8")
    assert table == "number,square\n2,small\n"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_described_before_it_is_measured(name: str, tmp_path: Path) -> None:
    for study in (STUDIES[name].quick(), STUDIES[name].model_validate({"study": name})):
        (tmp_path / "study.yaml").write_text(write_study(study), encoding="utf-8")
        assert read_study(tmp_path / "study.yaml", STUDIES) == study
        runs = study.runs(Results())
        assert len({run.label for run in runs}) > 0
    study = STUDIES[name].quick()
    chapter = study.chapter(Results())
    assert all(claim.verdict is Verdict.UNKNOWN for claim in chapter.claims)
    for claim in chapter.claims:
        for chart in claim.charts:
            chart.draw(Figure())  # of nothing


def test_the_settings_in_the_document_are_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(f"study: robustness\n{block}", encoding="utf-8")
    study = read_study(path, STUDIES)
    labels = [contestant.label for contestant in study.contestants]  # type: ignore[attr-defined]
    assert labels == ["β1 by sign", "prodigy"]
    assert study.contestants[0].elaboration().learned[0].hyper == "beta1"  # type: ignore[attr-defined]


def test_a_tiny_study_runs_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optdsl.studies.conduct.executor_of", lambda _: Here())
    study = CounterexampleStudy(steps=300, rhos=(0.0, 1.0), rho_steps=300)
    path = tmp_path / "mine.yaml"
    path.write_text(write_study(study), encoding="utf-8")
    out = tmp_path / "out"
    assert main(["study", str(path), "--out", str(out)]) == 0
    assert "7/7" in capsys.readouterr().out
    assert main(["study", str(path), "--out", str(out)]) == 0
    assert "0 runs to do, 7 found in the store" in capsys.readouterr().out
    assert "Adam goes to +1" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["languages"], "did you mean `language`?"),
        (["cost", "cost"], "named twice"),
        (["cost", "--executor", "slurm"], "the executors are local and ray"),
        (["cost", "--seeds", "0"], "--seeds must be 1 or more"),
        (["language", "--text", "none.txt"], "there is no 'none.txt'"),
        (["none.yaml"], "cannot read 'none.yaml'"),
        (["none.yaml", "--quick"], "--quick is for studies by name"),
    ],
)
def test_a_mistake_in_the_request_is_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", *arguments, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["counterexample", "interpolation"])
def test_a_share_out_of_bounds_is_told_before_anything_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"study: {name}\nrhos: [0.5, 2.5]\n")
    assert main(["study", str(file), "--out", str(tmp_path / "out")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "rhos" in told
    assert "less than or equal to 1" in told
    assert not (tmp_path / "out").exists()
