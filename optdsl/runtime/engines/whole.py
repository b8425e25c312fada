"""Steps on whole tensors of which each rank has a shard: rules of matrices, or of norms of tensors.

Every rank gathers the parameter, its gradient and the states that have its shape, takes the whole
step, and keeps its own shard of the results. That is one collective for each of these tensors.
States of other shapes, such as one number for each row, are plain tensors, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.distributed.collectives import is_dtensor
from optdsl.runtime.engines.shards import ShardEngine, placed_gradient, shard


class WholeEngine(ShardEngine):
    """Runs an engine on gathered tensors; its sums count on the first rank alone."""

    def _opened(
        self, works: Sequence[ParameterTask]
    ) -> AbstractContextManager[list[ParameterTask]]:
        return _gathered(works)

    def _own(self, known: StepCache) -> StepCache:
        """An empty one: the tensors are others at every step."""
        return StepCache()


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


def _shared_out(value: Tensor, like: Any) -> Any:
    """A whole tensor, the same on every rank, placed as a parameter is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    found: Any = DTensor.from_local(value, mesh, everywhere, run_check=False)
    return found.redistribute(placements=like.placements)
