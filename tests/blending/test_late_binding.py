"""What a blend means: each case beside the same rule written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optdsl import SpecError
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.specifications import library
from tests.oracles import problems
from tests.oracles.running import Interpreter, read_spec, read_text


def rule(directory: Path, name: str, *lines: str) -> None:
    """A small rule in a file of its own."""
    text = "\n".join([f"optimizer {name}", "hyper lr = 0.1 in [0, inf)", *lines, ""])
    (directory / f"{name.lower()}.opt").write_text(text)


def blended(directory: Path, *lines: str) -> Program:
    path = directory / "mine.opt"
    path.write_text("\n".join(["blend Mine", *lines, ""]))
    return library.read(library.open_source(path))


def same(left: Program, right: Program, **hypers: float) -> None:
    """Both take the same five steps in double precision."""
    generator = problems.seeded(3)
    theta = problems.randn(generator, 5)
    gradients = [problems.randn(generator, 5) for _ in range(5)]
    found = []
    for program in (left, right):
        interpreter = Interpreter(program)
        values = {h.name: h.default for h in program.hypers} | hypers
        x, state = theta, interpreter.start(theta, gradients[0], values)
        for t, g in enumerate(gradients, start=1):
            result = interpreter.step(x, g, state, values, t)
            x, state = result.parameter, result.state
        found.append(x)
    torch.testing.assert_close(*found, rtol=1e-13, atol=1e-13)


@pytest.fixture
def members(tmp_path: Path) -> Path:
    """Two rules that share the names a, b and the chain a -> b -> theta'."""
    rule(tmp_path, "One", "a = g", "b = a + 1", "theta' = theta - lr * b")
    rule(tmp_path, "Two", "a = 2 * g", "b = a * a", "c = b + a", "theta' = theta - lr * c")
    return tmp_path


HEAD = ("use One, Two", "share lr", "hyper w = 0.3 in [0, 1]")
MIXED = "theta' = w * One.theta' + (1 - w) * Two.theta'"
BY_HAND = "optimizer Hand\nhyper lr = 0.1 in [0, inf)\nhyper w = 0.3 in [0, 1]\n"


def test_every_member_uses_the_slot_wherever_it_used_its_own(members: Path) -> None:
    blend = blended(members, *HEAD, "a = w * One.a + (1 - w) * Two.a", MIXED)
    hand = read_text(
        BY_HAND + "a = w * g + (1 - w) * 2 * g\n"
        "theta' = w * (theta - lr * (a + 1)) + (1 - w) * (theta - lr * (a * a + a))\n"
    )
    same(blend, hand)


def test_an_original_is_evaluated_in_the_blended_world(members: Path) -> None:
    """`Two.b` is Two's own definition, of the blended `a`."""
    a, b = "a = w * One.a + (1 - w) * Two.a", "b = w * One.b + (1 - w) * Two.b"
    blend = blended(members, *HEAD, a, b, "theta' = Two.theta'")
    hand = read_text(
        BY_HAND + "a = w * g + (1 - w) * 2 * g\nb = w * (a + 1) + (1 - w) * a * a\n"
        "theta' = theta - lr * (b + a)\n"
    )
    same(blend, hand)


def test_a_slot_may_take_other_equations_of_members(members: Path) -> None:
    """Two's `c` is the blended `b` plus its `a`, so that only One's `b` may take from it."""
    blend = blended(members, *HEAD, "c = w * Two.c + (1 - w) * One.b", "theta' = Two.theta'")
    hand = BY_HAND + "c = w * (4 * g * g + 2 * g) + (1 - w) * (g + 1)\ntheta' = theta - lr * c\n"
    same(blend, read_text(hand))


