"""Conversion between states of torch's own optimizers and states of compiled ones.

Both have the same numbers under different names. The groups of a state show which optimizer of
torch it belongs to. Whether a compiled rule takes the same steps is decided by comparing equations,
as for checkpoints, so that it may also be a rule of the user's own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.api import load
from optdsl.diagnostics import Source
from optdsl.plan.keys import SAMPLE, TRAINED, is_pending
from optdsl.runtime.checkpoint.foreign import check_mapping
from optdsl.runtime.core.fingerprint import Meaning, differences, meaning, read, shortened
from optdsl.runtime.core.hints import HINTS
from optdsl.runtime.core.hyperparameters import beta_names
from optdsl.runtime.core.tasks import COMPUTE
from optdsl.runtime.learning.scopes import OWN
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer
from optdsl.specifications import library, sources

Group = Mapping[str, Any]
StateDict = dict[str, Any]

_AMSGRADW = """\
optimizer AMSGradW
hyper lr           = 1e-3  in [0, inf)
hyper beta1        = 0.9   in [0, 1)
hyper beta2        = 0.999 in [0, 1)
hyper eps          = 1e-8  in [0, inf)
hyper weight_decay = 1e-2  in [0, inf)
state m    = 0
state v    = 0
state vmax = 0
m'     = ema(m, g, beta1)
v'     = ema(v, g^2, beta2)
vmax'  = max(vmax, v')
update = debias(m', beta1) / (sqrt(debias(vmax', beta2)) + eps)
theta' = theta - lr * (update + weight_decay * finite(theta))
"""


@dataclass(frozen=True)
class _Rule:
    """A rule of torch.

    Attributes:
        name: the name in messages.
        optimizer: torch's class.
        source: the name of the same rule in the library, or its text.
        states: torch's names of states, by the library's.
        options: the keys of torch's groups, other than hyperparameters, that identify it.
        counts: whether torch counts the steps of this rule.
    """

    name: str
    optimizer: Callable[..., torch.optim.Optimizer]
    source: str
    states: dict[str, str]
    options: dict[str, bool] = field(default_factory=dict)
    counts: bool = True

    @functools.cached_property
    def meaning(self) -> Meaning:
        """The meaning of its program, for comparisons."""
        text = self.source
        source = Source("torch.opt", text) if "\n" in text else sources.open_source(text)
        return meaning(library.read(source, verify=False))

    def is_of(self, group: Group) -> bool:
        """Whether a group may belong to an optimizer of this rule."""
        # Before torch 2.7 groups do not say whether the decay is decoupled.
        keys = {*self.optimizer([torch.zeros(1)]).defaults, *self.options}
        optional = {*HINTS, "maximize", "decoupled_weight_decay"}
        if not keys - optional <= group.keys():
            return False
        return all(bool(group.get(key, value)) == value for key, value in self.options.items())


_MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
_MAXIMUM = {**_MOMENTS, "vmax": "max_exp_avg_sq"}
_RULES = (
    *(
        _Rule(
            f"{name}(amsgrad={maximum})",
            optimizer,
            source,
            _MAXIMUM if maximum else _MOMENTS,
            {"amsgrad": maximum, "decoupled_weight_decay": name == "AdamW"},
        )
        for name, optimizer, maximum, source in (
            ("Adam", torch.optim.Adam, False, "adam"),
            ("Adam", torch.optim.Adam, True, "amsgrad"),
            ("AdamW", torch.optim.AdamW, False, "adamw"),
            ("AdamW", torch.optim.AdamW, True, _AMSGRADW),
        )
    ),
    _Rule("SGD", torch.optim.SGD, "sgd", {"buf": "momentum_buffer"}, counts=False),
)


def from_torch(
    state_dict: StateDict, rule: str | os.PathLike[str] | type[CompiledOptimizer]
) -> StateDict:
    """The state of torch's Adam, AdamW or SGD as one of a compiled rule, for `load_state_dict`.

    Training continues with it as it would in torch. Moments in half precision become float32.
    Torch's SGD does not count steps; with a momentum buffer, its state is taken as after one step.
    Options about the implementation and the user's own keys in groups are kept.

    Args:
        state_dict: the result of `state_dict()` of torch's optimizer, which is not changed.
        rule: a name of the library, the path of a ``.opt`` file, or a class; it must take the steps
            of torch's optimizer and give its hyperparameters and states the library's names.

    Raises:
        TypeError: for an argument that is not a state dict, such as the optimizer itself.
        ValueError: for the state of another optimizer, or of one that takes other steps; the
            message lists the differences.
        UnknownSpecError, OSError, SpecError: as `optdsl.load`.
    """
    target = _class(rule).compiled
    groups, states = _parts(state_dict)
    found = _source_rule(groups, target.meaning, target.program.name)
    betas = beta_names(target.meaning.hypers)
    return {
        "state": {key: _from_state(found, state) for key, state in states.items() if state},
        "param_groups": [_from_group(group, found, betas) for group in groups],
        "specification": target.program.name,
        "meaning": dict(target.meaning.entry),
    }


def to_torch(
    state_dict: StateDict, rule: str | os.PathLike[str] | type[CompiledOptimizer] | None = None
) -> StateDict:
    """The state of a compiled rule as one of torch's Adam, AdamW or SGD, for `load_state_dict`.

    Learned coefficients become fixed at their values in the groups; the states of the rules that
    learn them are left out.

    Args:
        state_dict: the result of `state_dict()` of a compiled optimizer, which is not changed.
        rule: the rule of the state dict, if that does not contain it, as one from
            `torch.distributed.checkpoint`.

    Raises:
        TypeError: for an argument that is not a state dict, such as the optimizer itself.
        ValueError: if torch has no such rule, if hyperparameters were learned for each tensor, or
            if a step is pending; the message says what to do.
    """
    groups, states = _parts(state_dict)
    own: Meaning | None
    if rule is None:
        own, name = read(state_dict.get("meaning")), str(state_dict.get("specification"))
    else:
        target = _class(rule).compiled
        own, name = target.meaning, target.program.name
    if own is None:
        raise ValueError("this state does not say of which rule it is: give to_torch the rule")
    found = next((r for r in _RULES if not differences(own, r.meaning)), None)
    if found is None:
        names = ", ".join(r.name for r in _RULES)
        raise ValueError(f"torch has no rule that takes the steps of {name}; it has {names}")
    return {
        "state": {key: kept for key, state in states.items() if (kept := _to_state(found, state))},
        "param_groups": [_to_group(group, found, own) for group in groups],
    }


def _class(rule: str | os.PathLike[str] | type[CompiledOptimizer]) -> type[CompiledOptimizer]:
    return rule if isinstance(rule, type) else load(rule, learn=False)


def _parts(state_dict: StateDict) -> tuple[list[Group], Mapping[Any, Group]]:
    check_mapping(state_dict)
    groups, states = state_dict.get("param_groups"), state_dict.get("state")
    if not isinstance(groups, list | tuple) or not isinstance(states, Mapping) or not groups:
        raise ValueError("this is no state of an optimizer: it has no `state` or no `param_groups`")
    return list(groups), states


def _source_rule(groups: list[Group], own: Meaning, name: str) -> _Rule:
    """The rule of torch that a state belongs to and that takes the steps of a compiled rule."""
    found = [rule for rule in _RULES if all(map(rule.is_of, groups))]
    if not found:
        keys = ", ".join(sorted(str(key) for key in groups[0] if key != "params"))
        raise ValueError(
            f"this is no state of torch's Adam, AdamW or SGD, or its groups differ in the rule: "
            f"a group has {keys}"
        )
    lines: list[str] = []
    for rule in found:
        lines = differences(rule.meaning, own, "in torch")
        if not lines:
            return rule
    told = ["", *shortened(lines)]
    if fitting := [f'"{rule.source}"' for rule in found if "\n" not in rule.source]:
        told.append(f"The library has it as {' or '.join(fitting)}: give that to from_torch.")
    raise ValueError(
        f"this is a state of torch's {found[-1].name}, and {name} takes other steps:"
        + "\n  ".join(told)
    )


def _from_state(rule: _Rule, state: Group) -> dict[str, Any]:
    names = {theirs: ours for ours, theirs in rule.states.items()}
    known = {*names, *(["step"] if rule.counts else [])}
    found = {key: value for key, value in state.items() if value is not None}
    if not rule.counts and not found:
        return {}
    if found.keys() != known:
        raise ValueError(
            f"this is no state of torch's {rule.name}: it keeps {', '.join(map(str, state))}, "
            f"not {', '.join(sorted(known))}"
        )
    # Copies, in the precision in which compiled rules store moments.
    moments = {ours: found[theirs] for theirs, ours in names.items()}
    kept = {key: x.to(COMPUTE.get(x.dtype, x.dtype), copy=True) for key, x in moments.items()}
    # A state without a count was left by one step at least.
    kept["step"] = torch.tensor(float(found.get("step", 1.0)), dtype=torch.float64, device="cpu")
    return kept


def _from_group(group: Group, rule: _Rule, betas: tuple[str, ...]) -> dict[str, Any]:
    kept = {key: _copied(value) for key, value in group.items() if key not in rule.options}
    if kept.pop("differentiable", False):
        raise ValueError("steps of compiled rules are not differentiable: differentiable=True")
    for hint in HINTS:
        if kept.get(hint, True) in (None, False):
            del kept[hint]
    if "nesterov" in kept:
        kept["nesterov"] = float(kept["nesterov"])
    return kept | dict(zip(betas, kept.get("betas", ()), strict=False))


def _to_state(rule: _Rule, state: Group) -> dict[str, Any]:
    if any(str(key).startswith(OWN) for key in state):
        raise ValueError(
            "this state has hyperparameters that were learned for each tensor, and torch has them "
            "for groups only"
        )
    if TRAINED in state:
        raise ValueError("this state is one of eval mode: call train() before saving it")
    # Tangents of a rule that goes on without learning have no part in its steps.
    if any(is_pending(key) and key != SAMPLE for key in state):
        raise ValueError(
            "a step of this state is pending, because something is learned; complete it first: "
            "to_torch(fixed.migrated(state_dict)), where `fixed` is an optimizer of the same rule "
            "with learn=False over the same parameters, whose values must be loaded already"
        )
    if not state or float(state["step"]) == 0:
        return {}
    kept: dict[str, Any] = {theirs: _copied(state[ours]) for ours, theirs in rule.states.items()}
    if rule.counts:
        double = torch.get_default_dtype() == torch.float64
        kept["step"] = state["step"].to("cpu", torch.float64 if double else torch.float32)
    return kept


def _to_group(group: Group, rule: _Rule, own: Meaning) -> dict[str, Any]:
    betas = beta_names(own.hypers)
    kept = {
        key: _copied(value)
        for key, value in group.items()
        if key not in betas and not str(key).startswith(("hypergradient/", "learn/"))
    }
    if betas:
        kept["betas"] = tuple(group[name] for name in betas)
    if "nesterov" in kept:
        kept["nesterov"] = bool(kept["nesterov"])
    arguments = {key: value for key, value in rule.options.items() if key == "amsgrad"}
    return {**rule.optimizer([torch.zeros(1)], **arguments).defaults, **kept}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
