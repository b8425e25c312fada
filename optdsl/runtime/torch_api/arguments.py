"""Arguments of torch's optimizers besides hyperparameters: ``betas``, ``maximize`` and switches.

Options about the implementation, such as ``foreach``, are in `optdsl.runtime.core.hints`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Learned, Program, State

Group = MutableMapping[str, Any]


def spread(optimizer: str, betas: Any, names: Sequence[str]) -> dict[str, Any]:
    """The values of beta1, beta2 and so on, which are not checked.

    Raises:
        TypeError: if `betas` is not a tuple or list.
        ValueError: if the number of values differs from the number of names.
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
    """Add beta1, beta2 and so on to arguments, or to a new group, with ``betas``.

    Raises:
        TypeError: if one of them is given with another value, or if the rule has none of them.
        TypeError, ValueError: as `spread`.
    """
    if given.get("betas") is None:
        given.pop("betas", None)
        return
    if not names:
        raise TypeError(
            f"{optimizer} has no hyperparameter 'betas': its rule has no beta1 and beta2"
        )
    values = spread(optimizer, given["betas"], names)
    twice = [n for n in names if n in given and not _same(given[n], values[n])]
    if twice:
        raise TypeError(f"{optimizer}: give betas or {', '.join(twice)}, not both")
    given.update(values)


def _same(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) is float and first == second)


class Betas:
    """Keeps ``betas`` in the parameter groups equal to beta1, beta2 and so on.

    Some schedulers of torch read and write ``group["betas"]``, and so do users. Steps use the
    hyperparameters. A value that was put in place of ``betas`` is copied to them; otherwise they
    are copied to ``betas``.
    """

    def __init__(self, optimizer: str, names: Sequence[str]) -> None:
        """Begin without groups; `names` is a result of `beta_names`."""
        self._optimizer, self._names = optimizer, names
        self._written: list[Any] = []

    def read(self, groups: Sequence[Group]) -> None:
        """Copy ``betas`` that others have set to the hyperparameters, and then `write`.

        Raises:
            TypeError, ValueError: as `spread`; no group has changed.
        """
        if not self._names:
            return
        changed = [
            (group, self._changed(group["betas"], written))
            for group, written in zip(groups, self._written, strict=False)
            if "betas" in group and group["betas"] is not written
        ]
        for group, values in changed:
            group.update(values)
        self.write(groups)

    def _changed(self, betas: Any, written: Sequence[Any]) -> dict[str, Any]:
        """The values that differ from the written ones; the others may have been set by name."""
        values = spread(self._optimizer, betas, self._names)
        old = dict(zip(self._names, written, strict=True))
        return {name: value for name, value in values.items() if not _same(value, old[name])}

    def write(self, groups: Sequence[Group]) -> None:
        """Copy the hyperparameters to ``betas``."""
        if not self._names:
            return
        for group in groups:
            values = tuple([group[name] for name in self._names])
            found = group.get("betas")
            if type(found) is not tuple or found != values:
                group["betas"] = values
        self._written = [group["betas"] for group in groups]


def place(optimizer: str, positional: Sequence[Any], given: Group, hypers: Iterable[str]) -> None:
    """Add a learning rate that was given by position to the arguments that were given by name.

    Raises:
        TypeError: for more arguments by position, or a learning rate that was given twice.
    """
    takes_rate = "lr" in set(hypers)
    if len(positional) > takes_rate:
        first = "params and lr" if takes_rate else "params"
        raise TypeError(f"{optimizer} takes {first} by position, and all others by name")
    if positional and "lr" in given:
        raise TypeError(f"{optimizer}: lr is given by position and by name")
    if positional:
        given["lr"] = positional[0]


def drop_options_that_are_off(optimizer: str, program: Program, given: Group) -> None:
    """Remove ``amsgrad=False`` and ``nesterov=False`` from arguments of a rule without these.

    A rule is taken to have the first if a state becomes the maximum of itself and another value,
    and the second if its documentation mentions Nesterov.

    Raises:
        TypeError: for an option that is off although the rule always has it.
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
    """Whether a state becomes the maximum of itself and another value."""
    new = program.operations[state.next]
    while new.opcode == "define":
        new = program.operations[new.arguments[0]]
    parts = [program.operations[value] for value in new.arguments]
    return new.opcode == "max" and any(
        part.opcode == "state" and part.attribute == state.name for part in parts
    )


def gradients(group: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a group that have gradients, with the gradients of the objective.

    The objective is the loss, or its negative with ``maximize``. Hyper-gradients are products of
    the same gradients, so that coefficients minimize the same objective.
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
    """The text of an optimizer in the format of torch.

    Learned coefficients are shown with the bounds of learning and their sample; betas as a tuple,
    unless one of them is learned, and then one by one. The memories of rules are left out.
    """
    # A coefficient of tensors is in their states; its group has the value of new ones.
    each = {"group": ", for each group", "tensor": ", for each tensor, starting here"}
    how = {
        x.hyper: f" (learned in {x.bounds}{each.get(x.scope, '')}"
        + (f", from 1 in {x.sample} elements of large tensors)" if x.sample > 1 else ")")
        for x in learned
    }
    hidden = {"betas"} if any(beta in how for beta in betas) else set(betas)
    lines = [f"{name} ("]
    for number, group in enumerate(groups):
        lines.append(f"Parameter Group {number}")
        for key in sorted(group):
            if key == "params" or "/" in key or key in hidden:
                continue
            lines.append(f"    {key}: {group[key]}{how.get(key, '')}")
    return "\n".join([*lines, ")"])