def test_a_state_may_be_a_slot(tmp_path: Path) -> None:
    for name, beta in (("Quick", 0.5), ("Slow", 0.9)):
        rule(tmp_path, name, "state m = 0", f"m' = ema(m, g, {beta})", "theta' = theta - lr * m'")
    head = "use Quick, Slow", "share lr", "hyper w = 0.3 in [0, 1]"
    blend = blended(tmp_path, *head, "m' = w * Quick.m' + (1 - w) * Slow.m'")
    assert [(s.name, s.origins) for s in blend.states] == [("m", ("Quick.m", "Slow.m"))]
    hand = read_text(
        BY_HAND + "state m = 0\nm' = w * ema(m, g, 0.5) + (1 - w) * ema(m, g, 0.9)\n"
        "theta' = theta - lr * m'\n"
    )
    same(blend, hand)


def test_bindings_and_schedules(members: Path) -> None:
    """A member's hyperparameter may be an expression, of the step too."""
    head = "use One, Two", "hyper lr = 0.2 in [0, inf)", "hyper w = 0.3 in [0, 1]"
    blend = blended(members, *head, "One.lr = lr / t", "Two.lr = max(lr - 0.1, 0)", MIXED)
    hand = read_text(
        BY_HAND + "theta' = w * (theta - lr / t * (g + 1))"
        " + (1 - w) * (theta - (lr - 0.1) * (2 * g * 2 * g + 2 * g))\n"
    )
    same(blend, hand, lr=0.2)


def test_what_is_neither_shared_nor_bound_belongs_to_its_member(members: Path) -> None:
    blend = blended(
        members,
        "use One, Two as Other",
        "hyper w = 0.3 in [0, 1]",
        "theta' = w * One.theta' + (1 - w) * Other.theta'",
        "learn Other.lr in [0, 1] by SGD(lr = 0.1)",
    )
    assert [h.name for h in blend.hypers] == ["w", "one_lr", "other_lr"]
    assert [x.hyper for x in blend.learned] == ["other_lr"]


def test_a_rule_may_be_used_twice(members: Path) -> None:
    head = "use One as A, One as B", "hyper w = 0.3 in [0, 1]"
    blend = blended(members, *head, "theta' = w * A.theta' + (1 - w) * B.theta'")
    hand = BY_HAND + "theta' = theta - (w * 0.1 + (1 - w) * 0.4) * (g + 1)\n"
    same(blend, read_text(hand), a_lr=0.1, b_lr=0.4)


def test_functions_make_weights(members: Path) -> None:
    between = "def between(part, x, y) = part * x + (1 - part) * y"
    blend = blended(members, *HEAD, between, "theta' = between(w, One.theta', Two.theta')")
    one, two = "theta - lr * (g + 1)", "theta - lr * (4 * g * g + 2 * g)"
    same(blend, read_text(BY_HAND + f"theta' = w * ({one}) + (1 - w) * ({two})\n"))


def test_a_blend_may_be_a_member(members: Path) -> None:
    (members / "inner.opt").write_text(
        "blend Inner\nuse One, Two\nshare lr\nhyper w = one on simplex(one, two)\n"
        "theta' = w.one * One.theta' + w.two * Two.theta'\n"
    )
    blend = blended(
        members,
        "use Inner, Two",
        "share lr",
        "hyper w = 0.3 in [0, 1]",
        "theta' = w * Inner.theta' + (1 - w) * Two.theta'",
        "learn Inner.w by SGD(lr = 0.1)",
        "recovers Two at w = 0",
        "recovers One at w = 1, Inner.w = one",
    )
    assert [h.name for h in blend.hypers] == ["lr", "w", "inner_w_one", "inner_w_two"]
    assert [s.name for s in blend.simplexes] == ["Inner.w"]
    assert {x.hyper for x in blend.learned} == {"inner_w_one", "inner_w_two"}


def test_updates_that_are_the_same_need_no_mixture(members: Path) -> None:
    rule(members, "Three", "a = 3 * g", "b = a + 1", "theta' = theta - lr * b")
    lines = ["use One, Three", "hyper w = 0.3 in [0, 1]", "a = w * One.a + (1 - w) * Three.a"]
    blend = blended(members, *lines, "share lr")
    same(blend, read_text(BY_HAND + "theta' = theta - lr * ((w + 3 * (1 - w)) * g + 1)\n"))
    # Without sharing the two steps have different lengths.
    with pytest.raises(SpecError, match="update-differs"):
        blended(members, *lines)


