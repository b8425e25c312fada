"""A small character-level transformer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optdsl.training.config import TrainingConfig


class Block(nn.Module):
    """Causal self-attention and an MLP, each behind a layer norm and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        """Creates a block for `width` features, split evenly among `heads`."""
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp_input = nn.Linear(width, 4 * width, bias=False)
        self.mlp_output = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features to features, both of shape (batch, time, width)."""
        batch, time, width = x.shape
        query, key, value = (
            self.query_key_value(self.attention_norm(x))
            .view(batch, time, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(1, 2).reshape(batch, time, width)
        x = x + self.attention_output(attended)
        hidden: Tensor = F.gelu(self.mlp_input(self.mlp_norm(x)))
        output: Tensor = x + self.mlp_output(hidden)
        return output


class CharacterTransformer(nn.Module):
    """A decoder-only transformer whose output projection is the transposed symbol embedding."""

    def __init__(
        self, vocabulary: int, block: int, layers: int, width: int, heads: int, seed: int
    ) -> None:
        """Creates the model with initial weights drawn from a generator of its own.

        Args:
            vocabulary: Number of symbols.
            block: Longest input, in symbols.
            layers: Number of blocks.
            width: Features per position, a multiple of `heads`.
            heads: Attention heads per block.
            seed: Seed of the initial weights.
        """
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self._initialize(seed)

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:  # a layer norm's scale, which is one already
                continue
            # Two residual connections per block add up; keep the variance of their sum.
            residual = name.endswith("_output.weight")
            scale = 1 / math.sqrt(2 * len(self.blocks)) if residual else 1.0
            parameter.normal_(0, 0.02 * scale, generator=generator)

    def forward(self, symbols: Tensor) -> Tensor:
        """Returns next-symbol logits of shape (batch, time, vocabulary).

        Args:
            symbols: Indices, int64, shape (batch, time) with time at most `block`.
        """
        x = self.symbols(symbols) + self.positions.weight[: symbols.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.symbols.weight)


def build_model(config: TrainingConfig, vocabulary: int) -> CharacterTransformer:
    """Builds the model that `config` describes, for `vocabulary` symbols."""
    return CharacterTransformer(
        vocabulary, config.block, config.layers, config.width, config.heads, config.seed
    )


def window_loss(model: nn.Module, windows: Tensor) -> Tensor:
    """Returns the mean cross-entropy of predicting each next symbol, nats per character.

    Args:
        model: Maps indices of shape (batch, time) to logits of shape (batch, time, vocabulary).
        windows: Indices, int64, shape (batch, time + 1).
    """
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
