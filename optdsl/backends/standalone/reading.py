"""The functions of a standalone file that read tensors as the matrices of a kind, and back."""

from __future__ import annotations

from collections.abc import Container, Iterable

from optdsl.ir.sections import FLAT, KINDS, VECTORS, WIDE, name_of, of_matrices

# The number of positions of the kernel of the tensor `p`, in the functions of a part.
TAPS_OF_TENSOR = "math.prod(p.shape[2:])"


def slug(kind: str) -> str:
    """A kind as a part of names."""
    return "_".join(kind.split())


def is_read(kind: str) -> bool:
    """Whether a kind reads its tensors in another shape than their own."""
    return of_matrices(kind) and bool({FLAT, WIDE} & set(kind.split()))


def read(kind: str, text: str, lead: str = "") -> str:
    """A tensor as the functions of a kind read it.

    Args:
        kind: the kind.
        text: the tensor.
        lead: how many dimensions it has before those of a parameter; none if empty.
    """
    arguments = f"{text}, {lead}" if lead else text
    return f"read_{slug(kind)}({arguments})" if is_read(kind) else text


def written(kind: str, text: str) -> str:
    """What a function of a kind gives, in the shape of the parameter."""
    return f"written_{slug(kind)}({text}, p)" if is_read(kind) else text


def dimensions(kind: str) -> str:
    """The least and most dimensions of tensors of a kind, and whether a shape alone is of it."""
    if kind == VECTORS:
        return "(0, 1, True)"
    if not of_matrices(kind):
        return f"(0, math.inf, {kind == 'otherwise'})"
    base = name_of(kind).removeprefix(f"{WIDE} ")
    two = base == "matrices" or kind not in KINDS
    return (
        "(2, 2, True)"
        if two and kind in KINDS
        else "(2, 2, False)"
        if two
        else (f"({3 if base.endswith('convolutions') else 2}, math.inf, True)")
    )


def functions(kinds: Iterable[str], batched: Container[str] = ()) -> list[str]:
    """The functions that `read` and `written` call.

    Args:
        kinds: the kinds.
        batched: those of which batches are read, too.
    """
    read_so = [kind for kind in dict.fromkeys(kinds) if is_read(kind)]
    return [text for kind in read_so for text in _of(kind, kind in batched)]


def _of(kind: str, batched: bool) -> list[str]:
    words = set(kind.split())
    lines: list[str] = []
    back: list[str] = []
    matrices, lead, start = "p", "", "1"
    if batched:
        lead, start = ", lead: int = 0", "lead + 1"
    if WIDE in words:
        if FLAT in words:
            lines, matrices = [f"x = x.flatten({start})"], "p.flatten(1)"
        lines.append("return x.mT if x.shape[-2] > x.shape[-1] else x")
        back = [f"rows, cols = {matrices}.shape[-2:]", "x = x.mT if rows > cols else x"]
    else:
        lines.append(f"return x.flatten({start})")
    what = "of which none is higher than wide" if WIDE in words else "with one row for each index"
    what += "; `lead` is 1 for a batch of them" if lead else ""
    head = f"def read_{slug(kind)}(x: Tensor{lead}) -> Tensor:\n"
    head += f'    """A tensor as matrices, {what}."""'
    end = (
        f"def written_{slug(kind)}(x: Tensor, p: Tensor) -> Tensor:\n"
        f'    """Such matrices in the shape of the parameter."""'
    )
    back.append("return x.reshape(p.shape)")
    return [
        "\n".join([head, *(f"    {line}" for line in lines)]),
        "\n".join([end, *(f"    {line}" for line in back)]),
    ]
