"""What is kept of a step is the cheapest choice, and the plan that is taken keeps to its bound."""

from __future__ import annotations

import itertools
import random
import re
from fractions import Fraction

import networkx
import pytest

import optdsl
from optdsl import compiler
from optdsl.artifact import Target
from optdsl.costs import Cost, cost, fastest, frontier, state_bytes
from optdsl.diagnostics import Source
from optdsl.ir.ops import TABLE
from optdsl.options import OptionError
from optdsl.plan import cuts
from optdsl.plan.balance import Balance, parsed
from optdsl.plan.cut import _Graph
from optdsl.plan.flow import ENDLESS, Network
from optdsl.plan.keys import pending
from optdsl.plan.text import parse_plan, print_plan
from optdsl.report.plan import describe_plan
from optdsl.schedule import cheapest
from optdsl.specifications import library
from tests.paper import SIX, six_source
from tests.test_plans import program

# Memory is dear, or arithmetic is.
SLOW_MEMORY, SLOW_ARITHMETIC = Balance(1.0, 1e-6), Balance(1e-6, 1.0)


@pytest.mark.broad(1)
@pytest.mark.parametrize("seed", range(20))
def test_a_cut_is_as_small_as_networkx_finds_it(seed: int) -> None:
    draw = random.Random(seed)
    ours, theirs, count = Network(), networkx.DiGraph(), 10
    theirs.add_nodes_from(range(count))
    for _ in range(count - 2):
        ours.node()
    for begin, end in itertools.permutations(range(count), 2):
        if draw.random() < 0.4 and end != Network.SOURCE and begin != Network.SINK:
            capacity = draw.choice([0, 1, 3, 7, 20])
            ours.edge(begin, end, capacity)
            theirs.add_edge(begin, end, capacity=capacity)
    behind = ours.behind()
    assert behind is not None
    assert Network.SOURCE not in behind
    cut = sum(
        data["capacity"]
        for begin, end, data in theirs.edges(data=True)
        if begin not in behind and end in behind
    )
    assert cut == networkx.minimum_cut_value(theirs, Network.SOURCE, Network.SINK)


def test_a_network_without_a_finite_cut_has_none() -> None:
    network = Network()
    middle = network.node()
    network.edge(Network.SOURCE, middle, ENDLESS)
    network.edge(middle, Network.SINK, ENDLESS)
    assert network.behind() is None


@pytest.mark.broad(1)
@pytest.mark.parametrize("lagging", [False, True])
@pytest.mark.parametrize("rate", [Fraction(1, 1000), Fraction(1), Fraction(4), Fraction(1000)])
@pytest.mark.parametrize("name", ["adam", "lion", "adabelief"])
def test_no_other_choice_is_cheaper(name: str, rate: Fraction, lagging: bool) -> None:
    """Of all choices of up to three values, what is computed again counted by itself."""
    plain = program(name, "everything")
    gradient = [v for v, o in enumerate(plain.operations) if o.opcode == "gradient"]
    graph = _Graph(plain, frozenset(gradient if lagging else ()), lagging, rounded=True)  # type: ignore[arg-type]
    found = graph.cut(rate)
    assert found is not None
    again = graph.again(found)
    assert again is not None
    total = rate * len(found) + again
    possible = [v for v in graph.needed if graph.keepable(v) and v not in graph.free]
    for many in range(3):
        for kept in itertools.combinations(possible, many):
            other = graph.again(frozenset(kept))
            assert other is None or rate * many + other >= total


def test_every_operation_has_a_price() -> None:
    """Nothing for what is given or only has another name, something for all else."""
    for row in TABLE.values():
        assert (row.laws.price == 0) == (row.stage.given or row.laws.alias), row.opcode


# --- choosing -------------------------------------------------------------------------------------


def test_a_bound_is_kept_and_more_state_saves_arithmetic() -> None:
    mada = program("mada", "as it says")
    found = compiler.candidates(mada, Target("c"))
    least = cheapest(found)
    assert state_bytes(least) == 28
    taken = []
    for bound in (28, 32, 36, 40, 48):
        plan = fastest(found, SLOW_ARITHMETIC, bound, "overlapped", "mada")
        taken.append(cost(plan, SLOW_ARITHMETIC))
        assert state_bytes(plan) <= bound
    operations = [each.operations for each in taken]
    assert operations == sorted(operations, reverse=True)
    assert operations[0] > operations[1] > operations[-1]
    # Where memory is slow, nothing is gained by keeping more.
    assert fastest(found, SLOW_MEMORY, 48, "overlapped", "mada") == least


