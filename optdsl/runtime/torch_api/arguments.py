"""What torch's own optimizers take besides hyperparameters: ``betas`` and ``maximize``.

What they take of how to compute is in `optdsl.runtime.core.hints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Learned, Program, State

Group = MutableMapping[str, Any]


def spread(optimizer: str, betas: Any, names: Sequence[str]) -> dict[str, Any]:
    """The values of beta1, beta2 and so on; what each of them may be is not looked at.

    Raises:
        TypeError: when `betas` is no tuple or list.
        ValueError: when it has not one value for each name.
    """
    listed = ", ".join(names)
    if not isinstance(betas, tuple | list):
        raise TypeError(
            f"{optimizer}: betas must be a tuple of {len(names)} numbers, for {listed}, "
            f"not {betas!r}"
        )
    if len(betas) != len(names):
        raise ValueError(
            f"{optimizer}: betas must have {len(names)} numbers, for {listed}, not {len(betas)}"
        )
    return dict(zip(names, betas, strict=True))


def spread_into(optimizer: str, given: Group, names: Sequence[str]) -> None:
    """Add beta1, beta2 and so on to arguments or to a new group that has ``betas``.

    Raises:
        TypeError: when one of them is there already, with another value, or where none can be.
        TypeError, ValueError: as `spread`.
    """
    if "betas" not in given:
        return
    if not names and given["betas"] is not None:
        raise TypeError(
            f"{optimizer} has no hyperparameter 'betas': its rule has no beta1 and beta2"
        )
    if given["betas"] is None:
        del given["betas"]
        return
    values = spread(optimizer, given["betas"], names)
    twice = [n for n in names if n in given and not _same(given[n], values[n])]
    if twice:
        raise TypeError(f"{optimizer}: give betas or {', '.join(twice)}, not both")
    given.update(values)


def _same(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) is float and first == second)


class Betas:
    """``betas`` in the parameter groups, beside beta1, beta2 and so on.

    Schedulers of torch that drive a momentum read and write ``group["betas"]``, and users set it.
    The hyperparameters are what counts: ``betas`` follows them, and when somebody has replaced it,
    they follow it.
    """

    def __init__(self, optimizer: str, names: Sequence[str]) -> None:
        """Nothing is known of any group yet.

        Args:
            optimizer: what errors call it.
            names: of `beta_names`.
        """
        self._optimizer = optimizer
        self._names = names
        self._written: list[Any] = []

    def read(self, groups: Sequence[Group]) -> None:
        """Take over what others have written, and then `write`.

        Raises:
            TypeError, ValueError: as `spread`; no group has changed.
        """
        if not self._names:
            return
        found = [
            self._changed(group["betas"], written)
            if "betas" in group and group["betas"] is not written
            else {}
            for group, written in zip(groups, self._written, strict=False)
        ]
        for group, values in zip(groups, found, strict=False):
            group.update(values)
        self.write(groups)

    def _changed(self, betas: Any, written: Sequence[Any]) -> dict[str, Any]:
        """What is not as it was written: another one may have been set by its own name."""
        values = spread(self._optimizer, betas, self._names)
        old = dict(zip(self._names, written, strict=True))
        return {name: value for name, value in values.items() if not _same(value, old[name])}

    def write(self, groups: Sequence[Group]) -> None:
        """Let ``betas`` follow the hyperparameters."""
        if not self._names:
            return
        for group in groups:
            values = tuple([group[name] for name in self._names])
            found = group.get("betas")
            if type(found) is not tuple or found != values:
                group["betas"] = values
        self._written = [group["betas"] for group in groups]


def place(optimizer: str, positional: Sequence[Any], given: Group, hypers: Iterable[str]) -> None:
    """Add what was given by position, which may be the learning rate, to what was given by name.

    Raises:
        TypeError: for more than that.
    """
    known = set(hypers)
    if len(positional) > 1 or (positional and ("lr" not in known or "lr" in given)):
        if len(positional) == 1 and "lr" in known:
            raise TypeError(f"{optimizer}: lr is given by position and by name")
        first = "params and lr" if "lr" in known else "params"
        raise TypeError(f"{optimizer} takes {first} by position, and all others by name")
    if positional:
        given["lr"] = positional[0]


def drop_options_that_are_off(optimizer: str, program: Program, given: Group) -> None:
    """Take ``amsgrad=False`` and ``nesterov=False`` out of arguments, where the rule is without.

    A rule has the first if one of its states is the maximum of itself and something, and may have
    the second, without a hyperparameter for it, if its documentation speaks of Nesterov.

    Raises:
        TypeError: for an option that is off where the rule has it always.
    """
    has = {
        "amsgrad": any(_is_maximum(program, s) for s in program.states),
        "nesterov": "nesterov" in " ".join(program.documentation).lower(),
    }
    declared = {h.name for h in program.hypers}
    for name in has.keys() - declared:
        if given.get(name, True) is False:
            if has[name]:
                raise TypeError(f"{optimizer} is a rule with {name}, and not one without it")
            del given[name]


def _is_maximum(program: Program, state: State) -> bool:
    """Whether a state becomes the maximum of itself and something."""
    new = program.operations[state.next]
    while new.opcode == "define":
        new = program.operations[new.arguments[0]]
    parts = [program.operations[value] for value in new.arguments]
    return new.opcode == "max" and any(
        part.opcode == "state" and part.attribute == state.name for part in parts
    )


def gradients(group: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a group that have gradients, with the gradients of what is minimized.

    That is the loss, or with ``maximize`` its negative. Coefficients see the same gradients: what
    they learn makes a step better for what the group is there for, and a hyper-gradient is the
    derivative of what is minimized.
    """
    pairs = [(p, g) for p in group["params"] if (g := p.grad) is not None]
    if not group.get("maximize"):
        return pairs
    plain = all(type(g) is Tensor and g.layout is torch.strided for _, g in pairs)
    if not plain or not pairs:
        return [(p, -g) for p, g in pairs]
    return list(zip((p for p, _ in pairs), torch._foreach_neg([g for _, g in pairs]), strict=True))


def shown(
    name: str,
    groups: Sequence[Mapping[str, Any]],
    betas: Sequence[str],
    learned: Iterable[Learned],
) -> str:
    """The text of an optimizer, as torch writes its own.

    Learned coefficients come with the bounds in which they are learned; what their rules remember
    is left out, and betas that are not learned are shown as one.
    """
    how = {x.hyper: f" (learned in {x.bounds}{_each(x)})" for x in learned}
    lines = [f"{name} ("]
    for number, group in enumerate(groups):
        lines.append(f"Parameter Group {number}")
        for key in sorted(group):
            if key == "params" or "/" in key or (key in betas and key not in how):
                continue
            if key == "betas" and all(beta in how for beta in betas):
                continue
            lines.append(f"    {key}: {group[key]}{how.get(key, '')}")
    return "\n".join([*lines, ")"])


def _each(learned: Learned) -> str:
    # Those of tensors are in the tensors' states; a group has where new ones start.
    each = {"group": ", for each group", "tensor": ", for each tensor, starting here"}
    return each.get(learned.scope, "")
