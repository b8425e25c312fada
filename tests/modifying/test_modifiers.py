"""Modifiers of the library against torch, and against their papers' equations written by hand."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.diagnostics import SpecError
from optdsl.specifications import library
from optdsl.syntax.parse import parse
from tests.oracles.rules import ELEMENTWISE

BACKENDS = ("eager", "auto")
STEPS = 30
SHAPES = ((7, 5), (11,), ())


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    make = torch.randn
    return [nn.Parameter(make(s, generator=generator, dtype=torch.float64)) for s in SHAPES]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


def trained(
    optimizer: torch.optim.Optimizer,
    held: list[nn.Parameter],
    before: Callable[[list[nn.Parameter]], Any] = lambda held: None,
    after: Callable[[], Any] = lambda: None,
) -> list[Tensor]:
    for step in range(STEPS):
        for p, g in zip(held, gradients(step), strict=True):
            p.grad = g
        before(held)
        optimizer.step()
        after()
    return [p.detach().clone() for p in held]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


def run(rule: str, backend: str, **hypers: Any) -> list[Tensor]:
    held = parameters()
    return trained(optdsl.load(rule, backend=backend)(held, **hypers), held)


@pytest.mark.parametrize("backend", BACKENDS)
class TestAgainstTorch:
    def test_coupled_decay_is_that_of_adam(self, backend: str) -> None:
        held = parameters()
        theirs = trained(torch.optim.Adam(held, lr=0.01, weight_decay=0.3), held)
        ours = run("adam with coupled_decay", backend, lr=0.01, coupled_decay_rate=0.3)
        assert_same(ours, theirs)

    def test_decoupled_decay_is_that_of_adamw(self, backend: str) -> None:
        held = parameters()
        theirs = trained(torch.optim.AdamW(held, lr=0.01, weight_decay=0.3), held)
        ours = run("adam with decoupled_decay", backend, lr=0.01, decoupled_decay_rate=0.3)
        assert_same(ours, theirs)

    def test_values_are_clipped(self, backend: str) -> None:
        held = parameters()
        theirs = trained(
            torch.optim.AdamW(held, lr=0.01),
            held,
            lambda held: nn.utils.clip_grad_value_(held, 0.4),
        )
        ours = run("adamw with clip_value", backend, lr=0.01, clip_value_limit=0.4)
        assert_same(ours, theirs)

    def test_norms_of_tensors_are_clipped(self, backend: str) -> None:
        held = parameters()
        theirs = trained(
            torch.optim.SGD(held, lr=0.1, momentum=0.9),
            held,
            lambda held: [nn.utils.clip_grad_norm_([p], 0.7) for p in held],
        )
        ours = run("sgd with clip_norm(limit = 0.7)", backend, lr=0.1, momentum=0.9)
        assert_same(ours, theirs)

    def test_warm_up_is_a_scheduler(self, backend: str) -> None:
        held = parameters()
        optimizer = torch.optim.AdamW(held, lr=0.01, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1, (k + 1) / 10))
        theirs = trained(optimizer, held, after=scheduler.step)
        ours = run("adamw with warmup", backend, lr=0.01, weight_decay=0.1, warmup_steps=10)
        assert_same(ours, theirs)

    def test_a_cosine_is_a_scheduler(self, backend: str) -> None:
        """The last step is the first one at the final rate."""
        held = parameters()
        optimizer = torch.optim.AdamW(held, lr=0.01, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 1, eta_min=0.002)
        theirs = trained(optimizer, held, after=scheduler.step)
        options = {"cosine_steps": STEPS - 1, "cosine_final": 0.2}
        assert_same(run("adamw with cosine", backend, lr=0.01, weight_decay=0.1, **options), theirs)

    def test_after_a_cosine_the_rate_is_the_final_one(self, backend: str) -> None:
        held = parameters()
        optimizer = torch.optim.SGD(held, lr=0.1)
        factors = [(1 + math.cos(math.pi * k / 10)) / 2 for k in range(10)]
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda k: 0.3 + 0.7 * factors[k] if k < 10 else 0.3
        )
        theirs = trained(optimizer, held, after=scheduler.step)
        assert_same(run("sgd with cosine(steps = 10, final = 0.3)", backend, lr=0.1), theirs)

    def test_order_matters(self, backend: str) -> None:
        def clipped(held: list[nn.Parameter]) -> None:
            nn.utils.clip_grad_value_(held, 0.4)

        def decayed(held: list[nn.Parameter]) -> None:
            for p in held:
                assert p.grad is not None
                p.grad = p.grad + 0.2 * p.detach()

        for names, steps in (
            ("clip_value, coupled_decay", (clipped, decayed)),
            ("coupled_decay, clip_value", (decayed, clipped)),
        ):
            held = parameters()
            theirs = trained(
                torch.optim.Adam(held, lr=0.01),
                held,
                lambda held, steps=steps: [s(held) for s in steps],
            )
            ours = run(
                f"adam with {names}", backend, lr=0.01, clip_value_limit=0.4,
                coupled_decay_rate=0.2,
            )  # fmt: skip
            assert_same(ours, theirs)


def adamw(held: list[nn.Parameter], change: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """AdamW as Loshchilov and Hutter write it, with another update in place of its own."""
    lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.999, 1e-8, 0.1
    m, v = ([torch.zeros_like(p) for p in held] for _ in range(2))
    for step in range(STEPS):
        for n, g in enumerate(gradients(step)):
            m[n] = beta1 * m[n] + (1 - beta1) * g
            v[n] = beta2 * v[n] + (1 - beta2) * g * g
            first, second = m[n] / (1 - beta1 ** (step + 1)), v[n] / (1 - beta2 ** (step + 1))
            update = change(first / (second.sqrt() + eps), g)
            with torch.no_grad():
                held[n] -= lr * (update + decay * held[n])
    return [p.detach() for p in held]


def cautious(update: Tensor, g: Tensor) -> Tensor:
    mask = (update * g > 0).double()
    return update * mask / max(float(mask.mean()), 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
class TestAgainstPapers:
    @pytest.mark.parametrize(
        ("name", "change"),
        [("cautious", cautious), ("grams", lambda u, g: g.sign() * u.abs())],
        ids=["cautious", "grams"],
    )
    def test_an_update_is_changed(
        self, backend: str, name: str, change: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        ours = run(f"adamw with {name}", backend, lr=0.01, weight_decay=0.1)
        assert_same(ours, adamw(parameters(), change))

    def test_slow_gradients_are_amplified(self, backend: str) -> None:
        slow: list[Tensor] = []

        def amplified(held: list[nn.Parameter]) -> None:
            for n, p in enumerate(held):
                assert p.grad is not None
                if len(slow) <= n:
                    slow.append(p.grad.clone())
                slow[n] = 0.9 * slow[n] + 0.1 * p.grad
                p.grad = p.grad + 3 * slow[n]

        held = parameters()
        theirs = trained(torch.optim.Adam(held, lr=0.01), held, amplified)
        ours = run("adam with grokfast(alpha = 0.9)", backend, lr=0.01, grokfast_lamb=3)
        assert_same(ours, theirs)

    @pytest.mark.parametrize("k", [1, 5, 7])
    def test_a_step_back_follows_steps_forward(self, backend: str, k: int) -> None:
        """Algorithm 1 of the paper: the slow weights, and the fast ones that start from them."""
        held = parameters()
        slow = [p.detach().clone() for p in held]
        count = 0

        def synchronized() -> None:
            nonlocal count
            count += 1
            for before, p in zip(slow, held, strict=True):
                if count % k == 0:
                    before += 0.3 * (p.detach() - before)
                    p.data.copy_(before)

        theirs = trained(torch.optim.AdamW(held, lr=0.01), held, after=synchronized)
        ours = run(f"adamw with lookahead(k = {k})", backend, lr=0.01, lookahead_alpha=0.3)
        assert_same(ours, theirs)

    def test_decay_is_proximal(self, backend: str) -> None:
        held = parameters()

        def shrunk() -> None:
            for p in held:
                p.data /= 1 + 0.01 * 0.3

        theirs = trained(torch.optim.Adam(held, lr=0.01), held, after=shrunk)
        ours = run("adam with proximal_decay", backend, lr=0.01, proximal_decay_rate=0.3)
        assert_same(ours, theirs)


# --- what modifiers of one's own see --------------------------------------------------------------

RULE = """\
optimizer Rule
hyper lr = 0.5 in [0, inf)
hyper rate = 0.25 in [0, 1]
state m = g
m'     = ema(m, g, rate)
update = m' * 2
decay  = rate * theta
theta' = theta - lr * (update + decay)
"""


def own(directory: Path, combination: str, **files: str) -> type[torch.optim.Optimizer]:
    (directory / "rule.opt").write_text(RULE)
    for name, text in files.items():
        (directory / f"{name}.opt").write_text(text)
    (directory / "made.opt").write_text(f"optimizer Made = {combination}\n")
    return optdsl.load(str(directory / "made.opt"), backend="eager")


def stepped(cls: Callable[..., torch.optim.Optimizer], *grads: float, **hypers: Any) -> float:
    p = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimizer = cls([p], **hypers)
    for g in grads:
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    return p.item()


def test_a_later_modifier_is_seen_by_an_earlier_one(tmp_path: Path) -> None:
    """`base.update` is the finished one where the modifier does not redefine it."""
    gated = "modifier Gate of decay\ndecay = where(base.update > 3, base.decay, 0)\n"
    doubled = "modifier Double of update\nupdate = base.update * 2\n"
    cls = own(tmp_path, "Rule with Gate, Double", gate=gated, double=doubled)
    # m = g = 1, so the rule's update is 2 and the finished one 4: the decay stays.
    assert stepped(cls, 1.0) == 1 - 0.5 * (4 + 0.25)
    alone = own(tmp_path, "Rule with Gate", gate=gated)
    assert stepped(alone, 1.0) == 1 - 0.5 * 2


def test_a_state_that_starts_from_the_gradient_starts_from_the_modified_one(tmp_path: Path) -> None:
    twice = "modifier Twice of g\ng = base.g * 2\n"
    cls = own(tmp_path, "Rule with Twice", twice=twice)
    assert stepped(cls, 1.0) == 1 - 0.5 * (2 * 2 + 0.25)


def test_a_state_can_be_redefined(tmp_path: Path) -> None:
    frozen = "modifier Frozen of m'\nm' = where(t > 1, base.m, base.m')\n"
    cls = own(tmp_path, "Rule with Frozen", frozen=frozen)
    first = 1 - 0.5 * (2 + 0.25)
    assert stepped(cls, 1.0, 100.0) == first - 0.5 * (2 + 0.25 * first)


def test_options_bind_and_are_no_arguments(tmp_path: Path) -> None:
    scaled = "modifier Scaled of lr\nhyper factor = 1 in [0, 9]\nlr = base.lr * factor\n"
    cls = own(tmp_path, "Rule(rate = 0) with Scaled(factor = 3), Scaled as Again", scaled=scaled)
    assert stepped(cls, 1.0, again_factor=2) == 1 - 0.5 * 3 * 2 * 2
    for name in ("rate", "scaled_factor"):
        with pytest.raises(TypeError, match=name):
            stepped(cls, 1.0, **{name: 0.5})


def test_names_of_states_stay_apart(tmp_path: Path) -> None:
    mean = "modifier Mean of g\nstate m = 0\nm' = ema(m, base.g, 0.5)\ng = m'\n"
    cls = own(tmp_path, "Rule with Mean", mean=mean)
    optimizer = cls([nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    (state,) = optimizer.state.values()
    assert {"m", "mean_m"} <= state.keys()


def test_a_combination_can_be_modified_and_blended(tmp_path: Path) -> None:
    doubled = "modifier Double of update\nupdate = base.update * 2\n"
    twice = own(tmp_path, "Rule with Double", double=doubled)
    (tmp_path / "again.opt").write_text("optimizer Again = Made with Double\n")
    again = optdsl.load(str(tmp_path / "again.opt"), backend="eager")
    assert stepped(twice, 1.0) == 1 - 0.5 * (4 + 0.25)
    assert stepped(again, 1.0) == 1 - 0.5 * (8 + 0.25)
    (tmp_path / "both.opt").write_text(
        "blend Both\nuse Rule, Made\nshare lr, rate\nhyper w = 0.5 in [0, 1]\n"
        "update = w * Rule.update + (1 - w) * Made.update\n"
        "recovers Rule at w = 1\nrecovers Made at w = 0\n"
    )
    both = optdsl.load(str(tmp_path / "both.opt"), backend="eager")
    assert stepped(both, 1.0, w=0.5) == 1 - 0.5 * (3 + 0.25)


def test_a_blend_is_modified_where_its_slots_are() -> None:
    whole = run("mada with clip_value(limit = 1e9)", "eager", lr=0.01)
    held = parameters()
    plain = trained(optdsl.load("mada", backend="eager")(held, lr=0.01), held)
    assert_same(whole, plain)
    assert not torch.equal(run("mada with clip_value(limit = 0.1)", "eager", lr=0.01)[0], plain[0])


# --- every modifier, every rule, every backend ----------------------------------------------------


# What these learn is a mean of several vhat, which a modifier of vhat replaces: that is refused.
MEANS_OF_VHAT = {"adam_avgrad", "mada", "mada_legacy", "memory"}


def has(rule: str, modifier: str) -> bool:
    """Whether a rule has what a modifier acts on: equations, states and hyperparameters."""
    program = library.read(library.open_source(rule), verify=False)
    names = {*program.equations, *(x.name for x in (*program.states, *program.hypers))}
    used = set(re.findall(r"\w+", library.open_source(modifier).text.split('"')[-1]))
    if "vhat" in used and rule in MEANS_OF_VHAT:
        return False
    return {"update", "v", "vhat", "beta2", "ortho"} & used <= names


PAIRS = [
    (rule, modifier)
    for modifier in library.list_modifiers()
    if parse(library.open_source(modifier)).slots  # and not only storage
    for rule in ELEMENTWISE
    if has(rule, modifier)
]


@pytest.mark.broad(40)
@pytest.mark.parametrize(("rule", "modifier"), PAIRS)
@pytest.mark.exhaustive
def test_every_modifier_takes_every_rule(rule: str, modifier: str) -> None:
    """Its claims hold, and compiled code takes the interpreter's steps."""
    # Schedule-Free has a hyperparameter warmup_steps of its own.
    name = f"{rule} with {modifier} as own" if modifier == "warmup" else f"{rule} with {modifier}"
    found = [run(name, backend, lr=0.01) for backend in BACKENDS]
    assert_same(*found)


