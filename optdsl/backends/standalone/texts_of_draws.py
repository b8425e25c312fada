"""The texts of a standalone file that draws random numbers, or stores by codecs."""

from __future__ import annotations

from optdsl.ir.draws import MULTIPLIERS, ROUNDS, SHIFT, UNIT, WEYL, WORD

_PHILOX = '''\
WORD = 0x@WORD@


def philox(a: Any, b: Any, c: Any, d: Any, key: tuple[int, int]) -> tuple[Any, ...]:
    """Four random words of 32 bits from a counter of four, by Philox4x32-10.

    The words are numbers, or tensors of int64, whose products are right in all 64 bits.

    Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    first, second = key
    for _ in range(@ROUNDS@):
        left, right = a * 0x@LEFT@, c * 0x@RIGHT@
        a, b = (right >> 32 & WORD) ^ b ^ first, right & WORD
        c, d = (left >> 32 & WORD) ^ d ^ second, left & WORD
        first, second = first + 0x@FIRST@ & WORD, second + 0x@SECOND@ & WORD
    return a, b, c, d


def unit(word: Tensor, dtype: torch.dtype, more: int = 0) -> Tensor:
    """Words as numbers in [0, 1), with 24 bits each; `more` is added in units of the last."""
    return ((word >> @SHIFT@) + more).to(dtype) * @UNIT@'''

PHILOX = _PHILOX
for _name, _value in {
    "WORD": f"{WORD:X}",
    "ROUNDS": str(ROUNDS),
    "LEFT": f"{MULTIPLIERS[0]:X}",
    "RIGHT": f"{MULTIPLIERS[1]:X}",
    "FIRST": f"{WEYL[0]:X}",
    "SECOND": f"{WEYL[1]:X}",
    "SHIFT": str(SHIFT),
    "UNIT": f"2.0**{UNIT.hex().partition('p')[2]}",
}.items():
    PHILOX = PHILOX.replace(f"@{_name}@", _value)

DRAWS = '''\
class Draws:
    """The random numbers of one tensor.

    A number depends on the seed, the place of the tensor in the optimizer, a name, a counter and
    the index of the element, so that nothing is stored and a run can go on from a checkpoint.
    """

    def __init__(self, seed: int, tensor: int) -> None:
        self._seed, self._tensor = (seed & WORD, seed >> 32), tensor

    def _words(self, name: str, counter: float, count: int, device: Any) -> Any:
        """The words of so many elements, by four of each, some blocks at a time."""
        digest = hashlib.sha256(name.encode()).digest()
        low, high = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
        key = philox(low, high, self._tensor & WORD, self._tensor >> 32, self._seed)[:2]
        t, size = math.floor(counter), 1 << 18
        for first in range(0, -(-count // 4), size):
            last = min(first + size, -(-count // 4))
            blocks = torch.arange(first, last, dtype=torch.int64, device=device)
            yield philox(blocks & WORD, blocks >> 32, t & WORD, t >> 32 & WORD, key)

    def _numbers(
        self, name: str, counter: float, like: Tensor, shape: Any, made: Callable[..., Any]
    ) -> Tensor:
        """Numbers of a shape, that of `like` by default, from words."""
        size = torch.Size(like.shape if shape is None else shape)
        every = self._words(name, counter, size.numel(), like.device)
        parts = [torch.stack(made(words), dim=-1).reshape(-1) for words in every]
        found = torch.cat(parts) if parts else like.new_empty(0)
        return found[: size.numel()].reshape(size)
'''

_NORMAL = '''
    def normal(self, name: str, counter: float, like: Tensor, shape: Any = None) -> Tensor:
        """Normal numbers of mean 0 and variance 1 (Box and Muller, 1958)."""

        def made(words: Any) -> list[Tensor]:
            found = []
            for first, second in (words[:2], words[2:]):
                radius = torch.sqrt(-2 * torch.log(unit(first, like.dtype, more=1)))
                angle = 2 * math.pi * unit(second, like.dtype)
                found += [radius * torch.cos(angle), radius * torch.sin(angle)]
            return found

        return self._numbers(name, counter, like, shape, made)
'''

_RADEMACHER = '''
    def rademacher(self, name: str, counter: float, like: Tensor, shape: Any = None) -> Tensor:
        """-1 or 1 with equal probability."""

        def made(words: Any) -> list[Tensor]:
            return [1 - 2 * (word >> 31).to(like.dtype) for word in words]

        return self._numbers(name, counter, like, shape, made)
'''

_UNIFORM = '''
    def uniform(self, name: str, counter: float, like: Tensor, shape: Any = None) -> Tensor:
        """Numbers in [0, 1)."""

        def made(words: Any) -> list[Tensor]:
            return [unit(word, like.dtype) for word in words]

        return self._numbers(name, counter, like, shape, made)
'''

DISTRIBUTIONS = {"normal": _NORMAL, "rademacher": _RADEMACHER, "uniform": _UNIFORM}

SEED = '''\
def check_seed(seed: Any) -> int:
    """A seed as a whole number of 64 bits."""
    if not hasattr(seed, "__index__"):
        raise TypeError(f"{NAME}: seed must be a whole number, not {seed!r}")
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"{NAME}: seed={seed!r} is out of bounds; it must lie in [0, 2^64)")
    return int(seed)'''

DRAWING = '''\
def drawing(groups: list[dict[str, Any]]) -> dict[Tensor, Draws]:
    """What draws the random numbers of each parameter, by its place among all of them."""
    seed = check_seed(groups[0]["seed"])
    held = [p for group in groups for p in group["params"]]
    return {p: Draws(seed, number) for number, p in enumerate(held)}'''

ROUNDED = '''\
def rounded(x: Tensor, dtype: torch.dtype, name: str, t: float, draws: Draws) -> Tensor:
    """x in a dtype of 16 bits, rounded up or down at random, so that the mean is x.

    What is not finite there is rounded to the nearest number; any other dtype is a plain cast.
    """
    nearest = x.to(dtype)
    if dtype not in {torch.bfloat16, torch.float16}:
        return nearest
    # The sign is the first bit, so that the next number away from zero is one more.
    bits = nearest.view(torch.int16)
    toward = torch.where(nearest.to(x.dtype).abs() > x.abs(), bits - 1, bits)
    lower, upper = toward.view(dtype), (toward + 1).view(dtype)
    low, high = lower.to(x.dtype).abs(), upper.to(x.dtype).abs()
    goes = draws.uniform(name, t, x) * (high - low) < x.abs() - low
    return torch.where(high.isfinite() & x.isfinite(), torch.where(goes, upper, lower), nearest)'''

COMPENSATED = '''\
def compensated(p: Tensor, state: dict[str, Any]) -> Tensor:
    """A parameter and what rounding took off it, in more precision than its own."""
    return precise(p, p) + kept(p, state, "compensation/theta")[0]


def copied(p: Tensor, x: Tensor) -> Tensor:
    """Round x into a parameter; what is left."""
    p.copy_(x)
    rest = x - p.to(x.dtype)
    return torch.where(rest.isfinite(), rest, 0).to(p.dtype)'''

WIDE = """
    if p.dtype is torch.float64:
        raise ValueError(
            f"{NAME} keeps what rounding takes off parameters, and there is no wider precision in "
            f"which one of float64 could be worked on"
        )"""

# Of groups, the check that they have the optimizer's seed.
SAME_SEED = """\
if param_group["seed"] != self.defaults["seed"]:
    raise TypeError(f"{NAME}: seed is one for all groups, an argument of the optimizer")"""
