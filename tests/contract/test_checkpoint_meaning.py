"""A checkpoint names its rule and what it means; another rule's is refused, or taken by name."""

import copy
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.contract.spawned import go_on
from tests.processes import begun
from tests.runtime.helpers import (
    ORDERS,
    SPECS,
    bits,
    fingerprint,
    held,
    learning,
    parameters,
    saved,
    train,
)

pytestmark = pytest.mark.broad(10)

BACKENDS = ("eager", "auto")
LEARN = {"lr": Learn("sgd", lr=1e-5, momentum=0.9, clip=5, bounds=(0, 1), after=1)}
# So much that the C backend lets the states lag, and does the last step again.
ALL = LEARN | {
    "beta": Learn("sgd", lr=1e-4, clip=5, bounds=(0.5, 0.95)),
    "weight_decay": Learn("adam", lr=1e-4, bounds=(0, 1)),
}
RULE = """\
optimizer Own
hyper lr = 0.01 in [0, inf)
hyper beta = 0.9 in [0, 1)
hyper weight_decay = 0.1 in [0, inf)
state m = 0
h = g + weight_decay * theta
m' = beta * m + (1 - beta) * h
theta' = theta - lr * m'
"""


def meaning_of(text: str, **options: Any) -> str:
    return optdsl.compile(text, **options).compiled.meaning.hash


def with_equations(*equations: str, hypers: str = "", states: str = "state m = 0\n") -> str:
    head = "".join(line + "\n" for line in RULE.splitlines()[:4])
    return head + hypers + states + "".join(e + "\n" for e in equations)


H, M, THETA = RULE.splitlines()[5:]
THE_SAME = {
    "comments and layout": RULE.replace("state m = 0", "# remembered\n\nstate m   =   0  # 0"),
    "documentation": RULE.replace("hyper lr", '  "A rule of one\'s own."\nhyper lr', 1),
    "a local name": with_equations(
        "mixed = g + weight_decay * theta", "m' = beta * m + (1 - beta) * mixed", THETA
    ),
    "no local name": with_equations(
        "m' = beta * m + (1 - beta) * (g + weight_decay * theta)", THETA
    ),
    "more local names": with_equations(H, M, "step_size = lr * m'", "theta' = theta - step_size"),
    "sums the other way round": with_equations(
        "h = theta * weight_decay + g", "m' = h * (1 - beta) + m * beta", THETA
    ),
    "a function": with_equations(H, "m' = ema(m, h, beta)", THETA),
    "a function of its own": with_equations(
        "def decayed(x, y, w) = x + w * y", "h = decayed(g, theta, weight_decay)", M, THETA
    ),
    "a barrier, which only learning sees": with_equations(
        H, "m' = ema(m, stop_gradient(h), beta)", THETA
    ),
    "its name": RULE.replace("Own", "Another"),
    "defaults and bounds": RULE.replace("lr = 0.01 in [0, inf)", "lr = 5 in [1, 10]"),
    "what is learned": RULE + "\nlearn beta in [0, 0.95] by Adam(lr = 0.01)\n",
}
# Over the reals only, so that the hash cannot know.
EQUAL = {
    "another way to write a mean": with_equations(H, "m' = m + (1 - beta) * (h - m)", THETA),
    "a product taken apart": with_equations(
        "m' = beta * m + (1 - beta) * g + (1 - beta) * weight_decay * theta", THETA
    ),
    "hyperparameters in another order": "\n".join(
        [RULE.splitlines()[i] for i in (0, 3, 2, 1, 4, 5, 6, 7)]
    ),
}


@pytest.mark.parametrize("text", THE_SAME.values(), ids=THE_SAME.keys())
def test_the_hash_is_of_what_a_rule_does(text: str) -> None:
    assert meaning_of(text) == meaning_of(RULE)


