"""SOAP and Shampoo against references written by hand from their papers, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl

pytestmark = pytest.mark.broad(2)

STEPS = 100
SHAPES = [(4, 6), (6, 4), (3, 3), (5, 1), (2, 3, 4)]
OTHERS = [(7,), ()]
BACKENDS = ["eager", "auto"]


def start(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator)) for s in shapes
    ]


def gradients(shapes: list[tuple[int, ...]], steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
        for _ in range(steps)
    ]


def stepped(optimizer: Any, parameters: list[torch.nn.Parameter], given: list[Tensor]) -> None:
    for p, g in zip(parameters, given, strict=True):
        p.grad = g.clone()
    optimizer.step()


# --- SOAP -----------------------------------------------------------------------------------------


class SoapByHand:
    """Vyas et al., 2024, algorithm 3, for one parameter.

    Before there are as many gradients as rows and columns, factors have no inverse, and any basis
    of their null space is one of eigenvectors; the first bases are therefore given.
    """

    def __init__(self, theta: Tensor, **options: float) -> None:
        self.theta = theta.detach().clone().flatten(1)
        defaults: dict[str, float] = {
            "lr": 3e-3, "beta1": 0.95, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.01,
            "interval": 10,
        }  # fmt: skip
        self._o = defaults | options
        rows, cols = self.theta.shape
        self.m, self.v = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.factors = [torch.zeros(n, n, dtype=torch.float64) for n in (rows, cols)]
        self.bases: list[Tensor] = []
        # The sides that are rotated.
        self.sides = [True, True]
        self._n = 0

    def measure(self, g: Tensor) -> None:
        share = self._o["beta2"]
        g = g.flatten(1)
        for factor, new in zip(self.factors, (g @ g.T, g.T @ g), strict=True):
            factor.mul_(share).add_(new, alpha=1 - share)

    def step(self, g: Tensor) -> None:
        o, g = self._o, g.flatten(1)
        self._n += 1
        self.m = o["beta1"] * self.m + (1 - o["beta1"]) * g
        self.v = o["beta2"] * self.v + (1 - o["beta2"]) * self._into(g).square()
        rotated = self._into(self.m) / (self.v.sqrt() + o["eps"])
        update = rotated
        if self.sides[0]:
            update = self.bases[0] @ update
        if self.sides[1]:
            update = update @ self.bases[1].T
        bias = (1 - o["beta2"] ** self._n) ** 0.5 / (1 - o["beta1"] ** self._n)
        self.theta -= o["lr"] * bias * update
        self.theta -= o["lr"] * o["weight_decay"] * self.theta
        self.measure(g)
        if self._n % o["interval"] == 0:
            self.bases = [
                self._refreshed(s, q) for s, q in zip(self.factors, self.bases, strict=True)
            ]

    def _into(self, x: Tensor) -> Tensor:
        x = self.bases[0].T @ x if self.sides[0] else x
        return x @ self.bases[1] if self.sides[1] else x

    @staticmethod
    def _refreshed(s: Tensor, q: Tensor) -> Tensor:
        """A power iteration, and QR in the order of the eigenvalues; columns go back then."""
        order = torch.tensor(sorted(range(len(q)), key=lambda i: -float(q[:, i] @ s @ q[:, i])))
        found = torch.empty_like(q)
        found[:, order] = torch.linalg.qr(s @ q[:, order]).Q
        return found


def check_basis(q: Tensor, s: Tensor) -> None:
    """Whether the columns of q are eigenvectors of s, that of the largest eigenvalue first."""
    torch.testing.assert_close(q.T @ q, torch.eye(len(q), dtype=q.dtype), rtol=0, atol=1e-12)
    values = torch.linalg.eigvalsh(s).flip(0)
    torch.testing.assert_close(q.T @ s @ q, values.diag(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"interval": 1, "lr": 1e-2}, {"interval": 7}], ids=str)
def test_soap_is_its_algorithm(options: dict[str, float], backend: str) -> None:
    # Refreshed at once, a basis of more columns than two gradients have is one of rounding.
    shapes = SHAPES[:3] if options.get("interval") == 1 else SHAPES
    parameters = start(shapes)
    references = [SoapByHand(p, **options) for p in parameters]
    optimizer = optdsl.load("soap", backend=backend)(parameters, **options)
    for step, given in enumerate(gradients(shapes, STEPS)):
        before = [p.detach().clone() for p in parameters]
        stepped(optimizer, parameters, given)
        for p, was, reference, g in zip(parameters, before, references, given, strict=True):
            if step == 0:
                assert torch.equal(p, was)
                reference.measure(g)
                state = optimizer.state[p]
                reference.bases = [state["QL"].clone(), state["QR"].clone()]
                for q, s in zip(reference.bases, reference.factors, strict=True):
                    check_basis(q, s)
            else:
                reference.step(g)
            torch.testing.assert_close(p.detach().flatten(1), reference.theta, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_soap_keeps_nothing_for_a_side_that_is_too_long(backend: str) -> None:
    shapes = [(4, 6), (6, 4), (6, 7), (3, 3), (4,)]
    sides = [(True, False), (False, True), (False, False), (True, True)]
    parameters = start(shapes)
    optimizer = optdsl.load("soap", backend=backend)(parameters, max_dim=4, interval=3)
    references = [SoapByHand(p, interval=3) for p in parameters[:-1]]
    for step, given in enumerate(gradients(shapes, 40)):
        stepped(optimizer, parameters, given)
        for p, rotated, reference, g in zip(parameters, sides, references, given, strict=False):
            if step > 0:
                reference.step(g)
            else:
                reference.measure(g)
                reference.sides, state = list(rotated), optimizer.state[p]
                names = [n for n, is_rotated in zip("LR", rotated, strict=True) if is_rotated]
                kept = {"step", "m", "v", *names, *(f"Q{n}" for n in names)}
                assert set(state) == kept
                eyes = (torch.eye(n, dtype=torch.float64) for n in p.shape)
                given_bases = zip(("QL", "QR"), eyes, strict=True)
                reference.bases = [state.get(name, eye).clone() for name, eye in given_bases]
            torch.testing.assert_close(p.detach(), reference.theta, rtol=0, atol=1e-10)
    saved = copy.deepcopy(optimizer.state_dict())
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    resumed = optdsl.load("soap", backend=backend)(copies, max_dim=4)
    resumed.load_state_dict(saved)
    for given in gradients(shapes, 7):
        stepped(optimizer, parameters, given)
        stepped(resumed, copies, given)
    assert all(map(torch.equal, parameters, copies))


@pytest.mark.parametrize("backend", BACKENDS)
def test_soap_gives_vectors_adamw(backend: str) -> None:
    ours, theirs = start(OTHERS), start(OTHERS)
    optimizer = optdsl.load("soap", backend=backend)(ours)
    adamw = torch.optim.AdamW(theirs, lr=3e-3, betas=(0.95, 0.95), weight_decay=0.01)
    for given in gradients(OTHERS, STEPS):
        stepped(optimizer, ours, given)
        stepped(adamw, theirs, given)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


# --- Shampoo --------------------------------------------------------------------------------------


class ShampooByHand:
    """Gupta et al., 2018, algorithm 1, with momentum, and with the length of Adam's step."""

    def __init__(self, theta: Tensor, **options: Any) -> None:
        self.theta = theta.detach().clone().flatten(1)
        defaults: dict[str, Any] = {
            "lr": 1e-3, "momentum": 0.9, "beta2": 0.999, "eps": 1e-12, "graft_eps": 1e-8,
            "weight_decay": 0, "interval": 10, "root": 4, "graft": "adam",
        }  # fmt: skip
        self._o = defaults | options
        rows, cols = self.theta.shape
        self.m, self.v = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.left, self.right = (torch.zeros(n, n, dtype=torch.float64) for n in (rows, cols))
        self._t = 0

    def _root(self, s: Tensor) -> Tensor:
        damped = s + self._o["eps"] * torch.eye(len(s), dtype=s.dtype)
        u, values, _ = torch.linalg.svd(damped)
        found: Tensor = u @ (values ** (-1 / self._o["root"])).diag() @ u.T
        return found

    def step(self, g: Tensor) -> None:
        o, g = self._o, g.flatten(1)
        self._t += 1
        old, new = (1, 1) if o["beta2"] == 1 else (o["beta2"], 1 - o["beta2"])
        self.left = old * self.left + new * g @ g.T
        self.right = old * self.right + new * g.T @ g
        if (self._t - 1) % o["interval"] == 0:
            self.roots = self._root(self.left), self._root(self.right)
        d = self.roots[0] @ g @ self.roots[1]
        self.v = old * self.v + new * g.square()
        if o["graft"] == "adam":
            corrected = self.v if o["beta2"] == 1 else self.v / (1 - o["beta2"] ** self._t)
            d = d * ((g / (corrected.sqrt() + o["graft_eps"])).norm() / d.norm())
        self.m = o["momentum"] * self.m + (1 - o["momentum"]) * d
        self.theta -= o["lr"] * (self.m + o["weight_decay"] * self.theta)


