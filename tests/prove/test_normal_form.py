"""Normal forms: sound at exact rational points, complete for polynomials as sympy expands them."""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import pytest
import sympy
from hypothesis import given, strategies as st

from optdsl.algebra import normal_form
from optdsl.algebra.normal_form import MAX_TERMS, Algebra
from optdsl.algebra.polynomial import ONE, ZERO, Polynomial, constant, decimal, variable
from optdsl.ir.builder import Builder
from optdsl.ir.ops import OPERATORS
from optdsl.ir.program import Program, Value
from tests.oracles.running import read_text
from tests.sampling import examples

HEAD = """\
optimizer A
hyper x = 0.3 in (-inf, inf)
hyper y = 0.7 in (-inf, inf)
state m = 0
m' = g
theta' = theta - g
"""


def read(**equations: str) -> tuple[Program, dict[str, Value]]:
    """A program with some equations beside its update, and where their values are."""
    program = read_text(HEAD + "".join(f"{name} = {text}\n" for name, text in equations.items()))
    defines = {
        str(o.attribute): Value(i) for i, o in enumerate(program.operations) if o.opcode == "define"
    }
    return program, {name: defines[name] for name in equations}


def forms(*texts: str, limit: int = MAX_TERMS, algebra: Algebra | None = None) -> list[Polynomial]:
    """The normal forms of some expressions, by one algebra that multiplies out so many terms."""
    program, values = read(**{f"e{i}": text for i, text in enumerate(texts)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normal_form, "MAX_TERMS", limit)
        found = (algebra or Algebra()).forms(program, values.values())
    return [found[v] for v in values.values()]


def same(left: str, right: str, limit: int = MAX_TERMS) -> bool:
    first, second = forms(left, right, limit=limit)
    return first == second


NO_LIMIT = 10**9


# --- literals are decimals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.95 * 0.98", "0.931"),
        ("1 - 0.98", "0.02"),
        ("0.1 + 0.2", "0.3"),
        ("0.1 * 3", "0.3"),
        ("1 - 0.9 - 0.1", "0"),
        ("1e-15", "0.000000000000001"),
        ("1e-15 * 1e15", "1"),
        ("1e-200 * 1e-200 * 1e300 * 1e100", "1"),
        ("1e300 * 1e300 / 1e300 / 1e300", "1"),
        ("1 + 1e-30 - 1", "1e-30"),
        ("0.3 / 0.1", "3"),
        ("1 / 3 * 3", "1"),
        ("2 / 6", "1 / 3"),
        ("0.1^2", "0.01"),
        ("0.1^-2", "100"),
        ("-0.5", "0.5 - 1"),
        (".5", "5e-1"),
    ],
)
def test_literals_are_decimals(left: str, right: str) -> None:
    assert same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.1 + 0.2", "0.30000000000000004"),
        ("1", "1.000000000000001"),
        ("1e-15", "1e-16"),
        ("1 / 3", "0.3333333333333333"),
        ("exp(1)", "2.718281828459045"),
        ("sqrt(2)", "1.4142135623730951"),
        ("tanh(20)", "1"),
        ("exp(1e-20)", "1"),
        ("sqrt(4.000000000000001)", "2"),
        ("1e-300^2", "0"),
        ("3^40", "12157665459056929000"),
    ],
)
def test_what_only_rounding_makes_equal_is_not(left: str, right: str) -> None:
    assert not same(left, right)
    assert not same(f"theta - ({left}) * g", f"theta - ({right}) * g")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_decimal_that_is_written_for_it(number: float) -> None:
    assert decimal(number) == Fraction(str(number))
    assert float(decimal(number)) == number


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(x + y) * (x - y)", "x^2 - y^2"),
        ("(2 * x)^3", "8 * x * x * x"),
        ("x - x + y", "y"),
        ("x / y / y", "x / y^2"),
        ("x * y / x", "y"),
        ("(x * y)^-2", "1 / (x * x * y * y)"),
        ("(x + y) / (2 * x + 2 * y)", "0.5"),
        ("(x - y) / (y - x)", "-1"),
        ("1 / (x - y)", "-1 / (y - x)"),
        ("x / (2 * x + 2 * y)", "0.5 * x / (y + x)"),
        ("(g + theta) / x", "g / x + theta / x"),
        ("x^0", "1"),
        ("x^1", "x"),
        ("1^t", "1"),
        ("ema(m, g, x)", "g + x * (m - g)"),
        ("debias(m, x)", "-m / (x^t - 1)"),
        ("stop_gradient(x * g)", "g * x"),
        ("sign(2 * x)", "sign(x)"),
        ("sign(-x)", "-sign(x)"),
        ("sign(x^2 - y)", "-sign(y - x * x)"),
        ("sign(-3)", "-1"),
        ("sign(x - x)", "0"),
        ("sign(1e-300)", "1"),
        ("abs(-x)", "abs(x)"),
        ("abs(3 * x - 3 * y)", "3 * abs(y - x)"),
        ("abs(-0.5)", "0.5"),
        ("abs(x - x)", "0"),
        ("sqrt(4 * x)", "2 * sqrt(x)"),
        ("sqrt(x / 4 + y / 4)", "sqrt(y + x) / 2"),
        ("sqrt(0.25)", "0.5"),
        ("sqrt(1 - 1)", "0"),
        ("x^0.5", "sqrt(x)"),
        ("sqrt(x * y)", "sqrt(y * x)"),
        ("max(x, y)", "max(y, x)"),
        ("min(x + y, g)", "min(g, y + x)"),
        ("max(x, x + 1)", "1 + x"),
        ("min(x, x + 1)", "x"),
        ("max(x - 1, x)", "x"),
        ("min(x - 1, x)", "x - 1"),
        ("max(x, x)", "min(x, x)"),
        ("max(2, 3)", "3"),
        ("clip(2, 0, 1)", "1"),
        ("where(x < y, g, t)", "where(y > x, g, t)"),
        ("where(x < y, g, t)", "where(2 * x - 2 * y < 0, g, t)"),
        ("where(x < y, g, t)", "where(-x > -y, g, t)"),
        ("where(x <= y, g, t)", "where(y >= x, g, t)"),
        ("where(x == y, g, t)", "where(3 * y == 3 * x, g, t)"),
        ("where(x != y, g, t)", "where(y - x != 0, g, t)"),
        ("where(1 < 2, x, y)", "x"),
        ("where(2 <= 1, x, y)", "y"),
        ("where(x < x + 1, x, y)", "x"),
        ("where(x < x, x, y)", "y"),
        ("where(x >= x, x, y)", "x"),
        ("where(x != x, x, y)", "y"),
        ("where(x < y, g, g)", "g"),
        ("sum(2 * g)", "2 * sum(g)"),
        ("sum(-g)", "-sum(g)"),
        ("mean(g / 4)", "0.25 * mean(g)"),
        ("mean(g - g)", "0"),
        ("dot(g, theta)", "dot(theta, g)"),
        ("norm(2 * g)", "2 * norm(g)"),
        ("exp(0)", "1"),
        ("log(1)", "0"),
        ("tanh(x - x)", "0"),
        ("exp(x + y)", "exp(y + x)"),
        ("x^(y + t)", "x^(t + y)"),
        ("inf", "inf"),
    ],
)
def test_laws(left: str, right: str) -> None:
    assert same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("x", "y"),
        ("g", "theta"),
        ("g", "m"),
        ("x", "-x"),
        ("t", "1"),
        ("x^t", "x"),
        ("x^y", "y^x"),
        ("x^9", "x^10"),
        ("x / y", "y / x"),
        ("x - y", "y - x"),
        ("1 / (x + y)", "1 / x + 1 / y"),
        ("1 / (x + y)", "1 / (x - y)"),
        ("1 / (x + y)", "1 / (2 * x + 2 * y)"),
        ("(x + y)^2", "x^2 + y^2"),
        ("sign(x)", "x"),
        ("sign(x)", "-sign(x)"),
        ("sign(x)", "sign(x)^2"),
        ("sign(x)", "sign(y)"),
        ("sign(x - 1)", "sign(x)"),
        ("abs(x)", "x"),
        ("abs(x)", "sign(x)"),
        ("abs(2 * x)", "abs(x)"),
        ("sqrt(x^2)", "x"),
        ("sqrt(2 * x)", "2 * sqrt(x)"),
        ("sqrt(-4 * x)", "-2 * sqrt(x)"),
        ("sqrt(-4 * x)", "2 * sqrt(x)"),
        ("sqrt(x + y)", "sqrt(x) + sqrt(y)"),
        ("max(x, y)", "min(x, y)"),
        ("max(x, y)", "x"),
        ("max(x, y)", "max(-x, -y)"),
        ("max(2 * x, y)", "2 * max(x, y)"),
        ("where(x < y, g, t)", "where(x <= y, g, t)"),
        ("where(x < y, g, t)", "where(y < x, g, t)"),
        ("where(x < y, g, t)", "where(x < y, t, g)"),
        ("where(x == y, g, t)", "where(x != y, g, t)"),
        ("where(t == 1, g, m)", "where(t == 2, g, m)"),
        ("where(t == 1, g, m)", "m"),
        ("mean(g)", "sum(g)"),
        ("mean(g)", "g"),
        ("mean(g)", "mean(theta)"),
        ("sum(g^2)", "sum(g)^2"),
        ("sum(g * theta)", "sum(g) * sum(theta)"),
        ("exp(x)", "log(x)"),
        ("tanh(x)", "x"),
        ("exp(x)", "exp(2 * x)"),
        ("inf", "-inf"),
        ("inf", "1e308"),
    ],
)
def test_what_differs_has_different_forms(left: str, right: str) -> None:
    assert not same(left, right)


