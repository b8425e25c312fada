"""Steps on whole tensors of which each rank has a shard: rules of matrices, or of norms of tensors.

Every rank gathers the parameter, its gradient and the states that have its shape, takes the whole
step, and keeps its own shard of the results. That is one collective for each of these tensors.
States of other shapes, such as one number for each row, are plain tensors, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import Engine, HyperGradients, ParameterTask
from optdsl.runtime.distributed.collectives import is_dtensor
from optdsl.runtime.engines.shards import placed_gradient, shard


class WholeEngine:
    """Runs an engine on gathered tensors; see `optdsl.runtime.core.tasks.Engine`."""

    def __init__(self, inner: Engine, prefix: str | None) -> None:
        """Run `inner` on whole tensors; sums count on the rank that has a `prefix`."""
        self.plan, self.shape = inner.plan, inner.shape
        self._inner = inner
        self._prefix = prefix

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Of the whole tensors."""
        with _gathered(works) as whole:
            return self._filed(self._inner.complete(whole, StepCache()))

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """Of the whole tensors."""
        with _gathered(works) as whole:
            self._inner.advance(whole, StepCache())

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """Of the whole tensors."""
        with _gathered(works) as whole:
            self._inner.advance_completed(whole, StepCache())

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Of the whole tensors."""
        with _gathered(works) as whole:
            return self._filed(self._inner.fused(whole, StepCache()))

    def _filed(self, sums: HyperGradients) -> HyperGradients:
        if self._prefix is None:
            return {}
        return {self._prefix + name: value for name, value in sums.items()}


@contextmanager
def _gathered(works: Sequence[ParameterTask]) -> Iterator[list[ParameterTask]]:
    """The whole tensors of works; what happens to them happens to the shards of this rank."""
    whole = []
    for work in works:
        state = {k: v.full_tensor() if is_dtensor(v) else v for k, v in work.state.items()}
        parameter: Any = work.parameter
        gradient: Any = placed_gradient(work)
        tensors = (parameter.detach().full_tensor(), gradient.full_tensor())
        whole.append(ParameterTask(*tensors, state, work.hypers))
    yield whole
    for work, done in zip(works, whole, strict=True):
        shard(work.parameter).copy_(shard(_shared_out(done.parameter, work.parameter)))
        for key in work.state.keys() - done.state.keys():
            del work.state[key]
        for key, value in done.state.items():
            kept: Any = work.state.get(key)
            if not isinstance(value, Tensor) or value.shape != work.parameter.shape:
                work.state[key] = value
            elif is_dtensor(kept):
                shard(kept).copy_(shard(_shared_out(value, work.parameter)))
            else:
                work.state[key] = _shared_out(value, work.parameter)
    torch.autograd.graph.increment_version([work.parameter for work in works])


def _shared_out(value: Tensor, like: Any) -> Any:
    """A whole tensor, the same on every rank, placed as a parameter is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    found: Any = DTensor.from_local(value, mesh, everywhere, run_check=False)
    return found.redistribute(placements=like.placements)
