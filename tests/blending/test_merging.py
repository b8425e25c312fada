"""Members' states become one exactly where they are always equal, to the bit."""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import optdsl.blending as blending
from optdsl.blending.merge import partition
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.specifications import library
from optdsl.specifications.references import attached
from tests.oracles import problems
from tests.oracles.running import Interpreter
from tests.sampling import examples

BLENDS = [n for n in library.list_specs() if library.open_source(n).text.startswith("blend")]


def without_claims(text: str) -> str:
    return re.sub(r"^(recovers|misses).*$", "", text, flags=re.MULTILINE)


@functools.cache
def source_of(name: str) -> Source:
    return library.open_source(name)


def unmerged(source: Source) -> Program:
    """The blend with every member's states as they are, under the members' names."""
    # Members that are blends themselves stay as they are.
    library.read(source, verify=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blending, "merge_states", lambda program, by_name=False: program)
        # Not what was read before.
        return library.read(replace(source, text=source.text + "\n# unmerged\n"), verify=False)


@functools.cache
def programs(name: str) -> tuple[Program, Program]:
    """A blend of the library, merged and not."""
    source = source_of(name)
    return library.read(source), unmerged(source)


def classes(merged: Program) -> list[set[str]]:
    return [set(s.origins) for s in merged.states]


def bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int64)


def same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(bits(x.contiguous()), bits(y.contiguous()))


