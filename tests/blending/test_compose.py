"""`optdsl.blend` and `optdsl blend`: mixtures without a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import optdsl
from optdsl import OptionError, UnknownSpecError
from optdsl.cli import main
from optdsl.compose import blend_source
from optdsl.diagnostics import Source
from optdsl.specifications import library
from optdsl.syntax.format import format
from optdsl.syntax.parse import parse


def test_the_text_is_a_specification_to_go_on_from() -> None:
    assert blend_source(["adam", "lion"]).text == (
        "blend AdamLion\n"
        '  "A mixture of Adam and Lion, with learned weights"\n'
        "\n"
        "use Adam, Lion\n"
        "\n"
        "share beta1         # in m' and num of Adam, in update of Lion\n"
        "share weight_decay  # in h of Adam, in theta' of Lion\n"
        "\n"
        "hyper lr            = 0.001 in [0, inf)\n"
        "hyper lion_lr_ratio = 0.1   in [0, inf)\n"
        "\n"
        "Adam.lr = lr\n"
        "Lion.lr = lion_lr_ratio * lr\n"
        "\n"
        "hyper w = uniform on simplex(Adam, Lion)\n"
        "\n"
        "theta' = w.Adam * Adam.theta' + w.Lion * Lion.theta'\n"
        "\n"
        "learn w by SGD(lr = 0.1, clip = 10)\n"
        "\n"
        "recovers Adam at w = Adam\n"
        "recovers Lion at w = Lion\n"
    )


@pytest.mark.parametrize("rules", [("adam", "yogi"), ("mada", "sgd", "memory"), ("lion", "adamw")])
def test_the_text_is_in_the_canonical_layout_and_means_the_same(rules: tuple[str, ...]) -> None:
    source = blend_source(rules)
    assert format(parse(source)) == source.text
    assert library.read(Source("again.opt", source.text)) == library.read(source)


def test_every_member_starts_at_its_own_learning_rate() -> None:
    rules = {"Adam": "adam", "Lion": "lion", "Yogi": "yogi", "Memory": "memory"}
    found = library.specification(blend_source(list(rules.values())))
    defaults = {h.name: h.default for h in found.program.hypers}
    for name, rule in rules.items():
        ratio = defaults.get(f"{name.lower()}_lr_ratio", 1.0)
        own = library.read(library.open_source(rule)).hyper("lr").default
        assert ratio * defaults["lr"] == pytest.approx(own, rel=1e-11)


def test_it_trains_and_its_weights_are_learned() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    optimizer = optdsl.blend("adam", "lion", "sgd", name="Trio")(model.parameters(), lr=0.05)
    assert type(optimizer).__name__ == "Trio"
    losses = []
    for _ in range(60):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    weights = [optimizer.metrics()[f"w_{m}"] for m in ("adam", "lion", "sgd")]
    assert losses[-1] < losses[0]
    assert sum(weights) == pytest.approx(1)
    assert max(abs(w - 1 / 3) for w in weights) > 1e-3


def test_mistakes() -> None:
    with pytest.raises(OptionError, match="two rules or more"):
        optdsl.blend("adam")
    with pytest.raises(OptionError, match="AdamW is listed twice"):
        optdsl.blend("adamw", "adam_w")
    with pytest.raises(UnknownSpecError, match="did you mean `lion`"):
        optdsl.blend("adam", "lyon")
    with pytest.raises(OptionError, match="is no name"):
        optdsl.blend("adam", "lion", name="my blend")


# --- the command ------------------------------------------------------------------------------


def test_the_command_writes_what_check_and_train_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.opt"
    assert main(["blend", "adam", "lion", "yogi", "-o", str(path)]) == 0
    assert main(["check", str(path)]) == 0
    assert main(["fmt", "--check", str(path)]) == 0
    assert main(["verify", str(path)]) == 0
    assert "recovers Yogi at w = Yogi" in capsys.readouterr().out
    assert main(["blend", "adam", "lion", "-o", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["blend", "adam", "lion", "-o", str(path), "--force"]) == 0
    assert "blend AdamLion" in path.read_text()


def test_the_command_prints_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blend", "adam", "lion", "--name", "Mine"]) == 0
    assert capsys.readouterr().out == blend_source(["adam", "lion"], "Mine").text


def test_files_of_the_users_own_blend_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = tmp_path / "my-rule.opt"
    rule.write_text("optimizer Steep\nhyper lr = 0.1 in (0, inf)\ntheta' = theta - lr * g\n")
    path = tmp_path / "mine.opt"
    assert main(["blend", str(rule), "adam", "-o", str(path)]) == 0
    assert "use MyRule, Adam" in path.read_text()
    assert main(["verify", str(path)]) == 0
    (tmp_path / "deeper").mkdir()
    other = tmp_path / "deeper" / "mine.opt"
    assert main(["blend", str(rule), "adam", "-o", str(other)]) == 2
    assert "in another directory" in capsys.readouterr().err
    assert not other.exists()
    # In memory there is no directory to be in.
    assert optdsl.blend(str(rule), "adam").__name__ == "MyRuleAdam"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["adam"], "two rules or more"),
        (["adam", "lyon"], "did you mean"),
        (["adam", "lion", "-o", "mine.txt"], "must end in .opt"),
        (["adam", "lion", "-o", "nowhere/mine.opt"], "no directory"),
        (["adam", "lion", "--name", "a b"], "is no name"),
        (["adam", "nowhere.opt"], "cannot read"),
    ],
)
def test_usage_errors(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["blend", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_ratio_does_not_take_a_members_own_name() -> None:
    """MADA has an `lr_ratio` itself."""
    text = blend_source(["adam", "mada"]).text
    assert "MADA.lr = mada_lr_ratio_outer * lr" in text


def test_a_file_that_would_take_the_place_of_the_librarys_rule_is_not_overlooked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adam.opt").write_text(library.open_source("adam").text.replace("0.9 ", "0.5 "))
    path = tmp_path / "mine.opt"
    assert main(["blend", "adam", "lion", "-o", str(path)]) == 2
    assert "would take" in capsys.readouterr().err
    assert not path.exists()
    assert main(["blend", str(tmp_path / "adam.opt"), "lion", "-o", str(path)]) == 0
    assert main(["check", str(path)]) == 0


def test_a_file_with_a_space_in_its_name(tmp_path: Path) -> None:
    rule = tmp_path / "my rule.opt"
    rule.write_text("optimizer A\nhyper lr = 0.1 in (0, inf)\ntheta' = theta - lr * g\n")
    path = tmp_path / "mine.opt"
    assert main(["blend", str(rule), "adam", "-o", str(path)]) == 0
    assert main(["check", str(path)]) == 0


def test_a_keyword_is_no_name() -> None:
    with pytest.raises(OptionError, match="is no name"):
        optdsl.blend("adam", "lion", name="learn")


def test_weights_are_set_one_by_one() -> None:
    cls = optdsl.blend("adam", "lion")
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="'w': there are w_adam, w_lion"):
        cls([parameter], w="Adam")
    with pytest.raises(TypeError, match="'beta2': there are adam_beta2, lion_beta2"):
        cls([parameter], beta2=0.5)
