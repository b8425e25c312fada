"""Standalone files: what they import, the steps that they take, what they keep and refuse."""

from __future__ import annotations

import copy
import math
import re
import warnings
from typing import Any

import pytest
import torch

import optdsl
from optdsl.cli import main
from optdsl.report import library as table
from optdsl.specifications import library, sources
from tests.ejecting.helpers import SHAPES, ejected, executed, parameters, train

pytestmark = pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")

USUAL = (
    "adam", "lion", "lamb", "muon(ns_steps = 2)", "adafactor", "soap", "galore_adamw", "scion",
    "prodigy", "schedule_free_adamw", "adamw with clip, cautious",
)  # fmt: skip
MODIFIED = [table.example(m) for m in sources.list_modifiers()]
OTHERS = sorted({*optdsl.list_specs(), *MODIFIED} - {*USUAL})


# What calls for many tensors at once compute is equal up to rounding: to so many digits.
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 2**-6}


def compare(name: str, dtype: torch.dtype, steps: int) -> None:
    """An ejected file and the eager optimizer take the same steps, states included.

    They are the same to the bit, except where the file works on many tensors at once.
    """
    shapes = ((6, 4), (4, 6), (5,)) if name == "galore_adamw" else SHAPES
    ours, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    namespace = executed(optdsl.eject(name))
    reference = optdsl.load(name, backend="eager", learn=False)(ours)
    optimizer = namespace[namespace["NAME"]](theirs)
    near = ROUNDING[dtype] if "alike" in namespace else 0.0

    def check() -> None:
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(q, p, rtol=near, atol=near)

    train(reference, ours, steps)
    train(optimizer, theirs, steps)
    check()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(optimizer.state[q], reference.state[p], rtol=near, atol=near)
    if hasattr(optimizer, "eval"):
        before = [q.detach().clone() for q in theirs]
        reference.eval()
        optimizer.eval()
        check()
        with pytest.raises(RuntimeError, match="eval mode"):
            optimizer.step()
        optimizer.train()
        for q, x in zip(theirs, before, strict=True):
            torch.testing.assert_close(q.detach(), x, rtol=0, atol=0)