def steps(
    program: Program, hypers: Mapping[str, float], seed: int
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Parameter and states, before the first step and after each one."""
    generator = problems.seeded(seed)
    interpreter = Interpreter(program)
    theta, gradients = problems.randn(generator, 6), problems.randn(generator, 7, 6)
    gradients[:, 0] = 0.0
    state = interpreter.start(theta, gradients[0], hypers)
    yield theta, state
    for t, g in enumerate(gradients, start=1):
        result = interpreter.step(theta, g, state, hypers, t)
        theta, state = result.parameter, result.state
        yield theta, state


def random_hypers(program: Program, seed: int) -> dict[str, float]:
    return problems.interior_hypers(program, problems.seeded(seed))


def always_equal(program: Program, seeds: range) -> set[frozenset[str]]:
    """The pairs of states that no run of these tells apart."""
    pairs = {frozenset(p) for p in itertools.combinations([s.name for s in program.states], 2)}
    for seed in seeds:
        for _, state in steps(program, random_hypers(program, seed), seed):
            pairs = {p for p in pairs if same_bits(*(state[name] for name in p))}
    return pairs


def pairs_of(blocks: list[set[str]]) -> set[frozenset[str]]:
    return {frozenset(p) for block in blocks for p in itertools.combinations(block, 2)}


# --- the five-way blend ---------------------------------------------------------------------------

FOUR = ("Adam", "AVGrad", "Yogi", "Adan")


def test_the_five_way_blend_has_six_buffers() -> None:
    found = library.specification(source_of("mada"))
    assert {s.name: s.origins for s in found.program.states} == {
        "m": tuple(f"{member}.m" for member in FOUR),
        "v": tuple(f"{member}.v" for member in FOUR),
        "V": ("AVGrad.V",),
        "n": ("Adan.n",),
        "g_prev": ("Adan.g_prev",),
        "m_lion": ("Lion.m",),
    }
    assert len(found.program.states) == 6
    assert len(found.separate) == 12
    assert sorted(s.name for s in found.separate) == sorted(
        o.partition(".")[2] for s in found.program.states for o in s.origins
    )


def changed(*replacements: tuple[str, str]) -> Program:
    """The five-way blend with some statements changed."""
    text = without_claims(source_of("mada").text)
    for old, new in replacements:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return library.read(Source("mine.opt", text))


M, V = {f"{m}.m" for m in FOUR}, {f"{m}.v" for m in FOUR}


@pytest.mark.parametrize(
    ("replacements", "blocks"),
    [
        # Another start.
        ([("Yogi.m0    = 0", "Yogi.m0    = 1e-6")], [M - {"Yogi.m"}, V]),
        ([("Yogi.v0    = 0", "Yogi.v0    = 1e-6")], [M, V - {"Yogi.v"}]),
        ([("Yogi.m0    = 0\n", "")], [M - {"Yogi.m"}, V]),
        # The same start in other words is the same.
        ([("Yogi.m0    = 0", "Yogi.m0    = 0.0")], [M, V]),
        # Another beta, or one of its own.
        ([("Adan.beta3 = beta2\n", "")], [M, V - {"Adan.v"}]),
        ([("Adan.beta3 = beta2", "Adan.beta3 = beta1")], [M, V - {"Adan.v"}]),
        ([("Adan.beta3 = beta2", "Adan.beta3 = 0.95")], [M, V - {"Adan.v"}]),
        ([("share beta2 among Adam, AVGrad, Yogi", "share beta2 among Adam, AVGrad")],
         [M, V - {"Yogi.v"}]),
        ([("share lr, beta1, eps among Adam, AVGrad, Yogi, Adan",
           "share lr, eps among Adam, AVGrad, Yogi, Adan\nshare beta1 among Adam, AVGrad, Yogi")],
         [M - {"Adan.m"}, V]),
        # A learning rate of one's own is no matter of states.
        ([("Lion.lr    = lr_ratio * lr", "Lion.lr = lr")], [M, V]),
    ],
)  # fmt: skip
def test_states_that_differ_in_start_or_decay_stay_apart(
    replacements: list[tuple[str, str]], blocks: list[set[str]]
) -> None:
    found = classes(changed(*replacements))
    for block in blocks:
        assert block in found, found


def test_lion_s_moment_is_its_own_even_with_adam_s_beta() -> None:
    """Lion's second beta decays the moment; with Adam's first one there, the two are one buffer."""
    bound = "Lion.lr    = lr_ratio * lr\nLion.beta2 = beta1"
    program = changed(("Lion.lr    = lr_ratio * lr", bound))
    assert M | {"Lion.m"} in classes(program)
    assert len(program.states) == 5
    bound = "Lion.lr    = lr_ratio * lr\nLion.beta1 = beta1"
    assert {"Lion.m"} in classes(changed(("Lion.lr    = lr_ratio * lr", bound)))


# --- the library against brute force --------------------------------------------------------------


@pytest.mark.parametrize("name", BLENDS)
def test_merged_and_unmerged_take_the_same_steps_to_the_bit(name: str) -> None:
    merged, separate = programs(name)
    assert {s.name for s in separate.states} == {
        f"{member}.{state.name}"
        for member, rule in attached(source_of(name), library.open_source,
                                     library.list_specs()).rules or ()
        if member in without_claims(source_of(name).text)
        for state in library.read(rule).states
    }  # fmt: skip
    for seed in range(3):
        hypers = random_hypers(merged, seed)
        ours, theirs = steps(merged, hypers, seed), steps(separate, hypers, seed)
        for (x, state), (y, states) in zip(ours, theirs, strict=True):
            assert torch.isfinite(x).all()
            assert same_bits(x, y)
            for one in merged.states:
                for origin in one.origins:
                    assert same_bits(state[one.name], states[origin]), origin


@pytest.mark.parametrize("name", BLENDS)
def test_states_are_one_exactly_where_no_run_tells_them_apart(name: str) -> None:
    merged, separate = programs(name)
    blocks: dict[int, set[str]] = {}
    for state, number in partition(separate).items():
        blocks.setdefault(number, set()).add(state)
    found = pairs_of(list(blocks.values()))
    assert found == always_equal(separate, range(3))
    # What is left of them in the program are whole classes.
    assert all(block in blocks.values() for block in classes(merged))
    assert sum(len(block) for block in classes(merged)) <= len(separate.states)


@pytest.mark.parametrize("name", BLENDS)
def test_with_equal_hyperparameters_more_states_are_equal_but_not_one(name: str) -> None:
    """Hyperparameters of members may be set alike, and may be set apart again."""
    merged, separate = programs(name)
    hypers = random_hypers(merged, 5)
    betas = {h: 0.5 for h in hypers if "beta" in h}
    for (_, state), (_, states) in zip(
        steps(merged, hypers | betas, 5), steps(separate, hypers | betas, 5), strict=True
    ):
        for one in merged.states:
            for origin in one.origins:
                assert same_bits(state[one.name], states[origin])


def test_members_alone_and_a_blend_at_their_corner() -> None:
    """A buffer of the blend is that of the member's own program, where the blend is that member."""
    merged, _ = programs("two_speed")
    alone = library.read(library.open_source("adamw"))
    hypers = random_hypers(merged, 2)
    for share, member in ((0.0, "fast"), (1.0, "slow")):
        own = {h.name: hypers.get(h.name, hypers[f"beta1_{member}"]) for h in alone.hypers}
        pairs = zip(steps(merged, hypers | {"slow": share}, 2), steps(alone, own, 2), strict=True)
        for (x, state), (y, states) in pairs:
            assert same_bits(x, y)
            assert same_bits(state["v"], states["v"])
            assert same_bits(state[f"m_{member}"], states["m"])


def test_a_member_that_is_a_blend_shares_its_states_too() -> None:
    text = "blend Mine\nuse AdamAVGrad, AdamW\nshare lr, beta1, beta2, eps, weight_decay\n"
    text += "hyper weight_decay = 0 in [0, inf)\nhyper w = 0.5 in [0, 1]\n"
    text += "theta' = w * AdamAVGrad.theta' + (1 - w) * AdamW.theta'\n"
    source = Source("mine.opt", text)
    merged, separate = library.read(source), unmerged(source)
    assert [(s.name, set(s.origins)) for s in merged.states] == [
        ("m", {"AdamAVGrad.Adam.m", "AdamAVGrad.AVGrad.m", "AdamW.m"}),
        ("v", {"AdamAVGrad.Adam.v", "AdamAVGrad.AVGrad.v", "AdamW.v"}),
        ("V", {"AdamAVGrad.AVGrad.V"}),
    ]
    assert len(separate.states) == 5
    hypers = random_hypers(merged, 1)
    for (x, _), (y, _) in zip(steps(merged, hypers, 1), steps(separate, hypers, 1), strict=True):
        assert same_bits(x, y)


# --- small blends ---------------------------------------------------------------------------------


def small(members: Mapping[str, list[str]], *lines: str) -> Source:
    """A blend of rules that are given by their lines, mixed by a vector of weights."""
    rules = []
    for name, body in members.items():
        text = "\n".join([f"optimizer {name}", *body, ""])
        rules.append((name, Source(f"{name}.opt", text, None, ())))
    labels = ", ".join(members)
    mixed = " + ".join(f"w.{name} * {name}.theta'" for name in members)
    head = ["blend Mine", f"use {labels}", f"hyper w = uniform on simplex({labels})"]
    return Source(
        "mine.opt", "\n".join([*head, *lines, f"theta' = {mixed}", ""]), None, tuple(rules)
    )


BETA = "hyper b = 0.9 in [0, 1)"


def counted(one: list[str], other: list[str], *lines: str) -> int:
    """How many buffers two rules with a moment each need."""
    update = "theta' = theta - m'"
    return len(library.read(small({"X": [*one, update], "Y": [*other, update]}, *lines)).states)


@pytest.mark.parametrize(
    ("one", "other", "lines", "count"),
    [
        (["state m = 0", "m' = m + g"], ["state m = 0", "m' = m + g"], [], 1),
        (["state m = 0", "m' = m + g"], ["state m = 1", "m' = m + g"], [], 2),
        (["state m = 0", "m' = m + g"], ["state m = g", "m' = m + g"], [], 2),
        (["state m = g", "m' = m + g"], ["state m = g", "m' = m + g"], [], 1),
        (["state m = 0", "m' = m + g"], ["state m = -0", "m' = m + g"], [], 2),
        (["state m = 0", "m' = m + g"], ["state m = 0", "m' = g + m"], [], 2),
        (["state m = 0", "m' = m + g"], ["state m = 0", "m' = m - g"], [], 2),
        (["state m = 0", "h = g", "m' = m + h"], ["state m = 0", "h = g", "m' = m + h"], [], 1),
        (["state m = 0", "h = g", "m' = m + h"], ["state m = 0", "m' = m + g"], [], 1),
        ([BETA, "state m = 0", "m' = ema(m, g, b)"], [BETA, "state m = 0", "m' = ema(m, g, b)"],
         ["share b"], 1),
        ([BETA, "state m = 0", "m' = ema(m, g, b)"], [BETA, "state m = 0", "m' = ema(m, g, b)"],
         [], 2),
        ([BETA, "state m = 0", "m' = ema(m, g, b)"],
         ["state m = 0", "m' = 0.9 * m + (1 - 0.9) * g"], ["X.b = 0.9"], 1),
        ([BETA, "state m = b", "m' = m + g"], [BETA, "state m = b", "m' = m + g"], ["share b"], 1),
        ([BETA, "state m = b", "m' = m + g"], [BETA, "state m = b", "m' = m + g"], [], 2),
        (["state m = 0", "m' = m + g / t"], ["state m = 0", "m' = m + g"], [], 2),
        (["state m : scalar = 0", "m' = m + mean(g)"], ["state m = 0", "m' = m + mean(g)"], [], 2),
        (["state m : scalar = 0", "m' = m + mean(g)"],
         ["state m : scalar = 0", "m' = m + mean(g)"], [], 1),
        # What is equal rests on another state that is: two chains, of two states each.
        (["state m = 0", "state a = 0", "a' = a + g", "m' = m + a'"],
         ["state m = 0", "state z = 0", "z' = z + g", "m' = m + z'"], [], 2),
        (["state m = 0", "state a = 0", "a' = m + g", "m' = a"],
         ["state m = 0", "state a = 0", "a' = m + g", "m' = a"], [], 2),
        (["state m = 0", "state a = 0", "a' = m + g", "m' = a"],
         ["state m = 0", "state a = 1", "a' = m + g", "m' = a"], [], 4),
        # Two states of one member may be one, too.
        (["state m = 0", "state a = 0", "a' = a + g", "m' = m + g"],
         ["state m = 1", "state a = 1", "a' = a + g", "m' = m * a + g"], [], 3),
        # A state on which nothing depends is none.
        (["state m = 0", "state a = 0", "a' = a + g", "m' = m + g"],
         ["state m = 0", "m' = m + g"], [], 1),
    ],
)  # fmt: skip
def test_what_is_one_buffer(one: list[str], other: list[str], lines: list[str], count: int) -> None:
    assert counted(one, other, *lines) == count
    assert counted(other, one, *(s.replace("X.", "Y.") for s in lines)) == count


def test_names_are_plain_where_there_is_no_other() -> None:
    shared = ["state m = 0", "m' = m + g", "theta' = theta - m'"]
    other = ["state m = 1", "m' = m + g", "theta' = theta - m'"]
    read = library.read(small({"X": shared, "Y": other}))
    assert [(s.name, s.origins) for s in read.states] == [("m_x", ("X.m",)), ("m_y", ("Y.m",))]
    # One that several share keeps the plain name.
    read = library.read(small({"X": shared, "Y": other, "Z": shared}))
    assert [(s.name, s.origins) for s in read.states] == [("m", ("X.m", "Z.m")), ("m_y", ("Y.m",))]


def test_no_name_is_a_hyperparameter_s() -> None:
    one = ["hyper b = 0.5 in [0, 1)", "state m = 0", "m' = ema(m, g, b)", "theta' = theta - m'"]
    text = small({"X": one, "Y": one}, "hyper m = 0.5 in [0, 1)", "X.b = m", "Y.b = m")
    read = library.read(text)
    assert [s.name for s in read.states] == ["m_2"]


# --- random blends --------------------------------------------------------------------------------

STARTS = ["0", "0", "1", "g", "b"]
NEXT = ["ema({0}, g, b)", "ema({0}, g, b)", "{0} + g", "{0} + g * theta", "{1}'", "{1} + g",
        "max({0}, {1})", "b * {0} + {1}", "where(t == 1, g, {0})"]  # fmt: skip


def member(source: random.Random) -> list[str]:
    """A rule of a few states that depend on each other, from few enough kinds to coincide."""
    names = source.sample(["m", "v", "n"], source.randint(1, 3))
    lines = ["hyper b = 0.9 in [0, 1)"]
    for i, name in enumerate(names):
        # A primed state may use those before it only, so that nothing goes round in circles.
        other = names[source.randrange(i)] if i else name
        allowed = NEXT if i else [n for n in NEXT if "{1}'" not in n]
        lines.append(f"state {name} = {source.choice(STARTS)}")
        lines.append(f"{name}' = {source.choice(allowed).format(name, other)}")
    read = " + ".join(f"{source.choice(['', '2 * '])}{name}'" for name in names)
    return [*lines, f"theta' = theta - 0.1 * ({read})"]


@examples(50)
@given(st.integers(0, 10**9))
def test_random_blends_keep_every_bit(seed: int) -> None:
    source = random.Random(seed)
    rules = [member(source) for _ in range(source.randint(1, 2))]
    # Some rules twice or more, under several names.
    used = {name: source.choice(rules) for name in "XYZ"[: source.randint(2, 3)]}
    shared = source.choice([[], ["share b"], ["share b among X, Y"], ["X.b = 0.5", "Y.b = 0.5"]])
    text = small(used, *shared)
    merged, separate = library.read(text), unmerged(text)
    origins = [o for s in merged.states for o in s.origins]
    assert len(origins) == len(set(origins))
    known = pairs_of(classes(merged))
    seen = always_equal(separate, range(2))
    # Equal states are one; others are told apart by a run, or are computed in another way.
    assert known <= seen
    for pair in seen - known:
        assert not pair <= set(origins) or differently_computed(separate, pair)
    for run in range(2):
        hypers = random_hypers(merged, run)
        ours, theirs = steps(merged, hypers, run), steps(separate, hypers, run)
        for (x, state), (y, states) in zip(ours, theirs, strict=True):
            assert same_bits(x, y)
            for one in merged.states:
                assert all(same_bits(state[one.name], states[o]) for o in one.origins)


def differently_computed(program: Program, pair: frozenset[str]) -> bool:
    """Whether two states, or states that they depend on, are the results of other operations."""
    left, right = (computation(program, name) for name in sorted(pair))
    return left != right


def computation(program: Program, name: str) -> list[str]:
    """The operations behind a state and all that it depends on, names and numberings aside."""
    states = {s.name: s for s in program.states}
    seen, waiting = {name}, [name]
    shapes: list[str] = []
    while waiting:
        state = states[waiting.pop()]
        for value in program.needed((state.initial, state.next)):
            operation = program.operations[value]
            named = operation.opcode in {"define", "state"}
            shapes.append(str((operation.opcode, None if named else operation.attribute)))
            read = str(operation.attribute)
            if operation.opcode == "state" and read not in seen:
                seen.add(read)
                waiting.append(read)
    return sorted(shapes)