# --- learning, copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_modifiers_hyperparameter_is_learned(backend: str) -> None:
    """Its hyper-gradient is the difference of the loss, by central differences."""
    name, at, width = "grokfast_lamb", 2.0, 1e-5
    learn = {name: Learn("sgd", lr=0.0, bounds=(0, 9))}
    held = parameters()
    cls = optdsl.load("sgd with grokfast", backend=backend, learn=learn)
    optimizer = cls(held, lr=0.01)
    moved = {}
    for lamb in (at - width, at + width):
        other = parameters()
        single = optdsl.load("sgd with grokfast", backend="eager")(other, lr=0.01, **{name: lamb})
        for p, g in zip(other, gradients(0), strict=True):
            p.grad = g
        single.step()
        moved[lamb] = [p.detach() for p in other]
    for step in range(2):
        for p, g in zip(held, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    pairs = zip(gradients(1), moved[at - width], moved[at + width], strict=True)
    expected = sum(float((g * (high - low)).sum()) for g, low, high in pairs) / (2 * width)
    assert optimizer.metrics()[f"hypergradient/{name}"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_copies_and_checkpoints_go_on_to_the_bit(backend: str) -> None:
    cls = optdsl.load("adamw with grokfast, cautious, clip_norm", backend=backend)
    assert pickle.loads(pickle.dumps(cls)) is cls
    held = parameters()
    optimizer = cls(held, lr=0.01)
    trained(optimizer, held)
    saved, start = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(held)
    fresh = cls(start, lr=0.5)
    fresh.load_state_dict(saved)
    whole, resumed = trained(optimizer, held), trained(fresh, start)
    assert all(map(torch.equal, whole, resumed))


def test_a_modifier_by_itself_is_no_rule() -> None:
    with pytest.raises(SpecError, match="is a modifier, and no rule of its own"):
        optdsl.load("cautious")


def test_no_name_is_a_rules_and_a_modifiers() -> None:
    assert not set(ELEMENTWISE) & set(library.list_modifiers())
    for name in library.list_modifiers():
        assert library.checked(library.open_source(name)) == ()
