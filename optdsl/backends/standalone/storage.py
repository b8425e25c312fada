"""What a standalone file stores otherwise than it computes it, and what it draws at random."""

from __future__ import annotations

from optdsl.backends.standalone import texts_of_draws as texts
from optdsl.backends.standalone.rule import Part, Rule
from optdsl.ir.ops import DRAWS
from optdsl.ir.storage import PARAMETER, Codec, stored

# What draws the random numbers of the tensor `p`, in the functions of a part.
OF_TENSOR = 'hypers["draws"][p]'
# Where the rest of a compensated parameter is.
_REST = '"compensation/theta"'


def functions(rule: Rule) -> list[str]:
    """The functions and classes for storage and draws; none where there is neither."""
    codecs = [codec for part in rule.parts for codec in stored(part.program).values()]
    operations = [o for part in rule.parts for o in part.program.operations if o.opcode in DRAWS]
    drawn = {str(o.attribute).partition(" ")[0] for o in operations}
    random = any(codec.draws for codec in codecs)
    found = []
    if rule.draws:
        names = {*drawn, *(["uniform"] if random else [])}
        methods = "\n".join(texts.DISTRIBUTIONS[name] for name in sorted(names))
        found += [texts.PHILOX, texts.DRAWS + methods, texts.SEED, texts.DRAWING]
    found += [texts.ROUNDED] if random else []
    found += [texts.COMPENSATED] if rule.widens else []
    return found


def theta(part: Part, begins: bool = False) -> str:
    """The parameter that equations see; `begins` before the first step."""
    return "compensated(p, state)" if part.widens and not begins else "precise(p, p)"


def begun(part: Part) -> list[str]:
    """The statements that make what is kept beside a parameter, before its first step."""
    made = "torch.zeros_like(p, memory_format=torch.contiguous_format)"
    return [f"state[{_REST}] = {made}"] if part.widens else []


def kept(part: Part, name: str, text: str, t: str) -> str:
    """A state as it is kept.

    Args:
        part: the part of the rule.
        name: the state.
        text: its value, in the shape in which it is kept.
        t: the number of the step.
    """
    codec = stored(part.program).get(name)
    if codec is not None:
        return _rounded(codec, name, text, f"torch.{codec.buffers[0].dtype}", t)
    return f"{text}.to(torch.float32)" if part.widens else text


def written(part: Part, text: str) -> list[str]:
    """The statements that store the parameter after a step."""
    codec = stored(part.program).get(PARAMETER)
    if codec is None:
        return [f"p.copy_({text})"]
    # What a step leaves as it is stays so to the bit.
    lines = ["if theta_next is not theta:"]
    if not part.widens:
        return [*lines, f"    p.copy_({_rounded(codec, PARAMETER, text, 'p.dtype', 't')})"]
    return [*lines, f"    state[{_REST}] = copied(p, {text})"]


def _rounded(codec: Codec, name: str, text: str, dtype: str, t: str) -> str:
    if codec.draws:
        return f'rounded({text}, {dtype}, "store {name}", {t}, {OF_TENSOR})'
    return f"{text}.to({dtype})"