@pytest.mark.parametrize("limit", [1, 4, 10, 100])
def test_beyond_the_limit_on_terms_products_and_sums_are_opaque_and_commute(limit: int) -> None:
    p, q = "(x + y + g + t + theta)^2", "(x - y + g + t + theta)^2"
    texts = [f"{p} * {q}", f"{q} * {p}", f"{p} + {q}", f"{q} + {p}", f"{p} * {p}", f"{p} + {p}",
             f"{p} - {q}", f"{q} - {p}", f"{p} * {q} - {q} * {p}", p, q]  # fmt: skip
    pq, qp, total, again, *others = forms(*texts, limit=limit)
    assert pq == qp
    assert total == again
    different = [pq, total, *others[:4], *others[5:]]
    assert len(set(different)) == len(different)
    assert others[4] == ZERO or limit < 4
    assert all(len(form) <= max(limit, 2) for form in different)


def test_forms_of_one_algebra_are_compared_across_programs() -> None:
    algebra = Algebra()
    left, right, other = (read(e=text) for text in ("x + g", "y - y + g + x", "y + g"))
    first, second, third = (algebra.forms(p, v.values())[v["e"]] for p, v in (left, right, other))
    assert first == second
    assert first != third


def test_states_taken_for_the_same_are_equal() -> None:
    text = "optimizer A\nstate m = 0\nstate n = 0\nm' = g\nn' = g\na = m * 2\nb = n + n\n"
    program = read_text(text + "theta' = theta - a - b\n")
    a, b = (
        Value(i)
        for i, o in enumerate(program.operations)
        if o.opcode == "define" and o.attribute in {"a", "b"}
    )
    for states, expected in ((None, False), ({"m": 0, "n": 1}, False), ({"m": 7, "n": 7}, True)):
        found = Algebra().forms(program, (a, b), states)
        assert (found[a] == found[b]) is expected


