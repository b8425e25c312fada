"""The reference meaning of the operations on matrices, for `optdsl.interpret`.

Tensors are stacks of matrices: rows and columns are the last two dimensions. A value of one axis
has length 1 along the other one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def eigenvectors(s: Tensor) -> Tensor:
    """The eigenvectors of symmetric matrices as columns, that of the largest eigenvalue first."""
    q: Tensor = torch.linalg.eigh(s).eigenvectors
    return q.flip(-1)


def inverse_root(s: Tensor, p: Tensor) -> Tensor:
    """s^(-1 / p) of symmetric positive matrices.

    Eigenvalues below n eps times the largest one, which rounding may have made of zero, count as
    that; n is the number of rows, and eps the distance from 1 to the next number.
    """
    values: Tensor
    q: Tensor
    values, q = torch.linalg.eigh(s)
    least = values[..., -1:] * s.shape[-1] * torch.finfo(s.dtype).eps
    powers = torch.maximum(values, least) ** (-1 / p)
    return q * powers.unsqueeze(-2) @ q.mT


def qr(x: Tensor, order: Tensor) -> Tensor:
    """The columns of square matrices, made orthonormal in descending order (Gram-Schmidt).

    Every column stays in its place, and keeps its direction from the ones before it.
    """
    places = order.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    found = torch.zeros_like(x)
    for i in range(x.shape[-1]):
        index = places[..., i : i + 1].unsqueeze(-2).expand(*x.shape[:-1], 1)
        column = x.gather(-1, index)
        for _ in range(2):  # once more, against what rounding left
            column = column - found @ (found.mT @ column)
        length = column.square().sum(-2, keepdim=True).sqrt()
        found = found.scatter(-1, index, column / length)
    return found


def singular_vectors(x: Tensor, indices: Tensor) -> Tensor:
    """The left singular vectors of matrices as columns, the largest singular values' first.

    Args:
        x: the matrices.
        indices: those of the axis of the result, of which there are as many.
    """
    found: Tensor = torch.linalg.svd(x, full_matrices=True).U
    return found[..., : indices.shape[-2]]


def _extremum(reduce: Callable[..., Tensor], dim: tuple[int, ...] | None, x: Tensor) -> Tensor:
    return reduce(x) if dim is None else reduce(x, dim, keepdim=True)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "sum": lambda x: x.sum((-2, -1), keepdim=True),
    "mean": lambda x: x.mean((-2, -1), keepdim=True),
    "sum_rows": lambda x: x.sum(-2, keepdim=True),
    "sum_cols": lambda x: x.sum(-1, keepdim=True),
    "mean_rows": lambda x: x.mean(-2, keepdim=True),
    "mean_cols": lambda x: x.mean(-1, keepdim=True),
    "sum_first": lambda x: x.sum(-2, keepdim=True),
    "sum_last": lambda x: x.sum(-1, keepdim=True),
    "mean_first": lambda x: x.mean(-2, keepdim=True),
    "mean_last": lambda x: x.mean(-1, keepdim=True),
    "sum_tensor": torch.sum,
    "mean_tensor": torch.mean,
    **{
        f"{opcode}_{which}": functools.partial(_extremum, reduce, dim)
        for opcode, reduce in (("max", torch.amax), ("min", torch.amin))
        for which, dim in (
            ("matrix", (-2, -1)),
            ("rows", (-2,)),
            ("cols", (-1,)),
            ("first", (-2,)),
            ("last", (-1,)),
            ("tensor", None),
        )
    },
    "spread": lambda x, y: x + torch.zeros_like(y),
    "matmul": torch.matmul,
    "transpose": lambda x: x.mT,
    "diagonal_rows": lambda x: x.diagonal(dim1=-2, dim2=-1).unsqueeze(-1),
    "diagonal_cols": lambda x: x.diagonal(dim1=-2, dim2=-1).unsqueeze(-2),
    "diagonal_own": lambda x: x.diagonal(dim1=-2, dim2=-1).unsqueeze(-1),
    "bfloat16": lambda x: x,
    "float32": lambda x: x,
    "eigenvectors": eigenvectors,
    "inverse_root": inverse_root,
    "qr": qr,
    "singular_vectors": singular_vectors,
}
