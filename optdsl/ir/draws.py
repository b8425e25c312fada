"""Random numbers as functions: of a seed, a name, the number of a tensor, a counter and an index.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011). From a counter of four words of 32 bits and a key of two it makes four words,
which pass the usual tests of randomness, by multiplications and additions of 32 bits alone. So
nothing is stored, each element can be drawn by itself, and the words are the same on every backend;
normal numbers differ by the rounding of the logarithm, the cosine and the sine.

Here are the meaning of draws and their arithmetic on Python's integers; `optdsl.runtime.core.draws`
has the same on tensors.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable

DISTRIBUTIONS = ("normal", "rademacher", "uniform")

Words = tuple[int, int, int, int]
Key = tuple[int, int]

WORD = 0xFFFFFFFF
# The multipliers of a round, and what is added to the key from round to round.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
# A number in [0, 1) has the first 24 bits of a word: all of float32's precision.
SHIFT, UNIT = 8, 2.0**-24


def philox(counter: Words, key: Key) -> Words:
    """Four random words of 32 bits.

    Args:
        counter: four words of 32 bits.
        key: two words of 32 bits.
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b = (right >> 32) ^ b ^ first, right & WORD
        c, d = (left >> 32) ^ d ^ second, left & WORD
        first, second = (first + WEYL[0]) & WORD, (second + WEYL[1]) & WORD
    return a, b, c, d


def words_of(name: str) -> tuple[int, int]:
    """The two words of 32 bits that stand for a name."""
    digest = hashlib.sha256(name.encode()).digest()
    low, high = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
    return low, high


@functools.lru_cache(maxsize=4096)
def key_of(seed: int, name: str, tensor: int) -> Key:
    """The key for what is drawn under a name for a tensor.

    Args:
        seed: a whole number, of which 64 bits count.
        name: the name.
        tensor: the number of the tensor in its optimizer, from 0.
    """
    block = (*words_of(name), tensor & WORD, tensor >> 32 & WORD)
    first, second, *_ = philox(block, (seed & WORD, seed >> 32 & WORD))
    return first, second


def counted(counter: float) -> tuple[int, int]:
    """A counter as two words: its whole part, of which 64 bits count.

    Raises:
        ValueError: for an infinity or a NaN.
    """
    if not math.isfinite(counter):
        raise ValueError(f"random numbers are drawn at the counter {counter}, which is no number")
    whole = math.floor(counter)
    return whole & WORD, whole >> 32 & WORD


def number(attribute: str, counter: float, index: int, seed: int = 0, tensor: int = 0) -> float:
    """A drawn number, in double precision.

    Four elements after one another share four words. Normal numbers are made from two words each,
    two at a time (Box and Muller, 1958).

    Args:
        attribute: the distribution and the name, as the operation ``draw`` has them.
        counter: when it is drawn.
        index: the index of the element in the whole tensor, row after row.
        seed: that of the optimizer.
        tensor: the number of the tensor in its optimizer.
    """
    distribution, _, name = attribute.partition(" ")
    block = (index // 4 & WORD, index // 4 >> 32 & WORD, *counted(counter))
    words = philox(block, key_of(seed, name, tensor))
    return _FROM_WORDS[distribution](words, index % 4)


def _normal(words: Words, place: int) -> float:
    first, second = words[place - place % 2 : place - place % 2 + 2]
    radius = math.sqrt(-2 * math.log(((first >> SHIFT) + 1) * UNIT))
    angle = 2 * math.pi * ((second >> SHIFT) * UNIT)
    return radius * (math.sin(angle) if place % 2 else math.cos(angle))


_FROM_WORDS: dict[str, Callable[[Words, int], float]] = {
    "normal": _normal,
    "rademacher": lambda words, place: 1.0 - 2.0 * (words[place] >> 31),
    "uniform": lambda words, place: (words[place] >> SHIFT) * UNIT,
}