def test_mistakes_of_a_member_are_shown_in_its_own_file(members: Path) -> None:
    (members / "one.opt").write_text("optimizer One\ntheta' = theta - gg\n")
    with pytest.raises(SpecError, match=r"one\.opt:2:18: error\[unknown-name\]"):
        blended(members, *HEAD, MIXED)


def test_a_blend_of_text_finds_the_library_only() -> None:
    with pytest.raises(SpecError, match="unknown rule `One`"):
        library.read(Source("<text>", "blend B\nuse One, Adam\ntheta' = Adam.theta'\n"))


def test_equations_about_which_members_agree_are_the_blends_own() -> None:
    """So a blend of a blend can take them, and redefine them."""
    found = {o.attribute for o in read_spec("adam_avgrad").operations if o.opcode == "define"}
    assert {"m'", "num", "update", "theta'", "vhat", "Adam.vhat", "AVGrad.vhat"} <= found
    outer = "blend B\nuse AdamAVGrad as Inner, Adan\nhyper k = 0.5 in [0, 1]\n" + (
        "num = k * Inner.num + (1 - k) * Adan.num\n"
        "theta' = k * Inner.theta' + (1 - k) * Adan.theta'\n"
        "recovers Inner at k = 1\nrecovers Adan at k = 0\n"
    )
    assert len(library.specification(Source("b.opt", outer)).claims) == 2


def test_slots_that_change_types_are_refused(tmp_path: Path) -> None:
    rule(tmp_path, "Each", "state k = 0", "d = g", "k' = g", "theta' = theta - lr * mean(d) * k'")
    rule(tmp_path, "Whole", "state k : scalar = 0", "d = sum(g)", "k' = d", "theta' = theta - d")
    mixed = "theta' = w * Each.theta' + (1 - w) * Whole.theta'"
    head = "use Each, Whole", "hyper w = 0.3 in [0, 1]", mixed
    with pytest.raises(SpecError, match=r"mine\.opt:5:1: error\[type\]: `Whole\.k` is a scalar"):
        blended(tmp_path, *head, "k' = w * Each.k' + (1 - w) * Whole.k'")
    with pytest.raises(SpecError, match=r"each\.opt:6:23: error\[type\]: a scalar has no elements"):
        blended(tmp_path, *head, "d = Whole.d")


def test_a_name_is_a_member_or_a_weight_vector(members: Path) -> None:
    with pytest.raises(SpecError, match="`w` is a member and a weight vector"):
        blended(
            members,
            "use One as w, Two",
            "hyper w = uniform on simplex(a, b)",
            "theta' = w.a * w.theta' + w.b * Two.theta'",
        )


def test_the_first_equation_in_which_members_differ_is_shown(members: Path) -> None:
    rule(
        members,
        "Four",
        "hyper eps = 1 in [0, 2]",
        "a = g",
        "b = a + eps",
        "theta' = theta - lr * b",
    )
    with pytest.raises(SpecError, match=r"`share eps`(.|\n)*") as caught:
        blended(members, "use Four as A, Four as B", "share lr", "hyper w = 0.3 in [0, 1]",
                "a = w * A.a + (1 - w) * B.a")  # fmt: skip
    assert "b = a + eps" in str(caught.value)
    assert "each has its own eps" in str(caught.value)


def test_defaults_behind_a_refuted_claim_are_named() -> None:
    text = "optimizer A\nhyper lr = 0.1 in [0, 1]\nstate b = 0\nb' = 0.9 * b + g\n" + (
        "theta' = theta - lr * b'\nrecovers SGD\n"
    )
    with pytest.raises(
        SpecError, match=r"momentum, dampening, nesterov of SGD are its own"
    ) as caught:
        library.read(Source("a.opt", text))
    assert "where they differ, A has" in str(caught.value)
    library.read(Source("a.opt", text.replace("recovers SGD", "recovers SGD(momentum = 0.9)")))


