"""Tensors as a section of a rule reads them: as matrices, or as stacks of matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optdsl.ir.program import Program
from optdsl.ir.sections import flattened, is_turned, of_matrices, read_as
from optdsl.ir.types import Extent


class Reading:
    """How the tensors of a program are read; those of most programs stay as they are."""

    def __init__(self, program: Program) -> None:
        """See the class."""
        self._kind = program.kind if of_matrices(program.kind) else ""
        # Their shapes do not tell them from the parameter's.
        self._small = {s.name for s in program.states if s.type.extent is not Extent.TENSOR}

    def nothing(self, parameter: Tensor) -> bool:
        """Whether a parameter is a matrix without elements; `rows / cols` may be no number."""
        return bool(self._kind) and not parameter.numel()

    def read(self, x: Tensor) -> Tensor:
        """A parameter or a gradient as the program reads it."""
        if not self._kind:
            return x
        matrices = x.reshape(flattened(self._kind, x.shape))
        return matrices.mT if is_turned(self._kind, x.shape) else matrices

    def states(self, state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        """The states of a parameter as the program reads them."""
        if not self._kind:
            return state
        whole = parameter.shape
        return {
            k: self.read(v) if v.shape == whole and k not in self._small else v
            for k, v in state.items()
        }

    def written(self, x: Tensor, parameter: Tensor, name: str = "") -> Tensor:
        """A result of the program, with the shape of the parameter if it is read in its place.

        Args:
            x: the result.
            parameter: the parameter.
            name: of the state that it is; empty for the new parameter.
        """
        if not self._kind or name in self._small:
            return x
        if x.shape != read_as(self._kind, parameter.shape):
            return x
        matrices = x.mT if is_turned(self._kind, parameter.shape) else x
        return matrices.reshape(parameter.shape)
