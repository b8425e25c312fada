"""Tensors as a section of a rule reads them: as matrices, or as stacks of matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices, read_as


class Reading:
    """How the tensors of a program are read; those of most programs stay as they are."""

    def __init__(self, program: Program) -> None:
        """See the class."""
        self._kind = program.kind if of_matrices(program.kind) else ""

    def nothing(self, parameter: Tensor) -> bool:
        """Whether a parameter is a matrix without elements; `rows / cols` may be no number."""
        return bool(self._kind) and not parameter.numel()

    def read(self, x: Tensor) -> Tensor:
        """A parameter or a gradient as the program reads it."""
        return x.reshape(read_as(self._kind, x.shape)) if self._kind else x

    def states(self, state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
        """The states of a parameter as the program reads them."""
        if not self._kind:
            return state
        whole, shape = parameter.shape, read_as(self._kind, parameter.shape)
        return {k: v.reshape(shape) if v.shape == whole else v for k, v in state.items()}

    def written(self, x: Tensor, parameter: Tensor) -> Tensor:
        """A result of the program, with the shape of the parameter if it is read in its place."""
        if self._kind and x.shape == read_as(self._kind, parameter.shape):
            return x.reshape(parameter.shape)
        return x