def test_opaque_values_are_atoms_by_their_name() -> None:
    program, values = read(a="x + g", b="2 * a + x")
    algebra = Algebra()
    found = algebra.forms(program, values.values(), opaque=[values["a"]])
    a, x = variable(algebra.atom("opaque", "a")), variable(algebra.hyper("x"))
    assert found[values["b"]] == a + a + x


# --- expressions and their exact values -----------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """An expression: a name, a literal, or an operator and what it works on."""

    head: str
    parts: tuple[Node, ...] = ()

    def __str__(self) -> str:
        parts = [str(p) for p in self.parts]
        if self.head in BINARY or self.head in COMPARISONS:
            return f"({parts[0]} {self.head} {parts[1]})"
        if self.head == "neg":
            return f"(-{parts[0]})"
        if self.head.startswith("^"):
            return f"(({parts[0]})^{self.head[1:]})"
        if self.head.startswith("where"):
            return f"where({parts[0]} {self.head[5:]} {parts[1]}, {parts[2]}, {parts[3]})"
        return f"{self.head}({', '.join(parts)})" if parts else self.head


class UndefinedError(Exception):
    """Division by zero, the root of a negative number: or beyond the precision at hand."""


PRECISION = 120
NOTHING = mpmath.mpf(10) ** -60
Number = Fraction | mpmath.mpf
Point = Mapping[str, Fraction]


