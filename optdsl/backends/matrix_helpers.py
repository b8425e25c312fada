"""Functions that emitted code of matrices brings along, by name."""

from optdsl.backends import fused_products

_DECOMPOSED = '''\
def decomposed(how: str, x: Tensor, *more: bool) -> tuple[Tensor, ...]:
    """What a function of torch.linalg makes of matrices; NaN where it fails in float64, too."""
    function = getattr(torch.linalg, how)
    try:
        return tuple(function(x, *more))
    except torch.linalg.LinAlgError:
        if x.ndim > 2:
            return tuple(map(torch.stack, zip(*(decomposed(how, one, *more) for one in x))))
        if x.dtype is not torch.float64:
            return tuple(y.to(x.dtype) for y in decomposed(how, x.double(), *more))
        like = function(torch.zeros_like(x), *more)
        return tuple(torch.full_like(y, torch.nan) for y in like)'''

_EIGENVECTORS = '''\
def eigenvectors(s: Tensor) -> Tensor:
    """The eigenvectors of symmetric matrices as columns, the largest eigenvalue's first."""
    return decomposed("eigh", s)[1].flip(-1)'''

_INVERSE_ROOT = '''\
def inverse_root(s: Tensor, p: float) -> Tensor:
    """s^(-1/p) of symmetric matrices; eigenvalues that rounding made of zero are cut off."""
    values, q = decomposed("eigh", s)
    least = values[..., -1:] * (s.shape[-1] * torch.finfo(s.dtype).eps)
    return (q * (torch.maximum(values, least) ** (-1 / p)).unsqueeze(-2)) @ q.mT'''

_QR = '''\
def qr(x: Tensor, order: Tensor) -> Tensor:
    """The columns of x made orthonormal in descending order, each staying in its place."""
    places = order.flatten(-2).argsort(dim=-1, descending=True, stable=True)
    index = places.unsqueeze(-2).expand_as(x)
    q, r = torch.linalg.qr(x.gather(-1, index))
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(x)
    return torch.empty_like(x).scatter_(-1, index, q * signs.unsqueeze(-2))'''

_SINGULAR_VECTORS = '''\
def singular_vectors(x: Tensor, count: int) -> Tensor:
    """The left singular vectors of matrices as columns, the largest singular values' first."""
    return decomposed("svd", x, count > x.shape[-1])[0][..., :count]'''

_IDENTITY = '''\
def identity(n: int, like: Tensor) -> Tensor:
    """The identity matrix of n rows, for each of a stack of matrices."""
    eye = torch.eye(n, dtype=like.dtype, device=like.device)
    return eye.expand(*like.shape[:-2], n, n)'''

_SUM_OF_SQUARES = '''\
def sum_of_squares(x: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """The sum of squares over all dimensions, or over the last two; squares are not stored."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square().sum(dim, keepdim=True)'''

_MEAN_OF_SQUARES = '''\
def mean_of_squares(x: Tensor, dim: tuple[int, ...] | None = None) -> Tensor:
    """The mean of squares over all dimensions, or over the last two; squares are not stored."""
    sums = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()
    return sums.mean(dim, keepdim=True) / x.shape[-1]'''

_NARROWED = '''\
def narrowed(x: Tensor) -> Tensor:
    """x in bfloat16 where products are faster in it, which is on a GPU."""
    return x.to(torch.bfloat16) if x.is_cuda else x'''

MATRIX_HELPERS = {
    "decomposed": _DECOMPOSED,
    "eigenvectors": _EIGENVECTORS,
    "inverse_root": _INVERSE_ROOT,
    "qr": _QR,
    "singular_vectors": _SINGULAR_VECTORS,
    "identity": _IDENTITY,
    "mean_of_squares": _MEAN_OF_SQUARES,
    "sum_of_squares": _SUM_OF_SQUARES,
    "narrowed": _NARROWED,
    "add_product": fused_products.HELPER,
}

# The functions that call another one.
CALLS = dict.fromkeys(("eigenvectors", "inverse_root", "singular_vectors"), "decomposed")
