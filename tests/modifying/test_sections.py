"""Modifiers with sections, their options, and what a file that combines them may say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.diagnostics import SpecError
from optdsl.prove import Verdict, settle
from optdsl.report.specification import describe
from optdsl.specifications import library

BACKENDS = ("eager", "auto")
SHAPES = ((4, 3), (5,), (2, 3, 2))
STEPS = 4
# A modifier that keeps a number for each row of a matrix, and one for each other tensor.
SIZED = """
modifier Sized of update

hyper rate = 0.5 in [0, 1]

scaled = base.update / (1 + rate * size')
update = scaled

for matrices

state size : rows = 0

size' = size + sum(base.update^2 over cols)

otherwise

state size : scalar = 1

size' = size + sum(base.update^2)

recovers base at rate = 0
"""


def gradient(shape: tuple[int, ...], step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def run(
    rule: str,
    backend: str = "eager",
    groups: dict[int, dict[str, Any]] | None = None,
    **hypers: Any,
) -> list[Tensor]:
    held = [nn.Parameter(gradient(s, 100)) for s in SHAPES]
    given = [{"params": [p], **(groups or {}).get(n, {})} for n, p in enumerate(held)]
    optimizer = optdsl.load(rule, backend=backend, verify=False)(given, **hypers)
    for step in range(STEPS):
        for p in held:
            p.grad = gradient(tuple(p.shape), step)
        optimizer.step()
    return [p.detach() for p in held]


def written(directory: Path, **files: str) -> str:
    for name, text in files.items():
        (directory / f"{name}.opt").write_text(text)
    return str(directory / f"{name}.opt")


def close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sections_of_a_modifier_limit_it(backend: str) -> None:
    ours = run("sgd with row_floor(least = 2)", backend, lr=0.1)
    theirs = [gradient(s, 100) for s in SHAPES]
    for step in range(STEPS):
        for n, shape in enumerate(SHAPES):
            update = gradient(shape, step)
            if n == 0:
                rows = theirs[0].norm(dim=1, keepdim=True)
                update = update * (2 * rows / update.norm(dim=1, keepdim=True)).clamp(min=1)
            theirs[n] = theirs[n] - 0.1 * update
    close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_section_has_states_of_its_own(tmp_path: Path, backend: str) -> None:
    rule = written(tmp_path, sized=SIZED, made="optimizer Made = SGD with Sized\n")
    theirs = [gradient(s, 100) for s in SHAPES]
    sizes: list[Tensor | float] = [torch.zeros(4, 1, dtype=torch.float64), 1.0, 1.0]
    for step in range(STEPS):
        for n, shape in enumerate(SHAPES):
            g = gradient(shape, step)
            sizes[n] = sizes[n] + (g * g).sum(*((1, True) if n == 0 else ()))  # type: ignore[operator]
            theirs[n] = theirs[n] - 0.1 * g / (1 + 0.5 * sizes[n])
    close(run(rule, backend, lr=0.1), theirs)
    other = run(rule, backend, groups={0: {"kind": "otherwise"}}, lr=0.1)
    assert not torch.allclose(other[0], theirs[0])
    close(other[1:], theirs[1:])


def test_parts_of_a_rule_and_of_its_otherwise_are_modified() -> None:
    plain, ours = run("muon", lr=0.1), run("muon with post_decay(strength = 1)", lr=0.1)
    assert not torch.equal(ours[0], plain[0])
    close(ours[1:], plain[1:])
    sent = run("muon with post_decay(strength = 1)", groups={0: {"kind": "otherwise"}}, lr=0.1)
    assert not torch.equal(sent[0], ours[0])
    close(sent, run("muon", groups={0: {"kind": "otherwise"}}, lr=0.1))


# A rule with some sections, and what a modifier with others makes of them.
@pytest.mark.parametrize(
    ("base", "own", "kinds"),
    [
        ("", "matrices", "matrices, otherwise"),
        ("", "vectors", "vectors, otherwise"),
        ("", "vectors, otherwise", "vectors, otherwise"),
        ("", "flattened matrices, vectors", "flattened matrices, vectors, otherwise"),
        ("", "matrices, stacked matrices", "matrices, stacked matrices, otherwise"),
        ("", "heads, matrices", "heads, matrices, otherwise"),
        ("matrices, otherwise", "otherwise", "matrices, otherwise"),
        ("matrices, otherwise", "flattened matrices",
         "matrices, flattened matrices, otherwise"),
        ("flattened matrices, otherwise", "matrices",
         "matrices, flattened matrices, otherwise"),
        ("flattened matrices, vectors", "vectors", "flattened matrices, vectors"),
        ("heads, otherwise", "heads, matrices", "heads, matrices, otherwise"),
    ],
)  # fmt: skip
def test_kinds_are_divided_where_sections_differ(
    tmp_path: Path, base: str, own: str, kinds: str
) -> None:
    program = library.read(library.open_source(_divided(tmp_path, base, own)))
    assert ", ".join(program.sections) == kinds


def _divided(directory: Path, base: str, own: str) -> str:
    def sections(names: str, line: str) -> str:
        words = [w if w == "otherwise" else f"for {w}" for w in names.split(", ")]
        return "\n".join(f"{w}\n\n{line.format(n)}\n" for n, w in enumerate(words, start=1))

    rule = "optimizer Rule\n\nhyper lr = 1\n\n"
    rule += sections(base, "theta' = theta - {} * lr * g") if base else "theta' = theta - lr * g\n"
    return written(
        directory,
        rule=rule,
        mine="modifier Mine of g\n\n" + sections(own, "g = {} * base.g"),
        made="optimizer Made = Rule with Mine\n",
    )


@pytest.mark.parametrize(
    ("base", "own", "message"),
    [
        ("matrices, vectors", "heads", "`Rule` has no tensors for the section `heads` of `Mine`"),
        ("matrices", "vectors", "`Rule` has no tensors for the section `vectors` of `Mine`"),
        ("flattened matrices, otherwise", "stacked matrices", "`Mine` does not read tensors as"),
    ],
)
def test_kinds_that_do_not_meet_are_told(tmp_path: Path, base: str, own: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        optdsl.load(_divided(tmp_path, base, own))


def test_a_part_without_the_slot_is_told(tmp_path: Path) -> None:
    rule = (
        "optimizer Rule\n\nfor matrices\n\nu = 2 * g\ntheta' = theta - u\n\notherwise SGD(lr = 1)\n"
    )
    files = {"rule": rule, "mine": "modifier Mine of u\n\nu = base.u / 2\n"}
    with pytest.raises(SpecError, match=r"no `u` for `Mine` to redefine, .* kind `otherwise`"):
        optdsl.load(written(tmp_path, **files, made="optimizer Made = Rule with Mine\n"))
    files["mine"] = "modifier Mine of u\n\nfor matrices\n\nu = base.u / 2\n"
    made = written(tmp_path, **files, made="optimizer Made = Rule with Mine\n")
    close(run(made), run("sgd", lr=1))


@pytest.mark.parametrize(
    ("rule", "proved"),
    [
        ("sgd with post_decay", True),
        ("adafactor with post_decay", True),
        # Infinities times zero are the difference that is left.
        ("muon with row_floor", False),
        ("sgd with radial_brake", False),
    ],
)
def test_claims_are_settled_for_every_kind(rule: str, proved: bool) -> None:
    found = library.specification(library.open_source(rule), verify=False)
    (claim,) = found.claims
    verdict = settle(found.program, claim).verdict
    assert verdict is (Verdict.PROVED if proved else Verdict.TESTED)


def test_a_claim_that_is_wrong_for_a_kind_is_refuted(tmp_path: Path) -> None:
    mine = SIZED.replace(
        "(1 + rate * size')", "(1 + rate * size') + where(rate > 0, 0, size' - size)"
    )
    with pytest.raises(SpecError, match="for matrices, they differ"):
        optdsl.load(written(tmp_path, sized=mine, made="optimizer Made = SGD with Sized\n"))


def test_a_sum_over_all_is_of_the_tensors_of_the_section(tmp_path: Path) -> None:
    mine = "modifier Mine of g\n\nfor matrices\n\ng = base.g / sum(base.g^2 over all)\n"
    made = written(tmp_path, mine=mine, made="optimizer Made = SGD with Mine\n")
    theirs = [gradient(s, 100) for s in SHAPES]
    for step in range(STEPS):
        for n, shape in enumerate(SHAPES):
            g = gradient(shape, step)
            theirs[n] = theirs[n] - (g / (g * g).sum() if n == 0 else g)
    for backend in BACKENDS:
        close(run(made, backend, lr=1), theirs)


def test_sums_of_the_rule_stay_over_all_tensors() -> None:
    close(run("prodigy with row_floor(least = 0)"), run("prodigy"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hyperparameter_of_a_section_is_learned(backend: str) -> None:
    """Against the quotient of differences of the loss of the next step."""

    def stepped(outward: float, learn: Any) -> tuple[float, float]:
        held = [nn.Parameter(gradient(s, 100)) for s in SHAPES]
        cls = optdsl.load("sgd with radial_brake", backend=backend, learn=learn, verify=False)
        optimizer, loss = cls(held, lr=0.1, radial_brake_outward=outward), 0.0
        for step in range(2):
            for p in held:
                g = gradient(tuple(p.shape), step)
                loss = step * (loss + float((g * p.detach()).sum()))
                p.grad = g if step else g - 2 * p.detach()
            optimizer.step()
        return loss, optimizer.param_groups[0]["radial_brake_outward"]

    rule = optdsl.Learn("SGD", lr=0.01, bounds=(0, 1))
    _, learned = stepped(0.5, {"radial_brake_outward": rule})
    above, below = (stepped(0.5 + x, False)[0] for x in (1e-6, -1e-6))
    assert (0.5 - learned) / 0.01 == pytest.approx((above - below) / 2e-6, rel=1e-6)
    assert learned != 0.5


def test_choices_of_a_modifier_decide_how_often_it_calls_itself(tmp_path: Path) -> None:
    mine = (
        "modifier Mine of g\n\nhyper n = 2 in {0, ..., 9}\nhyper way = up in {up, down}\n\n"
        "def times(x, n) = where(n > 0, 2 * times(x, n - 1), x)\n\n"
        "g = where(way == up, times(base.g, n), base.g / 2)\n\nrecovers base at n = 0, way = up\n"
    )
    made = written(tmp_path, mine=mine, made="optimizer Made = SGD with Mine\n")
    close(run(made, lr=0.1), run("sgd", lr=0.4))
    close(run(made, lr=0.1, mine_n=3), run("sgd", lr=0.8))
    close(run(made, lr=0.1, mine_way="down"), run("sgd", lr=0.05))
    made = written(tmp_path, made="optimizer Made = SGD with Mine(n = 1 + 2, way = up)\n")
    close(run(made, lr=0.1), run("sgd", lr=0.8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_decides_the_operations_of_a_rule_may_be_given(backend: str) -> None:
    kept = "with post_decay(strength = 0)"
    expected = run("muon", backend, ns_steps=2, adjust_lr_fn="match_rms_adamw")
    labelled = "muon(adjust_lr_fn = match_rms_adamw, ns_steps = 2)"
    close(run(f"{labelled} {kept}", backend), expected)
    given = {"ns_steps": 2, "adjust_lr_fn": "match_rms_adamw"}
    close(run(f"muon {kept}", backend, **given), expected)


def test_an_option_of_a_modifier_is_the_number_that_the_user_sets(tmp_path: Path) -> None:
    files = {
        "ahead": "modifier Ahead of theta'\n\nhyper peak = 1 in (0, inf)\n\n"
        "theta' = base.theta' - base.lr / peak\n",
        "made": "optimizer Made = SGD with Cosine(steps = 8), Ahead(peak = 2 * lr)\n",
    }
    made = written(tmp_path, **files)
    theirs = run("sgd with cosine(steps = 8)", lr=0.3)
    share = sum(0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(STEPS))
    close(run(made, lr=0.3), [x - share / 2 for x in theirs])


def test_a_combination_has_defaults_of_its_own_and_says_what_it_learns(tmp_path: Path) -> None:
    text = (
        "optimizer Made = AdamW(beta2 = 1 - (1 - beta1)^2, weight_decay = strength) with Cautious\n"
        "\nhyper lr = 0.01 in [0, 1]\nhyper strength = 0.5 in [0, inf)\n"
        "hyper cautious_least = 0.25\n\n"
        "learn cautious_least in [0.1, 1] by SGD(lr = 0)\n"
        "recovers AdamW(weight_decay = 1, beta2 = 0) at strength = 1, beta1 = 0, lr = 0\n"
    )
    made = written(tmp_path, made=text)
    program = library.read(library.open_source(made))
    assert program.defaults == {
        "lr": 0.01, "beta1": 0.9, "eps": 1e-8, "cautious_least": 0.25, "strength": 0.5,
    }  # fmt: skip
    assert str(program.hyper("lr").domain) == "[0, 1]"
    assert [x.hyper for x in program.learned] == ["cautious_least"]
    given = {"lr": 0.01, "beta2": 1 - (1 - 0.9) ** 2, "weight_decay": 0.5, "cautious_least": 0.25}
    close(run(made), run("adamw with cautious", **given))
    with pytest.raises(ValueError, match="lr"):
        optdsl.load(made)([nn.Parameter(torch.ones(1))], lr=2)


def test_a_modified_rule_is_a_member_of_a_blend(tmp_path: Path) -> None:
    text = (
        "blend Pair\n\nuse (AdamW with Cautious, RowFloor(least = 0.5)) as Adam, Muon\n\n"
        "share lr\n\nhyper w = 1 in [0, 1]\n\ntheta' = w * Adam.theta' + (1 - w) * Muon.theta'\n"
    )
    pair = written(tmp_path, pair=text)
    close(run(pair, lr=0.1), run("adamw with cautious, row_floor(least = 0.5)", lr=0.1))
    close(run(pair, lr=0.1, w=0), run("muon", lr=0.1))


def test_the_page_of_a_modified_rule_has_sections() -> None:
    source = library.open_source("muon with row_floor")
    text = describe(source, library.read(source, verify=False))
    assert "section()" not in text
    assert "Equations, for matrices" in text
    assert "Equations, otherwise" in text