def real(number: Number) -> mpmath.mpf:
    if isinstance(number, Fraction):
        return mpmath.mpf(number.numerator) / number.denominator
    return number


def sign_of(number: Number) -> Fraction:
    if not isinstance(number, Fraction) and abs(number) < NOTHING:
        raise UndefinedError("a zero, or not")
    return Fraction((number > 0) - (number < 0))


def divided(x: Number, y: Number) -> Number:
    if sign_of(y) == 0:
        raise UndefinedError
    return x / y if isinstance(x, Fraction) and isinstance(y, Fraction) else real(x) / real(y)


def arithmetic(function: Callable[..., Number]) -> Callable[[Number, Number], Number]:
    def applied(x: Number, y: Number) -> Number:
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return function(x, y)
        return function(real(x), real(y))

    return applied


BINARY: dict[str, Callable[[Number, Number], Number]] = {
    "+": arithmetic(operator.add),
    "-": arithmetic(operator.sub),
    "*": arithmetic(operator.mul),
    "/": divided,
}
COMPARISONS: dict[str, Callable[[Fraction], bool]] = {
    "<": lambda s: s < 0,
    "<=": lambda s: s <= 0,
    ">": lambda s: s > 0,
    ">=": lambda s: s >= 0,
    "==": lambda s: s == 0,
    "!=": lambda s: s != 0,
}


def power(x: Number, exponent: int) -> Number:
    total: Number = Fraction(1)
    for _ in range(abs(exponent)):
        total = BINARY["*"](total, x)
    return total if exponent >= 0 else divided(Fraction(1), total)


def root(x: Number) -> Number:
    if sign_of(x) < 0:
        raise UndefinedError
    if isinstance(x, Fraction):
        exact = sympy.sqrt(sympy.Rational(x.numerator, x.denominator))
        if exact.is_Rational:
            return Fraction(int(exact.p), int(exact.q))
    return mpmath.sqrt(real(x))


def transcendental(name: str, x: Number) -> Number:
    if x == 0 and isinstance(x, Fraction):
        return Fraction(int(name == "exp"))
    if abs(x) > 20:
        raise UndefinedError("too large to tell")
    return getattr(mpmath, name)(real(x))


def larger(x: Number, y: Number) -> bool:
    return sign_of(BINARY["-"](x, y)) > 0


def applied(head: str, x: list[Number]) -> Number:
    """What an operator makes of exact numbers, or of very precise ones."""
    if head in BINARY:
        return BINARY[head](*x)
    if head.startswith("^"):
        return power(x[0], int(head[1:]))
    if head.startswith("where"):
        decided = COMPARISONS[head[5:]](sign_of(BINARY["-"](x[0], x[1])))
        return x[2] if decided else x[3]
    match head:
        case "neg":
            return -x[0]
        case "sign":
            return sign_of(x[0])
        case "abs":
            return abs(x[0])
        case "max":
            return x[0] if larger(x[0], x[1]) else x[1]
        case "min":
            return x[1] if larger(x[0], x[1]) else x[0]
        case "sqrt":
            return root(x[0])
        case "exp" | "tanh":
            return transcendental(head, x[0])
        case _:
            raise AssertionError(head)


def value(node: Node, point: Point) -> Number:
    """The value of an expression at a point, exact as long as no root or exponential is met."""
    with mpmath.workdps(PRECISION):
        if not node.parts:
            return point[node.head] if node.head in point else Fraction(node.head)
        return applied(node.head, [value(p, point) for p in node.parts])


def agree(x: Number, y: Number) -> bool:
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x == y
    with mpmath.workdps(PRECISION):
        return bool(abs(real(x) - real(y)) < NOTHING * max(1, abs(real(x)), abs(real(y))))


