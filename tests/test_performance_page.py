"""What the page about performance counts is what plans say; never timings."""

import re
from pathlib import Path

import pytest

from optdsl.cli import main
from optdsl.compiler import derive, parts
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.learn_option import LearnOption
from optdsl.plan import plans
from optdsl.schedule import Kernel, Role, cheapest, schedule
from optdsl.specifications.sources import open_source

from .paper import SIX, six_source

PAGE = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
SIX_LEARNED = "`mada`, six coefficients learned"
ROWS: dict[str, tuple[str, LearnOption, tuple[Role, ...]]] = {
    "`adam`": ("adam", False, (Role.STEP,)),
    "`mada`, nothing learned": ("mada", False, (Role.STEP,)),
    "`mada`, learned, overlapped": ("mada", True, (Role.FUSED,)),
    "`mada`, learned, exact": ("mada", True, (Role.COMPLETE, Role.STEP_COMPLETED)),
    f"{SIX_LEARNED}, overlapped": ("mada", SIX, (Role.FUSED,)),
    f"{SIX_LEARNED}, exact": ("mada", SIX, (Role.COMPLETE, Role.STEP_COMPLETED)),
}


def kernels(name: str, learn: LearnOption, roles: tuple[Role, ...]) -> list[Kernel]:
    ((_, program),) = parts(derive(open_source(name), learn=learn))
    found = schedule(cheapest(plans(program, rounded=False)))
    return [found[role] for role in roles]


def shown(title: str) -> dict[str, list[str]]:
    """The rows of the table below a row of titles."""
    _, _, rest = PAGE.partition(f"{title}\n")
    assert rest, title
    lines = [line for line in rest.split("\n\n")[0].splitlines() if not line.startswith("|--")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: values for name, *values in cells}


def test_the_bytes_are_those_of_plans() -> None:
    table = shown("| | reads | writes | bytes | over Adam |")
    assert table.keys() == ROWS.keys()
    for label, row in ROWS.items():
        moved = [4 * sum(t) for t in zip(*(k.traffic for k in kernels(*row)), strict=True)]
        total = sum(moved)
        ratio = f"{total / 28:.3g}"
        assert table[label] == [*(f"{m}" for m in moved), f"{total}", ratio], label


def operations(label: str) -> list[int]:
    """Operations of all loops for an element, and the roots and divisions among them."""
    counted = [0, 0, 0]
    for kernel in kernels(*ROWS[label]):
        for value in (value for loop in kernel.loops for value in loop.body):
            opcode = kernel.program.operations[value].opcode
            counted[0] += TABLE[opcode].stage is not Stage.BUFFER
            counted[1] += opcode == "sqrt"
            counted[2] += opcode == "div"
    return counted


def test_the_operations_are_those_of_loops() -> None:
    table = shown("| | operations | roots | divisions |")
    for label, values in table.items():
        assert values == [f"{count}" for count in operations(label)], label
    # Exact order does in two passes what overlapped order does in one.
    assert operations(f"{SIX_LEARNED}, exact") == operations(f"{SIX_LEARNED}, overlapped")


def test_the_bytes_of_samples_are_those_of_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sampled.opt"
    file.write_text(f"{six_source().text}learn sample 1/8\n")
    for options, label in (((), "sample 1/8"), (("--no-learn",), "nothing learned")):
        assert main(["show", str(file), "--plan", *options]) == 0
        told = " ".join(capsys.readouterr().out.split())
        state, overlapped, exact = (
            cell.partition(" ")[0]
            for cell in shown(f"| {SIX_LEARNED} | state | overlapped | exact |")[label]
        )
        assert f"State: {state} bytes per parameter" in told
        if options:
            assert told.endswith(f" {overlapped}")
            assert overlapped == exact
        else:
            assert f"overlapped, mean of all elements {overlapped} " in told
            assert f"exact, mean of all elements {exact} " in told
            assert "Tensors of fewer than 262,144 elements are taken whole" in told


def test_passes_for_norms_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The norm of a step of AdamW takes all that the step takes: theta, m, v and the gradient."""
    learn = "learn beta1 in [0, 0.99] by SGD(lr = 0.01) on sign\n"
    told = {}
    for title, rule in (("Plain", "AdamW"), ("Steered", "AdamW with Direction")):
        file = tmp_path / f"{title}.opt"
        file.write_text(f"optimizer {title} = {rule}\n{learn}")
        assert main(["show", str(file), "--plan"]) == 0
        told[title] = " ".join(capsys.readouterr().out.split())
    assert "for its sums" not in told["Plain"]
    assert "reads 20 writes 16 36 and before, for its sums reads 16 writes 0 16" in told["Steered"]
    assert "stored 12 bytes 52 bytes" in told["Steered"]
    assert "Not possible: replay, since a tangent needs values that are gone." in told["Steered"]


def test_what_a_plan_computes_is_weighed_as_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "mada", "--plan"]) == 0
    assert "live 24 bytes 60 bytes 310 " in " ".join(capsys.readouterr().out.split())
    prices = {opcode: TABLE[opcode].laws.price for opcode in ("sqrt", "div", "pow")}
    assert prices == {"sqrt": 10, "div": 10, "pow": 50}
    assert "The learned `mada` is 310 there" in PAGE


def test_the_python_of_the_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})


@pytest.mark.parametrize("name", re.findall(r"--rows ([\w,-]+)", PAGE))
def test_the_rows_of_the_page_are_there(name: str) -> None:
    from benchmarks.gate_rows import ROWS as GATED

    assert set(name.split(",")) <= GATED.keys()