def test_a_sample_scales_what_is_kept() -> None:
    text = library.open_source("mada").text
    learned = re.sub(r"(?m)^(learn .* by .*)$", r"\1 sample 1/8", text)
    whole, part = (
        cuts(compiler.derive(Source("mada.opt", each)), False) for each in (text, learned)
    )
    assert len(whole) == len(part) > 0
    for one, other in zip(whole, part, strict=True):
        own = 4 * (len(one.states) - len(one.kept))
        assert one.kept == other.kept
        assert state_bytes(one) == own + 4 * len(one.kept)
        assert state_bytes(other) == own + 4 * len(one.kept) / 8
        assert parse_plan(print_plan(other)) == other
        ours, theirs = (cost(p, SLOW_ARITHMETIC, order="exact") for p in (one, other))
        assert theirs.operations < ours.operations
        assert theirs.moved < ours.moved


def test_the_frontier_has_what_nothing_beats() -> None:
    costs = [Cost(state, 0, 0, time) for state, time in ((8, 3), (4, 9), (8, 5), (12, 3), (16, 1))]
    assert frontier(costs) == [1, 0, 4]


def test_no_cuts_where_reductions_would_be_computed_again_or_nothing_is_learned() -> None:
    assert not cuts(program("lamb", "everything"), False)
    assert not cuts(compiler.derive(library.open_source("adam")), False)


def test_values_have_their_names_whatever_else_is_learned() -> None:
    """So that a step is completed by an optimizer that learns less."""
    names = []
    for learned in (["beta1", "beta2", "lr"], ["beta1", "beta2"]):
        learn = {name: optdsl.Learn("sgd", bounds=(0, 0.9)) for name in learned}
        derived = compiler.derive(library.open_source("adam"), learn)
        names.append({key for plan in cuts(derived, True) for key in plan.kept})
    assert names[0] & names[1] - {pending("g"), pending("theta")}


# --- what users say -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "1,2,3", "a,b", "0,1", "inf,1", "-1,1", "nan,1"])
def test_a_balance_is_two_positive_numbers(text: str) -> None:
    with pytest.raises(OptionError, match=r"OPTDSL_BALANCE='.*' should be nanoseconds per byte"):
        parsed(text)
    assert parsed(" 0.5, 2") == Balance(0.5, 2.0)


@pytest.mark.parametrize("bound", [-1, float("nan"), float("inf"), "28", True])
def test_a_bound_is_a_number_of_bytes(bound: object) -> None:
    with pytest.raises(OptionError, match=r"state_bytes=.* should be a number of bytes"):
        optdsl.load("mada", state_bytes=bound)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "least"), [("auto", 28), ("c", 28), ("triton", 28), ("eager", 48)]
)
def test_a_bound_that_nothing_keeps_says_what_the_least_is(backend: str, least: int) -> None:
    with pytest.raises(OptionError, match=rf"is too little for MADA, .* at least {least} bytes"):
        optdsl.load("mada", learn=SIX, backend=backend, state_bytes=least - 1)
    assert optdsl.load("mada", learn=SIX, backend=backend, state_bytes=least)
    assert optdsl.load("adam", backend=backend, state_bytes=8)


def test_the_page_lists_the_plans_that_nothing_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTDSL_BALANCE", "0.001,0.1")
    mada = six_source()
    page = describe_plan(mada, bound=32)
    assert "State: 32 bytes per parameter" in page
    assert "Possible plans, at 0.001 ns a byte and 0.1 ns an operation" in page
    rows = [line.split() for line in page.splitlines() if line.endswith("ns") or "chosen" in line]
    rows = [row for row in rows if row and row[0] in {"stored", "replay", "cut", "live"}]
    assert [row[0] for row in rows if row[-1] == "chosen"] == ["cut"]
    assert {"stored", "replay"} < {row[0] for row in rows}
    assert "chosen" in next(x for x in describe_plan(mada).splitlines() if "  replay " in x)
    with pytest.raises(OptionError, match="at least 28 bytes"):
        describe_plan(mada, bound=27)