NAMES = ("x", "y", "g", "theta", "m", "t")
LITERALS = ("0", "1", "2", "0.1", "0.25", "3", "1e-3")
LEAVES = st.sampled_from([*NAMES, *LITERALS]).map(Node)
SOME = [Fraction(n) for n in ("-2", "-1", "-1/2", "0", "1/3", "1", "3/2", "2")]
POINTS = st.fixed_dictionaries({name: st.sampled_from(SOME) for name in NAMES})


RING = {"+": 2, "-": 2, "*": 2, "neg": 1, "^2": 1, "^3": 1}
FUNCTIONS = {"sign": 1, "abs": 1, "sqrt": 1, "exp": 1, "tanh": 1, "max": 2, "min": 2}
WHERE = {f"where{c}": 4 for c in COMPARISONS}
ANYTHING = {**RING, "/": 2, "^-1": 1, "^-2": 1, **FUNCTIONS, **WHERE}


def expressions(heads: Mapping[str, int], size: int) -> st.SearchStrategy[Node]:
    """Expressions in postfix order: leaves, and operators where enough stands before them."""
    items = [*NAMES, *LITERALS, *heads]

    def stacked(words: list[str]) -> Node:
        stack: list[Node] = []
        for word in words:
            arity = heads.get(word, 0)
            if arity <= len(stack):
                parts = tuple(stack[len(stack) - arity :])
                stack[len(stack) - arity :] = [Node(word, parts)]
        return stack[-1] if stack else Node("x")

    # A leaf every other time, so that operators find something to work on.
    leaf, any_word = st.sampled_from(items[: len(NAMES) + len(LITERALS)]), st.sampled_from(items)
    pairs = st.lists(st.tuples(leaf, any_word), min_size=1, max_size=size)
    return pairs.map(lambda drawn: stacked([word for pair in drawn for word in pair]))


POLYNOMIALS = expressions(RING, 7)
EXPRESSIONS = expressions(ANYTHING, 8)


# --- rewriting ------------------------------------------------------------------------------------

ONE_NODE, TWO, HALF = Node("1"), Node("2"), Node("0.5")


def sound(node: Node, other: Node) -> list[Node]:
    """What a node may be written as, over the reals and in every normal form."""
    head, parts = node.head, node.parts
    found = [
        Node("*", (ONE_NODE, node)),
        Node("+", (node, Node("0"))),
        Node("-", (Node("+", (other, node)), other)),
        Node("neg", (Node("neg", (node,)),)),
        Node("/", (Node("*", (TWO, node)), TWO)),
        Node("+", (Node("*", (HALF, node)), Node("/", (node, TWO)))),
        Node("-", (Node("*", (node, Node("+", (other, ONE_NODE)))), Node("*", (other, node)))),
        Node("^1", (node,)),
    ]
    if head in {"+", "*", "max", "min"}:
        found.append(Node(head, parts[::-1]))
    if head in {"+", "*"} and parts[0].head == head:
        a, b = parts[0].parts
        found.append(Node(head, (a, Node(head, (b, parts[1])))))
    if head == "*" and parts[1].head in {"+", "-"}:
        a, (b, c) = parts[0], parts[1].parts
        found.append(Node(parts[1].head, (Node("*", (a, b)), Node("*", (a, c)))))
    if head == "-":
        found.append(Node("+", (parts[0], Node("*", (Node("-1"), parts[1])))))
        found.append(Node("neg", (Node("-", parts[::-1]),)))
    if head in {"^2", "^3"}:
        found.append(Node("*", (parts[0], Node(f"^{int(head[1:]) - 1}", parts))))
    if head == "sign":
        found.append(Node("neg", (Node("sign", (Node("neg", parts),)),)))
        found.append(Node("sign", (Node("*", (Node("0.1"), *parts)),)))
    if head == "abs":
        found.append(Node("*", (HALF, Node("abs", (Node("*", (Node("-2"), *parts)),)))))
    if head.startswith("where"):
        a, b, x, y = parts
        mirrored = head.translate(str.maketrans("<>", "><"))
        found.append(Node(mirrored, (b, a, x, y)))
        found.append(Node(mirrored, (Node("neg", (a,)), Node("neg", (b,)), x, y)))
        found.append(Node(head, (Node("*", (TWO, a)), Node("*", (TWO, b)), x, y)))
    return found


