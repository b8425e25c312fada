"""The table of the library is what the specifications, their states and the tests are."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import optdsl
from optdsl.cli import main
from optdsl.report import library as table, table as printed
from optdsl.resources import library_table_path
from optdsl.runtime.engines import selection
from optdsl.runtime.engines.eager import EagerEngine
from tests import differences

pytestmark = pytest.mark.broad(4)

ROOT = Path(__file__).parents[2]
ROWS = table.rows()


def test_the_stored_table_and_the_document_are_up_to_date() -> None:
    made = table.made()
    stored = library_table_path().read_text(encoding="utf-8")
    assert stored == table.stored_text(made), "run `make stubs`"
    assert printed.place_of_page().read_text(encoding="utf-8") == printed.page(made), (
        "run `make stubs`"
    )
    assert ROWS == made


def test_a_table_of_other_texts_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "library.json"
    place.write_text('{"texts": "of another library", "rows": []}')
    monkeypatch.setattr(table.resources, "library_table_path", lambda: place)
    monkeypatch.setattr(table, "made", lambda: ROWS[:1])
    assert table.rows() == ROWS[:1]


def test_every_specification_is_compared_with_something_by_a_test_that_is_there() -> None:
    texts: dict[str, str] = {}
    for row in ROWS:
        assert row.references, f"specs/references.toml says nothing of {row.name}"
        for reference in row.references:
            file, *names = reference.test.split("::")
            if file not in texts:
                # Rules are named in test files, in what they import, and in their specifications.
                beside = [ROOT / file, *(ROOT / file).parent.glob("*.opt")]
                texts[file] = "\n".join(p.read_text(encoding="utf-8") for p in beside)
            body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
            for name in names:
                found = [x for x in body if getattr(x, "name", None) == name]
                assert found, f"{row.name}: there is no test {reference.test}"
                body = getattr(found[0], "body", [])
            where = f"{row.name}: {file} does not have"
            folded = texts[file].lower().replace("_", "")
            assert row.name.replace("_", "") in folded, f"{where} the rule"
            if not reference.against.endswith(("by hand", "in float64")):
                other = reference.against.split("(")[0].split(".")[-1]
                assert other in texts[file], f"{where} {other}"
            if reference.within:
                spelled = f"{reference.within:g}".replace("e-0", "e-")
                assert spelled in texts[file], f"{where} the bound {spelled}"


def test_every_difference_within_a_bound_is_measured() -> None:
    for row in ROWS:
        for r in row.references:
            known = r.measured is not None and 0 <= r.measured < 1e-8
            told = f"run `python -m tests.library.measure {row.name}` and `make stubs`"
            assert known == (r.within is not None), told
    names = {row.name: {r.test for r in row.references} for row in ROWS}
    for name, own in differences.recorded().items():
        assert own.keys() <= names.get(name, set()), f"specs/measured.json has more of {name}"


def test_differences_are_measured_and_growing_ones_are_told() -> None:
    x = torch.tensor([1.0, -4.0], dtype=torch.float64)
    with differences.measuring() as found:
        torch.testing.assert_close([x, x + 1], [x, x + 1])
        differences.note({"p": x + torch.tensor([0.0, 1e-3])}, {"p": x})
        torch.testing.assert_close(x.float(), x.float() + 1, atol=2, rtol=0)  # of no account
        with pytest.raises(AssertionError):
            torch.testing.assert_close(torch.zeros(1), torch.ones(1))
    assert found == pytest.approx([0, 0, 1e-3 / 4])
    torch.testing.assert_close(x, x + 1, atol=2, rtol=0)
    assert len(found) == 3
    (test,) = differences.recorded()["adam"]
    recorded = differences.recorded()["adam"][test]
    assert differences.problem("adam", test, 2 * recorded) is None
    assert "python -m tests.library.measure adam" in str(differences.problem("adam", test, 1e-9))


def cases() -> Iterator[Any]:
    """All rows; `make test` takes one of each sort."""
    sorts = set()
    for row in ROWS:
        parts = [(bool(p.beside), p.backends) for p in row.parts]
        sort = str((row.kind, parts, row.needs))
        marks = [pytest.mark.exhaustive] if sort in sorts else []
        sorts.add(sort)
        yield pytest.param(row, id=row.name, marks=marks)


def stepped(row: table.Row, backend: str, shape: tuple[int, ...]) -> Any:
    """An optimizer of the rule, or of AdamW with the modifier, and the parameter."""
    name = table.example(row.name)
    p = torch.nn.Parameter(torch.randn(shape))
    optimizer = optdsl.load(name, backend=backend, verify=False)([p])
    needed = [need.split()[1] for need in row.needs if need.startswith("input ")]
    inputs = {name: {p: torch.rand_like(p)} for name in needed}
    for _ in range(2 if backend == "eager" else 0):
        p.grad = torch.randn_like(p)
        optimizer.step(**({"inputs": inputs} if inputs else {}))
    return optimizer, p


@pytest.mark.parametrize("row", cases())
def test_bytes_and_backends_are_those_of_an_optimizer(
    row: table.Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a matrix and a vector; numbers of a tensor, such as its count of steps, are no bytes."""
    # Which engine is chosen is looked at, and nothing is compiled.
    monkeypatch.setattr(selection, "CEngine", lambda artifact: artifact)
    monkeypatch.setattr(selection, "MatrixEngine", lambda artifact, *_: artifact)
    matrix, vector = row.parts[0], row.parts[-1]
    if row.name == "scion":  # whose first section is for groups that choose it
        matrix = row.parts[1]
    for shape, part in (((20, 24), matrix), ((7,), vector)):
        if len(shape) == 1 and "matrices only" in row.needs:
            continue
        optimizer, p = stepped(row, "eager", shape)
        lengths = {"rows": shape[0], "cols": shape[-1], "k": 20}  # k is a rank, at most rows
        beside = sum(math.prod(lengths[a] for a in t.split(" * ")) for t in part.beside)
        kept = [x for x in optimizer.state[p].values() if x.numel() > 1]
        base = 8 if row.kind == "modifier" else 0
        base = 4 if row.name == "polar_express" and len(shape) == 2 else base  # of Muon
        found = sum(x.numel() * x.element_size() for x in kept)
        assert found == (part.bytes + base) * p.numel() + 4 * beside
        optimizer, p = stepped(row, "auto", shape)
        engines = optimizer.compiled.parts.of(p, optimizer.param_groups[0])
        engine = engines.of(p)
        engines._made.clear()  # the class is everybody's
        assert (type(engine) is EagerEngine) == (part.backends == ("eager",))
        assert part.backends in {("eager",), ("eager", "c"), ("eager", "c", "triton")}


def test_the_list_has_filters_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--kind", "matrices", "--kind", "blend", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = [row.name for row in ROWS if row.kind in {"matrices", "blend"}]
    assert [row["name"] for row in found] == wanted
    muon = next(row for row in found if row["name"] == "muon")
    assert [(p["tensors"], p["bytes"]) for p in muon["parts"]] == [
        ("matrices", 4),
        ("otherwise", 8),
    ]
    assert muon["parts"][0]["backends"] == ["eager"]
    assert main(["list", "--kind", "matrices"]) == 0
    text = capsys.readouterr().out
    assert "muon" in text
    assert "adamw " not in text.split("\n\n")[0].replace("galore_adamw", "")
    assert main(["list", "--kind", "matrix"]) == 2
    assert "the kinds are elementwise, norms, matrices, blend, modifier" in capsys.readouterr().err