@pytest.mark.parametrize("text", EQUAL.values(), ids=EQUAL.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_equal_over_the_reals_goes_on(backend: str, text: str) -> None:
    """While a step is pending, with hyperparameters in another order perhaps."""
    assert meaning_of(text) != meaning_of(RULE)
    cls = optdsl.compile(RULE, backend=backend, learn=ALL)
    unbroken = cls(parameters(), lr=0.02, weight_decay=0.3)
    train(unbroken, range(4))
    assert ("pending/hypers" in unbroken.state[held(unbroken)[0]]) == (backend != "eager")
    other = optdsl.compile(text, backend=backend, learn=ALL)
    new = other([nn.Parameter(p.detach().clone()) for p in held(unbroken)])
    new.load_state_dict(saved(unbroken.state_dict()))
    for optimizer in (unbroken, new):
        train(optimizer, range(4, 8))
    assert unbroken.metrics()["hypergradient/lr"] != 0
    assert new.metrics() == pytest.approx(unbroken.metrics(), rel=1e-9)
    for ours, theirs in zip(held(new), held(unbroken), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_backend_order_and_learning_are_no_part_of_the_meaning(spec: str) -> None:
    hashes = {
        optdsl.load(spec, backend=backend, order=order, learn=learn).compiled.meaning.hash
        for backend in BACKENDS
        for order in ORDERS
        for learn in (True, False, learning(spec) if backend == "eager" else False)
    }
    assert len(hashes) == 1


def test_the_hash_is_the_same_in_another_process() -> None:
    code = """
from optdsl.compiler import derive
from optdsl.specifications.library import open_source
from optdsl.runtime.core.fingerprint import meaning

print(meaning(derive(open_source("mada"))).hash)
"""
    paths = os.pathsep.join([*(p for p in sys.path if p), str(Path(optdsl.__file__).parents[1])])
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == optdsl.load("mada").compiled.meaning.hash


OTHERS = {
    "a constant": (
        with_equations(H, "m' = beta * m + (1 - beta) * 2 * h", THETA),
        ["m' = beta * m + (1 - beta) * h", "m' = beta * m + (1 - beta) * 2 * h"],
    ),
    "a start": (RULE.replace("m = 0", "m = g"), ["m at first = 0", "m at first = g"]),
    "a hyperparameter": (
        RULE.replace("beta", "momentum"),
        ["hyperparameters only in the checkpoint: beta", "hyperparameters only here: momentum"],
    ),
    "a state": (
        with_equations(H, M, "k' = k + 1", THETA, states="state m = 0\nstate k = 0\n"),
        ["states only here: k"],
    ),
    "an extent": (
        with_equations(
            "h = mean(g)", "m' = beta * m + (1 - beta) * h",
            "theta' = theta - lr * (m' + weight_decay * g)", states="state m : scalar = 0\n",
        ),
        ["m is one tensor in the checkpoint, and one scalar here"],
    ),
    "two equations, of which only one reads the other": (
        with_equations("h = g", "m' = beta * m + (1 - beta) * h",
                       "theta' = theta - lr * (m' + weight_decay * theta)"),
        ["theta' = theta - lr * m'", "theta' = theta - lr * (m' + weight_decay * theta)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "lines"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("steps", [0, 2])
def test_another_meaning_is_refused_with_what_differs(
    steps: int, text: str, lines: list[str]
) -> None:
    """Though it has the same name; and nothing has changed."""
    source = optdsl.compile(RULE)(parameters())
    train(source, range(steps))
    target = optdsl.compile(text)(parameters(seed=1))
    train(target, range(2))
    before = fingerprint(target)
    with pytest.raises(ValueError, match="not one of Own: it was saved by Own") as caught:
        target.load_state_dict(saved(source.state_dict()))
    for line in lines:
        assert line in str(caught.value)
    assert fingerprint(target) == before
    train(target, [2])


def test_the_error_reads_well() -> None:
    source = optdsl.load("adam")(parameters())
    with pytest.raises(ValueError, match="not one of AdamW") as caught:
        optdsl.load("adamw")(parameters()).load_state_dict(source.state_dict())
    expected = """\
        this state is not one of AdamW: it was saved by Adam, which takes other steps
          in the checkpoint  s = h^2
          here               s = g^2
          in the checkpoint  m' = beta1 * m + (1 - beta1) * h
          here               m' = beta1 * m + (1 - beta1) * g
          in the checkpoint  theta' = theta - lr * update
          here               theta' = theta - lr * (update + weight_decay * \
where(theta - theta == 0, theta, 0))
          only in the checkpoint: h = g + weight_decay * where(theta - theta == 0, theta, 0)
          The states have the same names: load_state_dict(optimizer.migrated(state_dict)) goes on \
with them."""
    assert str(caught.value) == textwrap.dedent(expected)


def test_the_page_about_checkpoints_is_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    blocks = page.split("```")[1::2]
    names: dict[str, Any] = {"path": tmp_path / "checkpoint.pt"}
    for block in blocks:
        if block.startswith("python"):
            exec(block.removeprefix("python"), names)
    assert names["optimizer"].param_groups[0]["weight_decay"] == 0.1
    assert type(names["optimizer"]).__name__ == "AdamW"
    source = optdsl.load("adam")(parameters())
    with pytest.raises(ValueError, match="not one of AdamW") as caught:
        optdsl.load("adamw")(parameters()).load_state_dict(source.state_dict())
    assert f"\n{caught.value}\n" in blocks


def test_a_long_difference_is_cut() -> None:
    source = optdsl.load("mada")(parameters())
    with pytest.raises(ValueError, match="lines more") as caught:
        optdsl.load("sgd")(parameters()).load_state_dict(source.state_dict())
    assert len(str(caught.value).splitlines()) <= 20
    assert "migrated" not in str(caught.value)


def test_checkpoints_from_before_there_were_meanings_load() -> None:
    source = optdsl.load("adam", learn=LEARN)(parameters())
    train(source, range(3))
    content = source.state_dict()
    del content["meaning"]
    for old in (content, {k: v for k, v in content.items() if k != "specification"}):
        new = optdsl.load("adam", learn=LEARN)(parameters())
        new.load_state_dict(saved(old))
        assert fingerprint(new)["state"] == fingerprint(source)["state"]
    with pytest.raises(ValueError, match="not one of AdamW: it was saved by Adam"):
        optdsl.load("adamw")(parameters()).load_state_dict(content)


@pytest.mark.parametrize(
    "program",
    [
        None,
        3,
        "",
        "nonsense",
        "program Own\n  theta : tensor to %7\n",
        "program Own\n  %0 = add %0 %0 : tensor\n  theta : tensor to %0",
        "program Own\n  %0 = constant nan : uniform\n  theta : tensor to %0",
        "program Own\n  %0 = gradient : tensor\n" + "  doc \"x\"\n" * 300_000,
    ],
    ids=["none", "number", "empty", "words", "no value", "circle", "no literal", "too long"],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_refused(program: Any) -> None:
    source = optdsl.compile(RULE)(parameters())
    train(source, range(2))
    content = source.state_dict()
    content["meaning"] = {"hash": "0", "program": program}
    before = fingerprint(source)
    with pytest.raises(ValueError, match="not one of Own"):
        source.load_state_dict(content)
    assert fingerprint(source) == before


# --- by name ------------------------------------------------------------------------------------


def copied(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in held(optimizer)]


@pytest.mark.parametrize("learn", [False, LEARN], ids=["plain", "learning"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_migration_by_name_goes_on_from_completed_states(
    dtype: torch.dtype, backend: str, learn: Any
) -> None:
    """From Adam to AdamW, with Adam's states of an unbroken eager run as oracle."""
    fixed = {"lr": Learn("sgd", lr=0.0, bounds=(0, 1))} if learn else False
    values = {"lr": 0.02, "weight_decay": 0.3, "beta1": 0.8}
    source = optdsl.load("adam", backend=backend, learn=fixed)(parameters(dtype), **values)
    oracle = optdsl.load("adam", backend="eager", learn=False)(parameters(dtype), **values)
    for optimizer in (source, oracle):
        train(optimizer, range(4))
    content = saved(source.state_dict())
    kept = copy.deepcopy(content)
    new = optdsl.load("adamw", backend=backend, learn=fixed)(copied(source))
    moved = new.migrated(content)
    assert repr(content) == repr(kept)
    assert saved(moved)["specification"] == "AdamW"
    new.load_state_dict(moved)
    assert [new.param_groups[0][k] for k in values] == list(values.values())
    tolerance = 1e-12 if dtype is torch.float64 else 1e-2
    for ours, theirs in zip(held(new), held(oracle), strict=True):
        for key in ("m", "v", "step"):
            x, y = new.state[ours][key], oracle.state[theirs][key]
            assert x.dtype is y.dtype
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)
    # Torch's AdamW goes on from the same numbers.
    params = copied(oracle)
    rest = torch.optim.AdamW(params, lr=0.02, weight_decay=0.3, betas=(0.8, 0.999))
    for mine, theirs in zip(params, held(oracle), strict=True):
        state = oracle.state[theirs]
        moments = {"exp_avg": state["m"].to(dtype), "exp_avg_sq": state["v"].to(dtype)}
        rest.state[mine] = {"step": state["step"].float(), **copy.deepcopy(moments)}
    for optimizer in (new, rest):
        train(optimizer, range(4, 7))
    for ours, mine in zip(held(new), params, strict=True):
        close = 1e-9 if dtype is torch.float64 else 3e-2
        torch.testing.assert_close(ours, mine, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_migration_completes_what_lags_by_the_rule_that_began_it(dtype: torch.dtype) -> None:
    """With the old equations and the hyperparameters of then, down to what reads theta'."""
    states = "state m = 0\nstate z = theta\n"
    average = "z' = beta * z + (1 - beta) * theta'"
    old = with_equations(H, M, THETA, average, states=states)
    new = with_equations(H, M, "theta' = theta - lr * 2 * m'", average, states=states)
    still = {name: Learn("sgd", lr=0.0, bounds=(0, 0.99)) for name in ALL}
    values = {"lr": 0.02, "weight_decay": 0.3, "beta": 0.8}
    source = optdsl.compile(old, backend="c", learn=still)(parameters(dtype), **values)
    oracle = optdsl.compile(old, backend="eager", learn=False)(parameters(dtype), **values)
    for optimizer in (source, oracle):
        train(optimizer, range(3))
    assert "pending/g" in source.state[held(source)[0]]
    for group in source.param_groups:
        group["weight_decay"] = 0.0  # from the next step on
    target = optdsl.compile(new, backend="c", learn=still)(copied(source))
    target.load_state_dict(target.migrated(saved(source.state_dict())))
    assert target.param_groups[0]["weight_decay"] == 0.0
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    for ours, theirs in zip(held(target), held(oracle), strict=True):
        assert target.state[ours].keys() == {"step", "m", "z"}
        for key, value in target.state[ours].items():
            expected = oracle.state[theirs][key]
            torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    train(target, range(3, 5))


def test_migration_keeps_values_by_name_and_takes_others_from_here() -> None:
    first = RULE.replace("beta", "momentum")
    source = optdsl.compile(first)(
        [{"params": parameters()[:1]}, {"params": parameters()[1:], "lr": 0.5}], momentum=0.1
    )
    train(source, range(2))
    new = optdsl.compile(RULE)(
        [{"params": parameters()[:1]}, {"params": parameters()[1:], "beta": 0.3}], beta=0.2
    )
    new.load_state_dict(new.migrated(source.state_dict()))
    for group, lr, beta in zip(new.param_groups, (0.01, 0.5), (0.2, 0.3), strict=True):
        assert (group["lr"], group["beta"]) == (lr, beta)
        assert "momentum" not in group
    train(new, range(2, 4))


def test_stored_tangents_are_measured_after_migration() -> None:
    """A hyper-gradient is that of the step that was taken, by whatever rule."""
    cls = optdsl.load("adam", backend="eager", learn=LEARN)
    source = cls(parameters())
    train(source, range(3))
    tangents = [source.state[p]["tangent/lr"].clone() for p in held(source)]
    new = optdsl.load("adamw", backend="eager", learn=LEARN)(copied(source))
    new.load_state_dict(new.migrated(saved(source.state_dict())))
    train(new, [3])
    expected = math.fsum(
        float((p.grad * x).sum()) for p, x in zip(held(new), tangents, strict=True)
    )
    assert expected != 0
    assert new.metrics()["hypergradient/lr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_tensors_learned_of_their_own_is_migrated_too(backend: str) -> None:
    learn = {"lr": Learn("sgd", lr=1e-5, momentum=0.9, bounds=(0, 1), scope="tensor")}
    source = optdsl.load("adam", backend=backend, learn=learn)(parameters())
    train(source, range(4))
    new = optdsl.load("adamw", backend=backend, learn=learn)(copied(source))
    new.load_state_dict(new.migrated(saved(source.state_dict())))
    assert new.metrics() == source.metrics()
    train(new, range(4, 6))
    assert new.metrics() != source.metrics()


def test_migration_refuses_states_that_do_not_match() -> None:
    source = optdsl.load("adam")(parameters())
    train(source, range(2))
    for spec, words in (("lion", "it keeps v besides"), ("adan", "it has no n, g_prev")):
        new = optdsl.load(spec)(parameters())
        with pytest.raises(ValueError, match=f"cannot become one of .*: {words}$"):
            new.migrated(source.state_dict())
    with pytest.raises(ValueError, match="no `state`"):
        source.migrated({})
    content = copy.deepcopy(source.state_dict())
    del content["param_groups"][0]["beta1"]
    with pytest.raises(ValueError, match="groups have no beta1"):
        optdsl.load("adamw")(parameters()).migrated(content)
    two = optdsl.load("adamw")([{"params": [p]} for p in parameters()[:2]])
    with pytest.raises(
        ValueError,
        match=r"parameter groups have \[1, 1\] parameters, and those of the optimizer \[3\]",
    ):
        optdsl.load("adamw")(parameters()).migrated(two.state_dict())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_of_the_whole_state_keeps_the_meaning(tmp_path: Path) -> None:
    """What `state_dict` returns goes through torch.distributed.checkpoint as it is."""
    from torch.distributed import checkpoint

    cls = optdsl.load("mada")
    source, new = cls(parameters()), cls(parameters())
    train(source, range(3))
    train(new, [0])
    checkpoint.save({"o": source.state_dict()}, checkpoint_id=tmp_path / "saved", no_dist=True)
    content = {"o": new.state_dict()}
    checkpoint.load(content, checkpoint_id=tmp_path / "saved", no_dist=True)
    new.load_state_dict(content["o"])
    packed, expected = fingerprint(new), fingerprint(source)
    assert (packed["state"], packed["groups"]) == (expected["state"], expected["groups"])
    with pytest.raises(ValueError, match="takes other steps"):
        optdsl.load("mada_legacy")(parameters()).load_state_dict(content["o"])


def test_migration_of_a_checkpoint_without_a_meaning() -> None:
    """Complete states are taken; a step that would have to be completed is not guessed."""
    for learn, backend in ((False, "eager"), (LEARN, "c")):
        source = optdsl.load("adam", backend=backend, learn=learn)(parameters(torch.bfloat16))
        train(source, range(2))
        content = source.state_dict()
        del content["meaning"]
        new = optdsl.load("adamw", learn=learn)(parameters(torch.bfloat16))
        if any("pending/g" in state for state in content["state"].values()):
            with pytest.raises(ValueError, match="last step is not completed"):
                new.migrated(content)
        else:
            new.load_state_dict(new.migrated(content))
            assert bits(new.state[held(new)[0]]["m"]) == bits(source.state[held(source)[0]]["m"])


# --- every cell of spec, backend and order ------------------------------------------------------


def plain_types(content: Any) -> set[type]:
    if isinstance(content, dict):
        return {t for k, v in content.items() for t in (type(k), *plain_types(v))}
    if isinstance(content, list | tuple):
        return {t for item in content for t in plain_types(item)}
    return {type(content)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", SPECS)
def test_torch_load_reads_it_with_default_settings_and_no_bit_is_lost(
    spec: str, backend: str, order: str, dtype: torch.dtype
) -> None:
    """Learned coefficients and pending states included; every entry in its own dtype."""
    cls = optdsl.load(spec, backend=backend, order=order, learn=learning(spec))
    source = cls(parameters(dtype))
    train(source, range(3))
    content = source.state_dict()
    assert plain_types(content) <= {str, int, float, bool, type(None), Tensor}
    new = cls(copied(source))
    new.load_state_dict(saved(content))
    for ours, theirs in zip(held(new), held(source), strict=True):
        assert new.state[ours].keys() == source.state[theirs].keys()
        for key, value in source.state[theirs].items():
            assert bits(new.state[ours][key]) == bits(value), key
    for optimizer in (source, new):
        train(optimizer, range(3, 5))
    assert fingerprint(new) == fingerprint(source)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_spawned_processes_go_on_the_same(tmp_path: Path) -> None:
    optimizers: list[Any] = []
    for backend in BACKENDS:
        for order in ORDERS:
            cls = optdsl.load("mada_legacy", backend=backend, order=order,
                              learn=learning("mada_legacy"))  # fmt: skip
            optimizers.append(cls(parameters(torch.bfloat16)))
            train(optimizers[-1], range(3))
    # A process gets parameters in shared memory: each its own copy.
    processes = [begun(go_on, n, copy.deepcopy(optimizers), str(tmp_path)) for n in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for optimizer in optimizers:
        train(optimizer, range(3, 6))
    for number in range(2):
        results = torch.load(tmp_path / f"{number}.pt")
        for result, optimizer in zip(results, optimizers, strict=True):
            expected = optimizer.state_dict()
            for index, state in expected["state"].items():
                for key, value in state.items():
                    assert bits(result["state"][index][key]) == bits(value)
            assert repr(result["param_groups"]) == repr(expected["param_groups"])