def tempting(node: Node, other: Node) -> list[Node]:
    """What is like a node, and equals it by accident at most."""
    head, parts = node.head, node.parts
    if not parts:
        return [other, Node("2"), Node("0.1"), Node("-", (node, Node("1e-3")))]
    found = [parts[0], Node("neg", (node,)), other, Node("abs", (node,)), Node("sign", (node,))]
    if len(parts) == 2:
        found += [Node(h, parts) for h in ("+", "-", "*", "/", "max", "min") if h != head]
        found += [Node(head, parts[::-1]), Node(head, (parts[0], other))]
    if head.startswith("^"):
        found += [Node("^3", parts), Node("^-1", parts), Node("sqrt", (Node("^2", parts),))]
    if head.startswith("where"):
        a, b, x, y = parts
        found += [Node(f"where{c}", parts) for c in COMPARISONS if f"where{c}" != head]
        found += [Node(head, (b, a, x, y)), Node(head, (a, b, y, x)), x, y]
    if head in FUNCTIONS and len(parts) == 1:
        found += [Node(h, parts) for h in ("sign", "abs", "sqrt", "exp", "tanh") if h != head]
        found += [Node(head, (Node("*", (TWO, *parts)),)), Node(head, (Node("neg", parts),))]
    return found


Rewrite = Callable[[Node, Node], list[Node]]


def places(node: Node) -> int:
    return 1 + sum(map(places, node.parts))


def rewritten(node: Node, place: int, choice: int, other: Node, rule: Rewrite) -> Node:
    """The expression with the part at a place, in order, written otherwise."""
    if place == 0:
        found = rule(node, other)
        return found[choice % len(found)]
    place -= 1
    parts = list(node.parts)
    for i, part in enumerate(parts):
        if place < places(part):
            parts[i] = rewritten(part, place, choice, other, rule)
            return Node(node.head, tuple(parts))
        place -= places(part)
    raise AssertionError


STEPS = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 99), LEAVES), min_size=1, max_size=5)


def walked(node: Node, steps: list[tuple[int, int, Node]], rule: Rewrite) -> Node:
    for place, choice, other in steps:
        node = rewritten(node, place % places(node), choice, other, rule)
    return node


@examples(150)
@given(EXPRESSIONS, STEPS)
def test_rewriting_keeps_the_form(node: Node, steps: list[tuple[int, int, Node]]) -> None:
    other = walked(node, steps, sound)
    assert same(str(node), str(other), NO_LIMIT), f"{node}\n{other}"


@examples(250)
@given(EXPRESSIONS, STEPS, STEPS.map(lambda s: s[:2]), st.lists(POINTS, min_size=6, max_size=6))
def test_equal_forms_are_equal_numbers(
    node: Node,
    steps: list[tuple[int, int, Node]],
    changes: list[tuple[int, int, Node]],
    points: list[Point],
) -> None:
    """The other expression is the same one, spoiled in one or two places."""
    other = walked(walked(node, changes, tempting), steps, sound)
    if same(str(node), str(other)):
        for point in points:
            try:
                x, y = value(node, point), value(other, point)
            except UndefinedError:
                continue
            assert agree(x, y), f"{node} is {x}, {other} is {y} at {point}"


@examples(100)
@given(EXPRESSIONS, EXPRESSIONS, st.lists(POINTS, min_size=4, max_size=4))
def test_the_form_of_a_difference_is_zero_only_for_equal_numbers(
    left: Node, right: Node, points: list[Point]
) -> None:
    algebra = Algebra()
    texts = (str(left), str(right), f"{left} - {right}")
    first, second, difference = forms(*texts, algebra=algebra)
    # What may be undefined is equal to itself, and its difference may be undefined.
    assert (difference == ZERO) == (first == second and algebra.defined(first))
    assert algebra.defined(difference) == (algebra.defined(first) and algebra.defined(second))
    for point in points if first == second else ():
        try:
            assert agree(value(left, point), value(right, point))
        except UndefinedError:
            continue


