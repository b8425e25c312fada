"""Slots are convex combinations, and what is refused is none: against evaluation point by point."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from optdsl import SpecError
from optdsl.blending.convexity import MAX_CORNERS
from optdsl.diagnostics import Source
from optdsl.ir.trajectories import Run, trajectory
from optdsl.specifications import library
from optdsl.specifications.library import Specification
from tests.sampling import examples

# What the members call h. Their new parameter is h itself, so that a blend's is the slot.
PARTS: dict[str, Callable[[float, float], float]] = {
    "A": lambda g, theta: g,
    "B": lambda g, theta: theta,
    "C": lambda g, theta: g * theta,
    "D": lambda g, theta: g + 2 * theta + 1,
}
RULES = {
    name: Source(f"{name}.opt", f"optimizer {name}\nh = {h}\ntheta' = h\n", None, ())
    for name, h in zip(PARTS, ("g", "theta", "g * theta", "g + 2 * theta + 1"), strict=True)
}


def blend(slot: str, *lines: str) -> Specification:
    """A blend of the members that a slot mentions."""
    used = [name for name in PARTS if f"{name}." in slot]
    text = "\n".join(["blend Mine", f"use {', '.join(used)}", *lines, f"h = {slot}", ""])
    rules = tuple((name, RULES[name]) for name in used)
    return library.specification(Source("mine.opt", text, None, rules))


def refusal(slot: str, *lines: str) -> str:
    with pytest.raises(SpecError) as caught:
        blend(slot, *lines)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "convex"
    assert diagnostic.span.text == slot
    assert diagnostic.message.startswith("`h` ")
    assert diagnostic.hint
    return diagnostic.message


K, J = "hyper k = 0.5 in [0, 1]", "hyper j = 0.5 in [0, 1]"
W = "hyper w = uniform on simplex(a, b, c)"


# --- what is accepted -----------------------------------------------------------------------------


ACCEPTED = [
    ("A.h", (), 1),
    ("0.5 * A.h + 0.5 * B.h", (), 1),
    ("0.1 * A.h + 0.2 * B.h + 0.7 * C.h", (), 1),
    ("(A.h + B.h) / 2", (), 1),
    ("(A.h + B.h + C.h) / 3", (), 1),
    ("k * A.h + (1 - k) * B.h", (K,), 2),
    ("A.h + k * (B.h - A.h)", (K,), 2),
    ("A.h - k * (A.h - B.h)", (K,), 2),
    ("A.h - -k * (B.h - A.h)", (K,), 2),
    ("-(-A.h) * k + B.h - B.h * k", (K,), 2),
    ("k * A.h - k * B.h + B.h", (K,), 2),
    ("k * A.h + (1 - k) * A.h", (K,), 1),
    ("k / 2 * A.h + (1 - 0.5 * k) * B.h", (K,), 2),
    ("(1 + k) / 4 * A.h + (3 - k) / 4 * B.h", ("hyper k = 0 in [-1, 3]",), 2),
    ("k * A.h + (1 - k) * B.h", ("hyper k = 1 in {0, 1}",), 2),
    ("k * A.h + (1 - k) * B.h", ("hyper k = 0.3 in (0.25, 0.5)",), 2),
    ("k * j * A.h + (1 - k * j) * B.h", (K, J), 4),
    ("k * (j * A.h + (1 - j) * B.h) + (1 - k) * C.h", (K, J), 4),
    ("k * (j * A.h + (1 - j) * B.h) + (1 - k) * (j * C.h + (1 - j) * D.h)", (K, J), 4),
    ("w.a * A.h + w.b * B.h + w.c * C.h", (W,), 3),
    ("w.a * A.h + w.b * B.h + (1 - w.a - w.b) * C.h", (W,), 3),
    ("(1 - w.a) * A.h + w.a * B.h", (W,), 3),
    ("(w.a + w.b) * A.h + w.c * B.h", (W,), 3),
    ("k * (w.a * A.h + w.b * B.h + w.c * C.h) + (1 - k) * D.h", (W, K), 6),
    ("w.a * (k * A.h + (1 - k) * B.h) + w.b * C.h + w.c * (k * D.h + (1 - k) * C.h)",
     (W, K), 6),
    # (1 - 0.98) is 0.02, and 0.1 + 0.2 is 0.3.
    ("(1 - 0.98) * A.h + 0.98 * B.h", (), 1),
    ("(0.1 + 0.2) * A.h + 0.7 * B.h", (), 1),
]  # fmt: skip


@pytest.mark.parametrize(("slot", "lines", "corners"), ACCEPTED)
def test_convex_combinations_are_accepted(slot: str, lines: tuple[str, ...], corners: int) -> None:
    found = blend(slot, *lines)
    (combination,) = found.combinations
    assert combination.slot == "h"
    assert set(combination.parts) == set(re.findall(r"[A-D]\.h", slot))
    assert combination.corners == corners


@dataclass(frozen=True)
class Named:
    """What stands for a name with a dot when a slot is read as Python."""

    h: float = 0.0
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0


@pytest.mark.parametrize(("slot", "lines", "corners"), ACCEPTED)
def test_what_is_accepted_is_what_the_slot_says(
    slot: str, lines: tuple[str, ...], corners: int
) -> None:
    program = blend(slot, *lines).program
    g, theta = 1.75, -0.625
    coefficients = {h.name: 0.375 for h in program.hypers}
    vector = {"w_a": 0.5, "w_b": 0.375, "w_c": 0.125}
    coefficients |= {name: x for name, x in vector.items() if name in coefficients}
    ((found,),) = trajectory(program, Run(tuple(coefficients.items()), (theta,), ((g,),)))
    names = {name: Named(h=h(g, theta)) for name, h in PARTS.items()}
    names |= {"w": Named(a=0.5, b=0.375, c=0.125)}
    expected = eval(slot, {}, {**names, "k": 0.375, "j": 0.375})
    assert found == pytest.approx(expected, rel=1e-13)


def test_the_slots_of_the_five_way_blend() -> None:
    found = library.specification(library.open_source("mada")).combinations
    assert {c.slot: (len(c.parts), c.corners) for c in found} == {
        "h": (2, 2), "num": (2, 2), "s": (2, 2), "vhat": (2, 2), "theta'": (3, 4),
    }  # fmt: skip
    (update,) = (c for c in found if c.slot == "theta'")
    assert set(update.parts) == {"Adam.theta'", "Adan.theta'", "Lion.theta'"}


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "lines", "message"),
    [
        ("0.5 * A.h + 0.6 * B.h", (), "sum to 1.1, not to one"),
        ("0.5 * A.h", (), "sum to 0.5, not to one"),
        ("A.h + B.h", (), "sum to 2, not to one"),
        ("A.h - B.h", (), "sum to 0, not to one"),
        ("2 * A.h - B.h", (), "the weight of `A.h` is 2"),
        ("0.1 * A.h + 0.2 * B.h + 0.7000000000000001 * C.h", (), "not to one"),
        ("k * A.h + k * B.h", (K,), "sum to 2 at k = 1, not to one"),
        ("k * A.h + (1 - j) * B.h", (K, J), "not to one"),
        ("k * A.h + (2 - k) * B.h", (K,), "sum to 2 at k = 1, not to one"),
        ("w.a * A.h + w.b * B.h", (W,), "sum to 0 at w_a = 0, w_b = 0, w_c = 1, not to one"),
        ("k * A.h + (1 - k) * B.h", ("hyper k = 1 in [0, 1.5]",),
         "the weight of `A.h` is 1.5 at k = 1.5"),
        ("k * A.h + (1 - k) * B.h", ("hyper k = 1 in [-0.5, 1]",),
         "the weight of `A.h` is -0.5 at k = -0.5"),
        ("(1 - k) * A.h + k * B.h", ("hyper k = 1 in {0, 1, 2}",),
         "the weight of `A.h` is -1 at k = 2"),
        ("A.h + k * (B.h - A.h)", ("hyper k = 0.5 in (-1, 1)",),
         "the weight of `A.h` is 2 at k = -1"),
        ("(k + j) * A.h + (1 - k - j) * B.h", (K, J), "the weight of `A.h` is 2 at k = 1, j = 1"),
        ("(k - j) * A.h + (1 - k + j) * B.h", (K, J), "the weight of `A.h` is -1 at k = 0, j = 1"),
        ("2 * w.a * A.h + (1 - 2 * w.a) * B.h", (W,),
         "the weight of `A.h` is 2 at w_a = 1, w_b = 0, w_c = 0"),
    ],
)  # fmt: skip
def test_what_is_not_convex_is_refused_with_numbers(
    slot: str, lines: tuple[str, ...], message: str
) -> None:
    assert message in refusal(slot, *lines)


@pytest.mark.parametrize(
    ("slot", "lines", "message"),
    [
        ("A.h * B.h", (), "is not linear in what it takes from members"),
        ("A.h^2", (), "is not linear in what it takes from members"),
        ("A.h / B.h", (), "is not linear in what it takes from members"),
        ("A.h * A.h / A.h * B.h / B.h + 0 * B.h", (), "may be infinite or NaN"),
        ("k / k * A.h + 0 * B.h", (K,), "may be infinite or NaN"),
        ("k * 1e300 * 1e300 / 1e300 / 1e300 * A.h + (1 - k) * B.h", (K,),
         "has a weight that may overflow"),
        ("1 / A.h", (), "is not linear in what it takes from members"),
        ("sqrt(A.h)", (), "adds something that is no member's"),
        ("max(A.h, B.h)", (), "adds something that is no member's"),
        ("where(k > 0.5, A.h, B.h)", (K,), "adds something that is no member's"),
        ("A.h + 1", (), "adds something that is no member's"),
        ("k * A.h + (1 - k) * B.h + k", (K,), "adds something that is no member's"),
        ("A.h / t + (1 - 1 / t) * B.h", (), "is not made of hyperparameters alone"),
        ("A.h / (1 + k) + k / (1 + k) * B.h", (K,), "is not made of hyperparameters alone"),
        ("k^0.5 * A.h + (1 - k^0.5) * B.h", (K,), "is not made of hyperparameters alone"),
        ("k * A.h / k", ("hyper k = 1 in [0.5, 1]",), "is not written as a sum of parts"),
        ("A.h / k + (1 - 1 / k) * B.h", ("hyper k = 1 in [1, 2]",),
         "is not made of hyperparameters alone"),
        ("k^2 * A.h + (1 - k^2) * B.h", (K,), "is not linear in k"),
        ("k * (k * A.h + (1 - k) * B.h) + (1 - k) * B.h", (K,), "is not linear in k"),
        ("4 * k * (1 - k) * A.h + (1 - 4 * k * (1 - k)) * B.h", (K,), "is not linear in k"),
        ("w.a * w.b * A.h + (1 - w.a * w.b) * B.h", (W,), "is not linear in w_a, w_b, w_c"),
        ("k * A.h + (1 - k) * B.h", ("hyper k = 1 in [0, inf)",), "`k`, which is unbounded"),
        ("k * A.h + (1 - k) * B.h", ("hyper k = 1",), "`k`, which is unbounded"),
        ("k * A.h + (1 - k) * B.h", ("hyper k = 1 in (-inf, 1]",), "`k`, which is unbounded"),
    ],
)  # fmt: skip
def test_what_is_not_a_sum_with_weights_of_hyperparameters(
    slot: str, lines: tuple[str, ...], message: str
) -> None:
    if message:
        assert message in refusal(slot, *lines)
    else:
        # Over the reals this is a single part, of weight one.
        assert blend(slot, *lines).combinations


def product(count: int) -> tuple[str, tuple[str, ...]]:
    factors = " * ".join(f"k{i}" for i in range(count))
    return (
        f"{factors} * A.h + (1 - {factors}) * B.h",
        tuple(f"hyper k{i} = 1 in [0, 1]" for i in range(count)),
    )


def test_so_many_corners_are_looked_at_and_no_more() -> None:
    slot, lines = product(10)
    assert blend(slot, *lines).combinations[0].corners == MAX_CORNERS == 2**10
    slot, lines = product(11)
    message = refusal(slot, *lines)
    assert "too many coefficients: their bounds have 2,048 corners" in message


def test_bounds_of_one_number_are_a_corner_like_others() -> None:
    """The weights are 0.5 each, wherever k may be."""
    for domain in ("[0.5, 0.5]", "{0.5}"):
        found = blend("k * A.h + k * B.h", f"hyper k = 0.5 in {domain}")
        assert found.combinations[0].corners == 1


def test_a_hyperparameter_of_a_member_is_a_coefficient_like_others() -> None:
    def mine(bounds: str) -> Specification:
        text = f"optimizer E\nhyper k = 0.5 in {bounds}\nh = k * g\ntheta' = h\n"
        rules = (("A", RULES["A"]), ("E", Source("E.opt", text, None, ())))
        slot = "h = E.k * A.h + (1 - E.k) * E.h"
        return library.specification(
            Source("m.opt", f"blend Mine\nuse A, E\n{slot}\n", None, rules)
        )

    assert mine("[0, 1)").combinations[0].corners == 2
    with pytest.raises(SpecError, match=re.escape("the weight of `A.h` is 2 at e_k = 2")):
        mine("[0, 2]")


# --- random gates, brute force --------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """An expression: ``A.h``, a hyperparameter, a number, or an operator on two of them."""

    head: str
    parts: tuple[Node, ...] = ()

    def __str__(self) -> str:
        if not self.parts:
            return self.head
        left, right = self.parts
        return f"({left} {self.head} {right})"


def op(head: str, left: Node, right: Node) -> Node:
    return Node(head, (left, right))


ONE = Node("1")
# A number, and how much of each part: the value of an expression that is linear in the parts.
Linear = dict[str, Fraction]


def value(node: Node, point: Mapping[str, Fraction]) -> Linear:
    """The weights at a point; the weight of nothing is under the empty name."""
    if not node.parts:
        if node.head.endswith(".h"):
            return {node.head: Fraction(1)}
        return {"": point[node.head] if node.head in point else Fraction(node.head)}
    x, y = (value(p, point) for p in node.parts)
    if node.head in "+-":
        sign = 1 if node.head == "+" else -1
        return {n: x.get(n, Fraction(0)) + sign * y.get(n, Fraction(0)) for n in {**x, **y}}
    if node.head == "/":
        return {n: a / y[""] for n, a in x.items()}
    if set(y) - {""}:
        x, y = y, x
    return {n: a * y[""] for n, a in x.items()}


@dataclass
class Gates:
    """Grows a random convex combination, and declares what it uses."""

    source: random.Random
    lines: list[str] = field(default_factory=list)
    # The values that each coefficient may have, or all of a vector together.
    choices: list[list[dict[str, Fraction]]] = field(default_factory=list)

    def grown(self, depth: int) -> Node:
        if depth == 0 or self.source.random() < 0.15:
            return Node(f"{self.source.choice('ABCD')}.h")
        kind = self.source.choice(["gate", "gate", "gate", "vector", "fixed", "product"])
        x, y = self.grown(depth - 1), self.grown(depth - 1)
        if kind == "vector":
            return self.vector([x, y, self.grown(depth - 1)])
        if kind == "fixed":
            share = self.source.choice(["0.25", "0.1", "0.5"])
            return self.mixed(Node(share), x, y)
        if kind == "product":
            return self.mixed(op("*", self.coefficient(), self.coefficient()), x, y)
        return self.mixed(self.coefficient(), x, y)

    def mixed(self, share: Node, x: Node, y: Node) -> Node:
        rest = op("-", ONE, share)
        match self.source.randrange(5):
            case 0:
                return op("+", op("*", share, x), op("*", rest, y))
            case 1:
                return op("+", op("*", y, rest), op("*", x, share))
            case 2:
                return op("+", y, op("*", share, op("-", x, y)))
            case 3:
                return op("-", x, op("*", rest, op("-", x, y)))
            case _:
                doubled = op(
                    "+", op("*", op("*", Node("2"), share), x), op("*", op("*", Node("2"), rest), y)
                )
                return op("/", doubled, Node("2"))

    def coefficient(self) -> Node:
        name = f"k{len(self.choices)}"
        low, high = self.source.choice([("0", "1"), ("0", "1"), ("0.2", "0.9"), ("0", "0.5")])
        brackets = self.source.choice(["[{}, {}]", "({}, {})", "{{{}, {}}}"])
        default = low if brackets.startswith("{{") else str((float(low) + float(high)) / 2)
        self.lines.append(f"hyper {name} = {default} in {brackets.format(low, high)}")
        self.choices.append([{name: Fraction(low)}, {name: Fraction(high)}])
        return Node(name)

    def vector(self, parts: list[Node]) -> Node:
        name = f"w{len(self.choices)}"
        labels = [f"{name}.{label}" for label in "abc"]
        self.lines.append(f"hyper {name} = uniform on simplex(a, b, c)")
        self.choices.append([{x: Fraction(int(x == y)) for x in labels} for y in labels])
        total = op("*", Node(labels[0]), parts[0])
        for label, part in zip(labels[1:], parts[1:], strict=True):
            total = op("+", total, op("*", Node(label), part))
        return total

    def corners(self) -> Iterator[dict[str, Fraction]]:
        for chosen in itertools.product(*self.choices):
            yield {name: x for part in chosen for name, x in part.items()}

    def inside(self) -> dict[str, Fraction]:
        """A random point: each choice is a mixture of its corners."""
        found: dict[str, Fraction] = {}
        for corners in self.choices:
            weights = [Fraction(self.source.randrange(1, 20)) for _ in corners]
            for name in corners[0]:
                mean = sum(w * c[name] for w, c in zip(weights, corners, strict=True))
                found[name] = mean / sum(weights)
        return found


def gates(seed: int, depth: int) -> tuple[Gates, Node]:
    """A random combination of few enough coefficients."""
    source = random.Random(seed)
    while True:
        grower = Gates(source)
        node = grower.grown(depth)
        if len(grower.choices) <= 6:
            return grower, node


def bad(weights: Linear) -> bool:
    """Whether weights are not those of a convex combination."""
    return (
        weights.get("", 0) != 0
        or sum(weights.values()) != 1
        or any(not 0 <= w <= 1 for w in weights.values())
    )


SEEDS = st.integers(0, 10**9)


@examples(80)
@given(SEEDS, st.integers(1, 3))
def test_nested_gates_are_accepted_and_mean_what_they_say(seed: int, depth: int) -> None:
    grower, node = gates(seed, depth)
    found = blend(str(node), *grower.lines)
    (combination,) = found.combinations
    assert combination.corners <= len(list(grower.corners()))
    point = grower.inside()
    assert not bad(value(node, point))
    g, theta = 1.75, -0.625
    hypers = tuple((name.replace(".", "_"), float(x)) for name, x in point.items())
    ((result,),) = trajectory(found.program, Run(hypers, (theta,), ((g,),)))
    weights = value(node, point)
    expected = sum(float(weights.get(f"{n}.h", 0)) * h(g, theta) for n, h in PARTS.items())
    assert result == pytest.approx(expected, rel=1e-12, abs=1e-12)


def spoiled(node: Node, place: list[int], source: random.Random) -> Node:
    """The expression with a small change at a place: a number, a sign, a term, a coefficient."""
    if place[0] == 0:
        place[0] = -1
        if not node.parts:
            if node.head.endswith(".h"):
                other = Node(f"{source.choice('ABCD')}.h")
                return source.choice([other, op("*", Node("1.25"), node), op("/", node, Node("2"))])
            scaled, moved = op("*", Node("1.5"), node), op("-", node, Node("0.1"))
            return source.choice([scaled, moved, Node("0.75"), op("-", ONE, node)])
        left, right = node.parts
        if node.head in "+-":
            return source.choice([left, right, op("-" if node.head == "+" else "+", left, right),
                                  op(node.head, right, left)])  # fmt: skip
        return source.choice([op("*", Node("0.5"), node), op("/", node, Node("4"))])
    place[0] -= 1
    if not node.parts:
        return node
    left = spoiled(node.parts[0], place, source) if place[0] >= 0 else node.parts[0]
    right = spoiled(node.parts[1], place, source) if place[0] >= 0 else node.parts[1]
    return Node(node.head, (left, right))


def size(node: Node) -> int:
    return 1 + sum(map(size, node.parts))


def widened(grower: Gates, source: random.Random) -> None:
    """One coefficient may leave [0, 1] now."""
    single = [i for i, c in enumerate(grower.choices) if len(c) == 2]
    if single:
        i = source.choice(single)
        (name,) = grower.choices[i][0]
        low, high = source.choice([("-0.25", "1"), ("0", "1.125"), ("0.5", "3"), ("0.125", "0.25")])
        grower.choices[i] = [{name: Fraction(low)}, {name: Fraction(high)}]
        position = next(k for k, x in enumerate(grower.lines) if x.startswith(f"hyper {name} "))
        grower.lines[position] = f"hyper {name} = {high} in [{low}, {high}]"


def named(message: str, names: Sequence[str]) -> tuple[dict[str, Fraction], Fraction, str | None]:
    """The corner that a message speaks of, the number it gives, and of which part; None of all."""
    found = re.search(
        r"(?:weight of `(.*)` is|sum to) (-?[\d.e-]+)(?: at (.*?))?(?:, not|$)", message
    )
    assert found is not None, message
    pairs = re.findall(r"(\w+) = (-?[\d.e-]+)", found[3] or "")
    spelled = {name.replace(".", "_"): name for name in names}
    return {spelled[n]: Fraction(x) for n, x in pairs}, Fraction(found[2]), found[1]


@examples(200)
@given(SEEDS, st.integers(1, 3))
def test_spoiled_gates_are_refused_exactly_when_a_point_shows_it(seed: int, depth: int) -> None:
    grower, node = gates(seed, depth)
    source = random.Random(seed + 1)
    if source.random() < 0.4:
        widened(grower, source)
    if source.random() < 0.8:
        node = spoiled(node, [source.randrange(size(node))], source)
    if not {n for n in PARTS if f"{n}.h" in str(node)}:
        return
    corners = list(grower.corners())
    points = [*corners, *(grower.inside() for _ in range(25))]
    if any("" in value(node, p) and value(node, p)[""] for p in points):
        return  # no member at all
    wrong = [p for p in points if bad(value(node, p))]
    try:
        blend(str(node), *grower.lines)
    except SpecError as error:
        (diagnostic,) = error.diagnostics
        assert diagnostic.code == "convex"
        assert wrong, diagnostic.message
        names = [name for c in grower.choices for name in c[0]]
        corner, number, part = named(diagnostic.message, names)
        # What does not occur in the weights is not mentioned, and may be anything.
        matching = [c for c in corners if corner.items() <= c.items()]
        assert matching
        for c in matching:
            weights = value(node, c)
            shown = sum(weights.values()) if part is None else weights.get(part, Fraction(0))
            assert float(shown) == float(number)
            assert shown != 1 if part is None else not 0 <= shown <= 1
    else:
        assert not wrong