@pytest.mark.broad(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", USUAL)
def test_takes_the_same_steps(name: str, dtype: torch.dtype) -> None:
    heavy = name in {"soap", "galore_adamw", "muon(ns_steps = 2)"}
    compare(name, dtype, 20 if heavy else 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OTHERS)
def test_every_rule_and_modifier_takes_the_same_steps(name: str) -> None:
    compare(name, torch.float32, 100)


TEXTS = (
    "tiger",
    "prodigy",
    "galore_adamw",
    "soap",
    "mada",
    "memory",
    "adamw with stochastic_rounding",
)


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_tidy(name: str) -> None:
    text = optdsl.eject(name, learn=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "optdsl" not in "\n".join(re.findall(r"^(?:import|from) .*", text, re.M))
    for imported in re.findall(r"^(?:import|from .* import) (\w+)", text, re.M):
        assert len(re.findall(rf"\b{imported}\b", text)) > 1, imported
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(text, "ejected.py", "exec")
    documentation = library.read(sources.open_source(name)).documentation
    words = " ".join(text.split())
    assert all(" ".join(line.split()) in words for line in documentation)
    assert f"`{name}` by optdsl {optdsl.__version__}" in text
    assert "SPDX-License-Identifier: Apache-2.0" in text


def test_against_torch() -> None:
    """A reference that is not ours, with a schedule, two groups, and a closure."""

    def run(cls: Any, **options: Any) -> list[torch.nn.Parameter]:
        held = parameters(torch.float64)
        optimizer = cls(held[:2], lr=0.05, weight_decay=0.1, maximize=True, **options)
        optimizer.add_param_group({"params": held[2:], "lr": 0.01})
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        for _ in range(20):

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = -sum((p**2).sum() for p in held)
                loss.backward()
                return loss

            assert optimizer.step(closure) < 0
            schedule.step()
        return held

    expected = run(torch.optim.AdamW)
    for p, q in zip(run(ejected("adamw")), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "muon(ns_steps = 1)", "prodigy"])
def test_a_run_goes_on_from_its_state(name: str) -> None:
    cls = ejected(name)
    held = parameters(torch.bfloat16)
    optimizer = cls(held)
    train(optimizer, held, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    copies = [torch.nn.Parameter(p.detach().clone()) for p in held]
    other = cls(copies)
    other.load_state_dict(saved)
    assert other.state[copies[0]]["m"].dtype is torch.float32
    # The state of our own optimizer has the same names.
    ours = [torch.nn.Parameter(p.detach().clone()) for p in held]
    own = optdsl.load(name, backend="eager", learn=False)(ours)
    own.load_state_dict(own.state_dict() | {k: saved[k] for k in ("state", "param_groups")})
    for some, its in ((optimizer, held), (other, copies), (own, ours)):
        train(some, its, 3, seed=2)
    for p, q, r in zip(held, copies, ours, strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r, rtol=2**-7, atol=2**-7)


def test_hyperparameters_are_checked() -> None:
    adam, muon = ejected("adam"), ejected("muon(ns_steps = 1)")
    with pytest.raises(ValueError, match=r"Adam: beta1 = 1 is out of bounds, .* in \[0, 1\)"):
        adam(parameters(), beta1=1.0)
    with pytest.raises(TypeError, match=r"lr must be a real number, not '0\.1'"):
        adam(parameters(), lr="0.1")
    with pytest.raises(ValueError, match="lr = nan is out of bounds"):
        adam(parameters(), lr=float("nan"))
    with pytest.raises(ValueError, match="lr = -1 is out of bounds"):
        adam([{"params": parameters(), "lr": -1}])
    with pytest.raises(TypeError, match=r"must be one of .*'match_rms_adamw'.*, not 'rms'"):
        muon(parameters(), adjust_lr_fn="rms")
    with pytest.raises(ValueError, match=r"nesterov = 2 is out of bounds, .* in \{0, 1\}"):
        muon(parameters(), nesterov=2)
    held = parameters()
    optimizer = adam(held, lr=torch.tensor(0.1))
    optimizer.param_groups[0]["lr"] = -4.4e-21  # rounding, as at the end of a schedule
    train(optimizer, held, 1)
    assert torch.equal(held[0], parameters()[0])
    optimizer.param_groups[0]["lr"] = -0.1
    with pytest.raises(ValueError, match="out of bounds"):
        optimizer.step()
    blend = ejected("adam_avgrad")
    with pytest.raises(ValueError, match="out of bounds"):
        blend(parameters(), rho=2)


def test_gradients_and_parameters_that_no_step_takes() -> None:
    for p, grad, error, match in (
        (torch.zeros(3), torch.zeros(3).to_sparse(), RuntimeError, "sparse"),
        (torch.zeros(3, dtype=torch.complex64), torch.zeros(3) * 1j, ValueError, "complex"),
    ):
        held = [*parameters(), torch.nn.Parameter(p)]
        for q in held[:-1]:
            q.grad = torch.ones_like(q)
        held[-1].grad = grad
        optimizer = ejected("adam")(held)
        with pytest.raises(error, match=match):
            optimizer.step()
        assert torch.equal(held[0], parameters()[0])


def test_many_tensors_at_once_are_stepped_as_by_hand() -> None:
    """Adam with decay of both kinds, in float64, with states that began at different steps."""
    for name, coupled in (("adam", True), ("adamw", False)):
        held = parameters(torch.float64)
        optimizer = ejected(name)(held, lr=0.1, weight_decay=0.2, eps=0.01)
        expected = [p.detach().clone() for p in held]
        moments = [[torch.zeros_like(p), torch.zeros_like(p), 0] for p in held]
        for count in range(6):
            for p, x, own in zip(held, expected, moments, strict=True):
                p.grad = torch.sin(p.detach() + count) if count > 1 or p is held[0] else None
                if p.grad is None:
                    continue
                g = torch.sin(x + count) + (0.2 * x if coupled else 0)
                own[2] += 1
                own[0] = 0.9 * own[0] + 0.1 * g
                own[1] = 0.999 * own[1] + 0.001 * g * g
                root = (own[1] / (1 - 0.999 ** own[2])).sqrt() + 0.01
                x -= 0.1 * (0 if coupled else 0.2) * x + 0.1 * own[0] / (1 - 0.9 ** own[2]) / root
            optimizer.step()
        for p, x in zip(held, expected, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-12, atol=1e-12)


def test_infinite_parameters_stay_so_under_decay() -> None:
    for name in ("adam", "adamw", "sgd", "radam"):
        p = torch.nn.Parameter(torch.tensor([math.inf, -math.inf, 1.0]))
        optimizer = ejected(name)([p], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            p.grad = torch.ones(3)
            optimizer.step()
        assert p[:2].tolist() == [math.inf, -math.inf]
        assert 0 < p[2] < 1


def test_steps_within_autocast_are_those_outside() -> None:
    runs = []
    for enabled in (False, True):
        held = parameters()
        optimizer = ejected("muon(ns_steps = 1)")(held)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            train(optimizer, held, 2)
        runs.append(held)
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_shards_of_what_is_looked_at_as_a_whole_are_refused() -> None:
    """With the mark of FullyShardedDataParallel; elementwise rules may step shards."""
    for name, whole in (("adam", False), ("lamb", True), ("adamw with clip", True)):
        held = parameters()
        held[0]._fsdp_flattened = True
        optimizer = ejected(name)(held)
        if whole:
            with pytest.raises(ValueError, match="works on whole tensors"):
                train(optimizer, held, 1)
        else:
            train(optimizer, held, 1)


def test_kinds() -> None:
    cls = ejected("muon(ns_steps = 1)")
    reference = optdsl.load("muon(ns_steps = 1)", backend="eager")
    runs = []
    for made in (cls, reference):
        held = parameters()
        groups = [{"params": held[1:]}, {"params": held[:1], "kind": "otherwise"}]
        train(made(groups, lr=0.02), held, 3)
        runs.append(held)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no kind 'head'; its kinds are matrices, otherwise"):
        cls([{"params": parameters(), "kind": "head"}])
    with pytest.raises(ValueError, match=r"cannot read a parameter of shape \(5,\) as matrices"):
        cls([{"params": parameters()[1], "kind": "matrices"}])
    # A changed kind leaves states behind.
    optimizer = ejected("soap")(held := parameters())
    train(optimizer, held, 1)
    optimizer.param_groups[0]["kind"] = "otherwise"
    train(optimizer, held, 1)
    optimizer = ejected("soap")([{"params": held, "kind": "otherwise"}])
    train(optimizer, held, 1)
    del optimizer.param_groups[0]["kind"]
    with pytest.raises(ValueError, match="without the states"):
        optimizer.step()


def test_inputs() -> None:
    runs = []
    for cls in (ejected("sophia_g"), optdsl.load("sophia_g", backend="eager")):
        held = parameters(torch.float64)
        optimizer = cls(held, lr=0.1)
        for count in range(4):
            for p in held:
                p.grad = torch.sin(p.detach() + count)
            given = {p: torch.cos(p.detach()) ** 2 for p in held}
            optimizer.step(inputs={"hessian": given} if count in {0, 2} else None)
        runs.append(held)
        with pytest.raises(ValueError, match="has no input 'hess'"):
            optimizer.step(inputs={"hess": given})
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(inputs={"hessian": {held[0]: torch.zeros(2)}})
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_what_decides_operations_may_be_a_number_of_the_step_too(tmp_path: Any) -> None:
    text = """\
optimizer Counted
hyper lr = 0.5 in [0, inf)
hyper n  = 3   in {1, ..., 9}
def power(x, n) = where(n > 1, x * power(x, n - 1), x)
theta' = theta - lr / n * power(g, n)
"""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([2.0, -1.0])
    path = tmp_path / "counted.opt"
    path.write_text(text)
    namespace = executed(optdsl.eject(path))
    namespace["Counted"]([p]).step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5 / 3 * 8, 0.5 / 3]))


def test_the_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "my_adam.py"
    assert main(["eject", "adam", "-o", str(output)]) == 0
    assert output.read_text() == optdsl.eject("adam")
    assert main(["eject", "adam", "-o", str(output)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["eject", "hyperadam", "--learn", "--order", "exact"]) == 0
    assert capsys.readouterr().out == optdsl.eject("hyperadam", learn=True, order="exact")
    assert "learns beta1" in " ".join(optdsl.eject("hyperadam").split())
