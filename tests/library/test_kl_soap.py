"""KL-SOAP against its algorithm, written by hand in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import optdsl
from tests.oracles import problems

STEPS = 60
SHAPES: list[tuple[int, ...]] = [(4, 6), (6, 4), (3, 3), (2, 3, 2)]


class ByHand:
    """Lin et al., 2025, with the momentum in the eigenbasis and factors as whole matrices."""

    def __init__(self, theta: Tensor, lr: float, interval: int) -> None:
        self.theta, self._lr, self._interval = theta.flatten(1).clone(), lr, interval
        self.m, self.v = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.factors = [torch.zeros(n, n, dtype=theta.dtype) for n in self.theta.shape]
        self.values = [torch.full((n,), 0.1, dtype=theta.dtype) for n in self.theta.shape]
        self.bases: list[Tensor] = []
        self._n = 0

    def measure(self, g: Tensor) -> None:
        rows, cols = g.shape
        seen = [torch.eye(n, dtype=g.dtype) for n in g.shape]
        if self._n:
            pairs = zip(self.bases, self.values, strict=True)
            seen = [q @ d.reciprocal().diag() @ q.T for q, d in pairs]
        new = g @ seen[1] @ g.T / cols, g.T @ seen[0] @ g / rows
        if self._n:
            # The diagonals of what is new, in the eigenbases.
            for side, (q, s) in enumerate(zip(self.bases, new, strict=True)):
                value = 0.98 * self.values[side] + 0.02 * (q.T @ s @ q).diagonal()
                self.values[side] = value.clamp(min=0.01)
        for factor, s in zip(self.factors, new, strict=True):
            factor.mul_(0.98).add_(s, alpha=0.02)

    def step(self, g: Tensor) -> None:
        self._n += 1
        left, right = self.bases
        rotated = left.T @ g @ right
        self.m = self.m + 0.1 * (rotated - self.m)
        self.v = self.v + 0.02 * (rotated.square() - self.v)
        self.theta = self.theta - self._lr * left @ (self.m / (self.v.sqrt() + 1e-8)) @ right.T
        self.theta = self.theta * (1 - self._lr * 0.01)
        self.measure(g)
        if self._n % self._interval == 0:
            whole = left @ self.m @ right.T
            pairs = zip(self.factors, self.bases, strict=True)
            self.bases = [torch.linalg.qr(s @ q).Q for s, q in pairs]
            self.m = self.bases[0].T @ whole @ self.bases[1]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("interval", [10, 7])
def test_kl_soap_is_its_algorithm(interval: int, backend: str) -> None:
    generator = problems.seeded(0)
    held = [nn.Parameter(problems.randn(generator, *shape)) for shape in SHAPES]
    references = [ByHand(p.detach(), 1e-2, interval) for p in held]
    optimizer = optdsl.load("kl_soap", backend=backend)(held, lr=1e-2, interval=interval)
    for step in range(STEPS):
        for p in held:
            p.grad = problems.randn(generator, *p.shape)
        optimizer.step()
        for p, reference in zip(held, references, strict=True):
            assert p.grad is not None
            if step:
                reference.step(p.grad.flatten(1))
            else:
                # With one gradient the bases of null spaces are the library's choice.
                reference.measure(p.grad.flatten(1))
                reference.bases = [optimizer.state[p][name].clone() for name in ("QL", "QR")]
                for q, s in zip(reference.bases, reference.factors, strict=True):
                    found = q @ torch.linalg.eigvalsh(s).flip(0).diag() @ q.T
                    torch.testing.assert_close(found, s, rtol=0, atol=1e-12)
            torch.testing.assert_close(p.detach().flatten(1), reference.theta, rtol=0, atol=1e-10)