# --- all small expressions ------------------------------------------------------------------------

Values = tuple[Number | None, ...]
GRID = [
    {"x": Fraction(a), "y": Fraction(b)}
    for a, b in (("-2", "3"), ("1/3", "1/3"), ("5/7", "-1"), ("0", "2"), ("9/4", "-3/2"))
]


def combined(head: str, columns: tuple[Values, ...]) -> Values:
    found: list[Number | None] = []
    with mpmath.workdps(PRECISION):
        for row in zip(*columns, strict=True):
            try:
                known = [x for x in row if x is not None]
                found.append(applied(head, known) if len(known) == len(row) else None)
            except UndefinedError:
                found.append(None)
    return tuple(found)


def built_forms(nodes: Iterable[Node]) -> list[Polynomial]:
    """The normal forms of many expressions, in a program that no text was written for."""
    builder = Builder()

    def emitted(node: Node) -> Value:
        if not node.parts:
            if node.head in NAMES:
                return builder.emit("hyper", attribute=node.head)
            return builder.constant(float(node.head))
        x = [emitted(p) for p in node.parts]
        if node.head.startswith("^"):
            return builder.emit("pow", *x, builder.constant(float(node.head[1:])))
        if node.head.startswith("where"):
            condition = builder.emit(OPERATORS[node.head[5:]], *x[:2])
            return builder.emit("where", condition, *x[2:])
        return builder.emit(OPERATORS.get(node.head, node.head), *x)

    roots = [emitted(node) for node in nodes]
    program = Program("A", (), (), (), builder.operations, (), roots[0])
    found = Algebra().forms(program, roots)
    return [found[root] for root in roots]


@pytest.mark.parametrize(
    "names", ["xy2", pytest.param("xy21", marks=pytest.mark.exhaustive)], ids=" ".join
)
def test_small_expressions_with_one_form_are_equal_everywhere(names: str) -> None:
    """Every expression of two operators over a few leaves, at points where some coincide."""
    pairs = ("+", "-", "*", "/", "max", "min", "where<", "where==")
    single = ("neg", "sign", "abs", "sqrt", "^2", "^-1")

    def grown(known: Mapping[Node, Values], others: Mapping[Node, Values]) -> dict[Node, Values]:
        found = {
            Node(h, (a,)): combined(h, (x,))
            for h, (a, x) in itertools.product(single, known.items())
        }
        for h, (a, x), (b, y) in itertools.product(pairs, known.items(), others.items()):
            doubled = h.startswith("where")
            for p, q in (((a, x), (b, y)), ((b, y), (a, x))):
                parts = (p, q, p, q) if doubled else (p, q)
                node = Node(h, tuple(n for n, _ in parts))
                found[node] = combined(h, tuple(v for _, v in parts))
        return found

    leaves = {
        Node(n): tuple(p.get(n, Fraction(0)) if n in p else Fraction(n) for p in GRID)
        for n in names
    }
    small = leaves | grown(leaves, leaves)
    everything = small | grown(small, leaves)
    by_form: dict[Polynomial, list[tuple[Node, Values]]] = defaultdict(list)
    for form, entry in zip(built_forms(everything), everything.items(), strict=True):
        by_form[form].append(entry)
    assert len(everything) > 4000
    assert sum(len(entries) > 1 for entries in by_form.values()) > 300
    for entries in by_form.values():
        for (a, x), (b, y) in itertools.pairwise(sorted(entries, key=lambda e: None in e[1])):
            for p, q in zip(x, y, strict=True):
                assert p is None or q is None or agree(p, q), f"{a} is {p}, {b} is {q}"


# --- polynomials against sympy --------------------------------------------------------------------


def symbolic(node: Node) -> sympy.Expr:
    if not node.parts:
        return sympy.Symbol(node.head) if node.head in NAMES else sympy.Rational(node.head)
    x = [symbolic(p) for p in node.parts]
    match node.head:
        case "+":
            return x[0] + x[1]
        case "-":
            return x[0] - x[1]
        case "*":
            return x[0] * x[1]
        case "/":
            return x[0] / x[1]
        case "neg":
            return -x[0]
        case head:
            return x[0] ** int(head[1:])


