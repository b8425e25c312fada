"""The models whose parameters are updated: shapes only."""

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """The parameters of a model.

    Attributes:
        name: what it is called on the command line.
        shapes: one a tensor.
        streams: whether the tensors are far larger than any cache, so that memory sets the pace.
    """

    name: str
    shapes: tuple[Shape, ...]
    streams: bool

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(prod(shape) for shape in self.shapes)


def transformer_block(width: int) -> tuple[Shape, ...]:
    """The 12 tensors of a block of GPT-2, in the order of the model."""
    normalization = ((width,), (width,))
    attention = ((width, 3 * width), (3 * width,), (width, width), (width,))
    perceptron = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return (*normalization, *attention, *normalization, *perceptron)


def gpt2(
    vocabulary: int = 50257, context: int = 1024, width: int = 768, layers: int = 12
) -> tuple[Shape, ...]:
    """GPT-2: 148 tensors; the head is tied to the token embedding and counts once."""
    blocks = layers * transformer_block(width)
    return ((vocabulary, width), (context, width), *blocks, (width,), (width,))


# What `make bench` measures unless it is told otherwise; the gate has other sizes, too.
CAMPAIGN = ("20M", "124M", "150x1000")

SIZES = {
    size.name: size
    for size in (
        # An embedding and the matrices of one transformer block of width 800.
        Size("20M", ((15400, 800), (800, 2400), (800, 800), (800, 3200), (3200, 800)), True),
        Size("124M", gpt2(), True),
        Size("150x1000", 150 * ((1000,),), False),
        # One tensor, for code that makes tensors of its intermediate values.
        Size("5M", ((2000, 2500),), False),
        # 40 tensors of a small transformer, for rules that sum over a tensor.
        Size("2.6M", gpt2(vocabulary=960, context=64, width=256, layers=3), False),
    )
}
