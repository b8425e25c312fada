"""The engine for emitted Triton of programs whose tensors are read as matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.backends.base import EntryPoint
from optdsl.runtime.build.python_modules import Rule, module
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.runtime.engines.launch_arguments import check_not_captured, lanes, sent
from optdsl.runtime.engines.matrices import MatrixEngine
from optdsl.runtime.engines.matrix_kernels import MatrixKernel
from optdsl.runtime.engines.triton import launched
from optdsl.schedule import Role

# The parts of rows that are as long as a multiple of it can be read by wide accesses.
_UNIT = 16


class TritonMatrixEngine(MatrixEngine):
    """Runs the Triton backend's kernels of matrices; see `optdsl.runtime.core.tasks.Engine`.

    Some launches step one tensor, a matrix or a stack of them. What differs from step to step comes
    from the host, so that steps are not captured in graphs.
    """

    def __init__(self, artifact: Artifact, eager: Callable[[], EagerEngine]) -> None:
        """Build what was compiled; arguments as of `MatrixEngine`."""
        super().__init__(artifact, eager)

    def _built(self, artifact: Artifact) -> Rule:
        made, entries = module(artifact.module), artifact.module.entries
        initialize = TritonKernel(artifact, entries[Role.INITIALIZE], made)
        self._kernel = TritonKernel(artifact, entries[Role.STEP], made)
        return Rule(initialize, self._kernel)

    def _start(self, work: ParameterTask) -> None:
        check_not_captured(work.parameter.device, "parameters have no states yet")
        super()._start(work)

    def _advance(self, work: ParameterTask, t: float) -> None:
        check_not_captured(work.parameter.device, "the host counts the steps of matrices")
        super()._advance(work, t)


@dataclass
class _Call:
    """The arguments of an emitted host function, beside tensors.

    Attributes:
        stack, rows: how many matrices there are, and their rows.
        width: how many parts of `unit` columns they have.
        units: how many programs there are for the tiles of all of them.
        folds: how many programs there are for their reductions.
        unit, high, wide: how many columns such a part has, and the rows and columns of a tile.
        lanes: how many threads a warp of the device has.
        given: float64, a row of hyperparameters.
        uniforms: float64, the row of uniform values, in both precisions.
        ready: whether they have been computed.
        scalars, row_values, col_values: working space for numbers of matrices, in float64, and for
            values of one axis.
        of_rows, of_cols, of_all: float64, the parts of reductions.
    """

    stack: int
    rows: int
    width: int
    units: int
    folds: int
    unit: int
    high: int
    wide: int
    lanes: int
    given: Tensor
    uniforms: Tensor
    ready: bool
    scalars: Tensor
    row_values: Tensor
    col_values: Tensor
    of_rows: Tensor
    of_cols: Tensor
    of_all: Tensor


class TritonKernel(MatrixKernel):
    """An entry point of an emitted module; called as `MatrixKernel` is."""

    def __init__(self, artifact: Artifact, entry: EntryPoint, made: ModuleType) -> None:
        """Find it in the module."""
        super().__init__(artifact, entry, getattr(made, entry.name))
        self._made: Any = made
        self._hypers = [h.name for h in artifact.program.hypers]
        self._last: tuple[Any, Tensor, Tensor] | None = None

    def _called(self, tensors: Sequence[Tensor], hypers: Mapping[str, float], t: float) -> None:
        theta = tensors[0]
        device, made = theta.device, self._made
        rows, cols = theta.shape[-2:]
        stack = theta.numel() // (rows * cols)
        high, wide = tile_of(rows, cols, made.ELEMENTS, made.WIDE)
        across, down = -(-cols // wide), -(-rows // (high * made.TALL))
        units, block = stack * across * down, made.BLOCK
        uniforms, scalars, of_rows, of_cols, *sums = made.WIDTHS[self.entry.name]
        unit = 1 if cols % _UNIT else _UNIT

        def space(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.empty(max(count, 1), dtype=dtype, device=device)

        key, last = self._key(hypers, t, device), self._last
        ready = last is not None and last[0] == key
        if last is None or not ready:
            given = sent([t, *(hypers[n] for n in self._hypers)], torch.float64, device)
            last = key, given, space(uniforms)
        call = _Call(
            stack=stack,
            rows=rows,
            width=cols // unit,
            units=units,
            folds=stack * (-(-rows // block) + -(-cols // block) + 1),
            unit=unit,
            high=high,
            wide=wide,
            lanes=lanes(device),
            given=last[1],
            uniforms=last[2],
            ready=ready,
            scalars=space(stack * scalars),
            row_values=space(stack * rows * of_rows, self._compute),
            col_values=space(stack * cols * of_cols, self._compute),
            of_rows=space(stack * across * rows * sums[0]),
            of_cols=space(stack * down * cols * sums[1]),
            of_all=space(units * sums[2]),
        )
        launched(device, self._function, call, *tensors)
        # Uniform values have been computed for the calls that follow on this stream.
        self._last = last

    def _key(self, hypers: Mapping[str, float], t: float, device: torch.device) -> Any:
        """What calls have in common whose uniform values are the same, in memory and time."""
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        return t, *(hypers[n] for n in self._hypers), device, stream


def tile_of(rows: int, cols: int, elements: int, usual: int) -> tuple[int, int]:
    """The rows and columns of a tile, by the shape of a matrix alone.

    Args:
        rows: of the matrix.
        cols: of the matrix.
        elements: of a tile.
        usual: the columns of tiles of most matrices.
    """
    if rows <= 2:
        wide = elements // 2
    elif cols <= usual // 8:
        wide = usual // 8
    else:
        wide = usual
    return elements // wide, wide