def test_members_that_only_happen_to_agree_keep_their_equations_apart(tmp_path: Path) -> None:
    """One's moment is of `h`, Two's of `g`: equal, but what redefines `h` changes one of them."""
    rule(tmp_path, "One", "state m = 0", "h = g", "m' = ema(m, h, 0.5)", "theta' = theta - lr * m'")
    rule(tmp_path, "Two", "state m = 0", "m' = ema(m, g, 0.5)", "theta' = theta - lr * sign(m')")
    rule(tmp_path, "Three", "h = 100 * g", "theta' = theta - lr * h")
    mixed = "theta' = w * One.theta' + (1 - w) * Two.theta'"
    inner = ["blend Inner", "use One, Two", "share lr", "hyper w = 0.5 in [0, 1]", mixed, ""]
    (tmp_path / "inner.opt").write_text("\n".join(inner))
    head = "use Inner, Three", "share lr", "hyper k = 0 in [0, 1]"
    with pytest.raises(SpecError, match=r"no member has an equation `m'`"):
        blended(tmp_path, *head, "m' = k * Inner.m' + (1 - k) * Inner.m'", "theta' = Inner.theta'")
    outer = blended(tmp_path, *head, "h = k * Inner.h + (1 - k) * Three.h", "theta' = Inner.theta'")
    flat = blended(
        tmp_path, "use One, Two, Three", "share lr", "hyper w = 0.5 in [0, 1]",
        "hyper k = 0 in [0, 1]", "h = k * One.h + (1 - k) * Three.h", mixed,
    )  # fmt: skip
    same(outer, flat, w=0.5, inner_w=0.5)


@pytest.mark.parametrize(
    "slot",
    [
        "Adam.theta' + 1e20 - 1e20",
        "Adam.theta' * Lion.theta' / Lion.theta'",
        "w^2 / w * Adam.theta' + (1 - w) * Lion.theta'",
        "max(Adam.theta', Adam.theta')",
    ],
)
def test_what_is_convex_but_no_sum_of_parts_with_weights_is_refused(slot: str) -> None:
    text = f"blend B\nuse Adam, Lion\nhyper w = 0.5 in [0, 1]\ntheta' = {slot}\n"
    with pytest.raises(SpecError, match=r"error\[(convex|unused-member)\]"):
        library.read(Source("b.opt", text))


def test_a_part_may_be_held_constant() -> None:
    text = "blend B\nuse Adam, Lion\nhyper a = 0 in [0, 1]\n" + (
        "theta' = a * stop_gradient(Adam.theta') + (1 - a) * Lion.theta'\nrecovers Lion at a = 0\n"
    )
    program = library.read(Source("b.opt", text))
    hypers = {h.name: h.default for h in program.hypers} | {"adam_eps": 0.0}
    interpreter = Interpreter(program)
    theta, g = torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = interpreter.step(theta, g, interpreter.start(theta, g, hypers), hypers, 1).parameter
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("use Adam, Lion as Initial",), "would be called initial_lr"),
        (("use Adam, Lion", "hyper v = uniform on simplex(inf, x)"), "cannot be a label"),
        (("use Adam, Lion", "hyper v = uniform on simplex(uniform, x)"), "cannot be a label"),
        (("use Adam, Lion", "hyper b = 1 in [0, 1]", "Adam.beta1 = b"), "can leave its bounds"),
        (("use Adam, Lion", "Adam.lr = 1 > 0"), "`Adam.lr` is a number"),
        (("use Adam, Lion, Yogi", "Adam.lr = Yogi.lr"), "nothing is taken from `Yogi`"),
    ],
)
def test_more_mistakes(lines: tuple[str, ...], message: str) -> None:
    other = "Initial" if "Initial" in lines[0] else "Lion"
    mixed = f"hyper w = 0.5 in [0, 1]\ntheta' = w * Adam.theta' + (1 - w) * {other}.theta'\n"
    with pytest.raises(SpecError, match=message):
        library.read(Source("b.opt", "\n".join(["blend B", *lines, mixed])))
