"""The page of a comparison."""

from optdsl.training import compare
from optdsl.training.page import write_page

from .fakes import Make, load


def test_a_comparison_has_a_page(make: Make) -> None:
    config = make("adam", "learner", "exploding", overrides={"adam": {"lr": 0.01}}, seeds=2)
    comparison = compare(config, load=load)
    path = config.out / "report.html"
    assert path.read_text() == "page"  # of the fixture, which spares other tests the time
    write_page(comparison, path)
    text = path.read_text(encoding="utf-8")
    assert text.count("<figure") == 2
    assert "<script" not in text
    assert "exploding, seed 0: diverged at step" in text
    assert "adam.lr=0.01" in text
    assert "learner: rho" in text
    assert (config.out / "figures" / "losses.svg").is_file()
