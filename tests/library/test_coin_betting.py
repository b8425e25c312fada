"""Rules that bet on coins, element by element, against the algorithms of their papers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import optdsl

STEPS, SHAPES = 40, ((3, 4), (5,))


def kt(start: float, wealth: float = 0.5, limit: float = 2.0) -> Iterator[float]:
    """Orabona and Pal (2016), algorithm 1: a share of the wealth, in proportion to the coins."""
    coins: list[float] = []
    bet, won = 0.0, 0.0
    gradient = yield start
    while True:
        coins.append(-min(max(gradient, -limit), limit) / limit)
        won += coins[-1] * bet
        bet = sum(coins) / (len(coins) + 1) * (wealth + won)
        gradient = yield start + bet


def cocob(start: float, alpha: float = 3.0, eps: float = 1e-8) -> Iterator[float]:
    """Orabona and Tommasi (2017), algorithm 2, with negative gradients g as it has them."""
    w, largest, size, theta, reward = start, eps, 0.0, 0.0, 0.0
    gradient = yield start
    while True:
        g = -gradient
        largest = max(largest, abs(g))
        size += abs(g)
        reward = max(reward + (w - start) * g, 0.0)
        theta += g
        w = start + theta / (largest * max(size + largest, alpha * largest)) * (largest + reward)
        gradient = yield w


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize(
    ("rule", "hypers", "by_hand"),
    [("kt", {"wealth": 0.5, "limit": 2.0}, kt), ("cocob", {"alpha": 3.0}, cocob)],
    ids=["kt", "cocob"],
)
def test_a_bet_is_that_of_the_paper(
    rule: str, hypers: dict[str, float], by_hand: Callable[[float], Iterator[float]], backend: str
) -> None:
    held = [nn.Parameter(x) for x in drawn(0)]
    optimizer = optdsl.load(rule, backend=backend)(held, **hypers)
    players = [[by_hand(x) for x in p.reshape(-1).tolist()] for p in held]
    expected = [[next(player) for player in some] for some in players]
    for _ in range(STEPS):
        for p, draw, some, xs in zip(held, drawn(1 + _), players, expected, strict=True):
            p.grad = p.detach() - 3 + draw
            fed = zip(some, p.grad.reshape(-1).tolist(), strict=True)
            xs[:] = [player.send(g) for player, g in fed]  # type: ignore[attr-defined]
        optimizer.step()
    for p, xs in zip(held, expected, strict=True):
        torch.testing.assert_close(
            p.detach(), torch.tensor(xs, dtype=torch.float64).view(p.shape), rtol=0, atol=1e-10
        )


def test_what_is_bet_is_not_more_than_there_is() -> None:
    """A coin that always falls on the same side makes exponentially rich, and never poor."""
    held = [nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    optimizer = optdsl.load("kt")(held)
    found = []
    for _ in range(30):
        held[0].grad = torch.full((1,), -5.0, dtype=torch.float64)
        optimizer.step()
        found.append(held[0].item())
    assert found[-1] > 1e5
    held[0].grad = torch.full((1,), 5.0, dtype=torch.float64)
    optimizer.step()
    assert optimizer.state[held[0]]["reward"].item() + 1 > 0
