"""Functions that steps of pieces bring along."""

from __future__ import annotations

_NUMBERS = '''\
def numbers(dtype: torch.dtype, *values: float) -> tuple[Tensor, ...]:
    """Numbers as tensors, which operations of tensors take faster."""
    return torch.tensor(values, dtype=torch.float64, device="cpu").to(dtype).unbind()'''

_DIVISORS = '''\
def divisors(dtype: torch.dtype, *values: float) -> list[Tensor | None]:
    """Numbers as tensors; None for what is 1 in that precision, as bias corrections are at last."""
    found = numbers(dtype, *values)
    return [None if x.item() == 1 else x for x in found]'''

_DIVIDED = '''\
def divided(memory: Tensor, x: Tensor, divisor: Tensor | None) -> Tensor:
    """A quotient, in some memory; what is divided by 1 is the tensor itself."""
    return x if divisor is None else torch.div(x, divisor, out=memory)'''

_SHARES = '''\
def shares(dtype: torch.dtype, *weights: float) -> list[tuple[Tensor, ...] | None]:
    """The share of each weight in all so far, and what is left; None for what weighs nothing.

    What weighs all has an empty pair.
    """
    total, found = 0.0, []
    for weight in weights:
        if weight == 0:
            found.append(None)
            continue
        total += weight
        share = weight / total
        found.append(() if share == 1 else numbers(dtype, share, 1 - share))
    return found if any(x is not None for x in found) else [(), *found[1:]]'''

_ALL_FINITE = '''\
def all_finite(x: Tensor) -> bool:
    """Whether all elements are known to be finite; on other devices, nobody waits to know it."""
    return x.is_cpu and math.isfinite(x.sum().item())'''

_MIX_INTO = '''\
def mix_into(
    memory: Tensor, spare: Tensor, shares: list[tuple[Tensor, ...] | None], *parts: Tensor
) -> Tensor:
    """The mean of tensors by shares of weights that sum to one, in some memory."""
    mean = parts[0]
    for share, x in zip(shares, parts, strict=True):
        if share is None:
            continue
        if not share:
            mean = x
            continue
        gap = torch.sub(mean, x, out=spare)
        if all_finite(gap):
            mean = torch.sub(mean, gap.mul_(share[0]), out=memory)
        else:
            # Infinities have no difference, but they have a mean.
            apart = share[1] * mean + share[0] * x
            mean = memory.copy_(torch.where(gap.isfinite(), mean - share[0] * gap, apart))
    return mean if mean is memory else memory.copy_(mean)'''

_SIGN_INTO = '''\
def sign_into(memory: Tensor, x: Tensor) -> Tensor:
    """-1, 0 or 1, in some memory; NaN stays NaN, which torch.sign turns into 0."""
    if all_finite(x):
        return torch.sign(x, out=memory)
    return memory.copy_(torch.where(torch.isnan(x), x, torch.sign(x)))'''

_FINITE_PART = '''\
def finite_part(x: Tensor) -> Tensor:
    """The tensor itself, or a copy with 0 for what is not finite."""
    return x if all_finite(x) else torch.where(x - x == 0, x, 0)'''

# By name; each after those that it calls.
PIECE_HELPERS = {
    "numbers": _NUMBERS,
    "divisors": _DIVISORS,
    "divided": _DIVIDED,
    "shares": _SHARES,
    "all_finite": _ALL_FINITE,
    "mix_into": _MIX_INTO,
    "sign_into": _SIGN_INTO,
    "finite_part": _FINITE_PART,
}
# The functions that these call.
PIECE_CALLS = {
    "divisors": {"numbers"},
    "shares": {"numbers"},
    "mix_into": {"all_finite"},
    "sign_into": {"all_finite"},
    "finite_part": {"all_finite"},
}