def misprinted(node: Node, place: int, choice: int, other: Node) -> Node:
    """Another polynomial, or by accident the same one."""

    def rule(part: Node, other: Node) -> list[Node]:
        swapped = [Node(h, part.parts) for h in ("+", "-", "*")] if len(part.parts) == 2 else []
        return [other, Node("neg", (part,)), Node("*", (part, other)), *swapped]

    return rewritten(node, place % places(node), choice, other, rule)


@examples(200)
@given(POLYNOMIALS, STEPS, st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99), LEAVES))
def test_polynomials_are_equal_exactly_when_sympy_expands_them_to_the_same(
    node: Node, steps: list[tuple[int, int, Node]], misprint: tuple[int, int, Node] | None
) -> None:
    other = walked(node, steps, sound)
    if misprint is not None:
        other = misprinted(other, *misprint)
    expected = sympy.expand(symbolic(node) - symbolic(other)) == 0
    assert same(str(node), str(other), NO_LIMIT) == expected
    assert expected or not same(str(node), str(other))
    assert expected or misprint is not None


@examples(100)
@given(POLYNOMIALS, POLYNOMIALS)
def test_unrelated_polynomials_too(left: Node, right: Node) -> None:
    expected = sympy.expand(symbolic(left) - symbolic(right)) == 0
    assert same(str(left), str(right), NO_LIMIT) == expected
    assert expected or not same(str(left), str(right))


COEFFICIENTS = st.fractions(-3, 3, max_denominator=6)
TERMS = st.dictionaries(st.tuples(*[st.integers(0, 2)] * 3), COEFFICIENTS.filter(bool), max_size=4)
SYMBOLS = sympy.symbols("a b c")


def polynomial(terms: Mapping[tuple[int, ...], Fraction]) -> Polynomial:
    total = ZERO
    for exponents, coefficient in terms.items():
        term = constant(coefficient)
        for atom, exponent in enumerate(exponents):
            for _ in range(exponent):
                term = variable(atom) * term
        total += term
    return total


def expression(p: Polynomial) -> sympy.Expr:
    return sympy.expand(
        sum(
            sympy.Rational(c.numerator, c.denominator)
            * sympy.prod([SYMBOLS[a] ** e for a, e in monomial])
            for monomial, c in p
        )
    )


def check(p: Polynomial, wanted: sympy.Expr) -> None:
    """The polynomial is what it should be, and well formed."""
    assert sympy.expand(expression(p) - wanted) == 0
    assert all(c for _, c in p)
    assert list(p.terms) == sorted(p.terms)
    assert all(e for monomial, _ in p for _, e in monomial)
    assert len({monomial for monomial, _ in p}) == len(p)


@examples(80)
@given(TERMS, TERMS, TERMS, COEFFICIENTS)
def test_the_ring_of_polynomials(
    first: Mapping[tuple[int, ...], Fraction],
    second: Mapping[tuple[int, ...], Fraction],
    third: Mapping[tuple[int, ...], Fraction],
    factor: Fraction,
) -> None:
    p, q, r = polynomial(first), polynomial(second), polynomial(third)
    x, y, z = expression(p), expression(q), expression(r)
    check(p + q, x + y)
    check(p - q, x - y)
    check(p * q, x * y)
    check(-p, -x)
    check(p.scaled(factor), x * sympy.Rational(factor.numerator, factor.denominator))
    check(p.substituted({0: q, 2: r}), x.subs({"a": y, "c": z}, simultaneous=True))
    assert (p == q) == (sympy.expand(x - y) == 0)
    assert p.atoms == {SYMBOLS.index(s) for s in x.free_symbols}
    assert (p.number is None) == bool(x.free_symbols)
    if p.number is not None:
        assert sympy.Rational(p.number.numerator, p.number.denominator) == x
    if p != ZERO:
        assert p.monic().leading == 1
        assert p.monic().scaled(p.leading) == p
        assert p.scaled(Fraction(-7, 3)).monic() == p.monic()
    inverse = p.inverse()
    assert (inverse is not None) == (len(p) == 1)
    if inverse is not None:
        assert inverse * p == ONE