# With the small default of eps, the roots of factors without inverse are rounding at the start.
SHAMPOO = [
    {"eps": 1e-2},
    {"eps": 1e-2, "graft": "none", "root": 2, "interval": 3},
    {"eps": 1e-2, "beta2": 1, "weight_decay": 0.1, "momentum": 0},
    {"eps": 1e-2, "beta2": 0.9, "interval": 1, "lr": 1e-2},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", SHAMPOO, ids=str)
def test_shampoo_is_its_algorithm(options: dict[str, Any], backend: str) -> None:
    parameters = start(SHAPES)
    references = [ShampooByHand(p, **options) for p in parameters]
    optimizer = optdsl.load("shampoo", backend=backend)(parameters, **options)
    for given in gradients(SHAPES, STEPS):
        stepped(optimizer, parameters, given)
        for reference, g in zip(references, given, strict=True):
            reference.step(g)
    for p, reference in zip(parameters, references, strict=True):
        torch.testing.assert_close(p.detach().flatten(1), reference.theta, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shampoo_gives_vectors_adamw(backend: str) -> None:
    ours, theirs = start(OTHERS), start(OTHERS)
    optimizer = optdsl.load("shampoo", backend=backend)(ours)
    adamw = torch.optim.AdamW(theirs, weight_decay=0)
    for given in gradients(OTHERS, STEPS):
        stepped(optimizer, ours, given)
        stepped(adamw, theirs, given)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


# --- Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["soap", "shampoo"])
def test_a_run_goes_on_from_a_checkpoint_to_the_bit(rule: str, backend: str) -> None:
    shapes = SHAPES + OTHERS
    cls = optdsl.load(rule, backend=backend)
    parameters, given = start(shapes), gradients(shapes, 26)
    optimizer = cls(parameters, interval=5)
    for g in given[:13]:
        stepped(optimizer, parameters, g)
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    other = cls(resumed)
    other.load_state_dict(saved)
    for g in given[13:]:
        stepped(optimizer, parameters, g)
        stepped(other, resumed, g)
    for x, y in zip(parameters, resumed, strict=True):
        assert torch.equal(x, y)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often factorizations were called since, by their names."""
    calls = {"eigh": 0, "qr": 0}

    def counting(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return own(*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(torch.linalg, name, counting(name, getattr(torch.linalg, name)))
    return calls


@pytest.mark.parametrize("backend", BACKENDS)
def test_between_refreshes_nothing_is_factorized(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    shapes = [(4, 6)]
    for rule in ("soap", "shampoo"):
        parameters = start(shapes)
        optimizer = optdsl.load(rule, backend=backend)(parameters, interval=4)
        found = []
        calls = counted(monkeypatch)
        for g in gradients(shapes, 10):
            before = dict(calls)
            stepped(optimizer, parameters, g)
            found.append(tuple(calls[name] - before[name] for name in calls))
        monkeypatch.undo()
        first, again = ((2, 0), (0, 2)) if rule == "soap" else ((2, 0), (2, 0))
        none = (0, 0)
        assert found == [first, none, none, none, again, none, none, none, again, none]


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_states_that_are_missing_do_not_start_in_the_middle(backend: str) -> None:
    """The count of steps goes on, and with it the bias correction of what would start from zero."""
    changes = {"muon": ("kind", "otherwise", "v"), "soap": ("max_dim", 10, "R, QR")}
    for rule, (key, value, missing) in changes.items():
        held = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(2))]
        groups = [{"params": [p]} | ({"max_dim": 3} if rule == "soap" else {}) for p in held]
        optimizer = optdsl.load(rule, backend=backend)(groups)
        for p in held:
            p.grad = torch.ones_like(p)
        optimizer.step()
        before = [p.detach().clone() for p in held]
        optimizer.param_groups[0][key] = value
        with pytest.raises(ValueError, match=f"without the states {missing};"):
            optimizer.step()
        assert all(map(torch.equal, held, before))
        del optimizer.state[held[0]]
        optimizer.step()
