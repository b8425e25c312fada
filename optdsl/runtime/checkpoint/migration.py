"""Conversion of the state of one rule for another, by the names of states and hyperparameters."""

from __future__ import annotations

from typing import Any

import torch

from optdsl.plan.keys import TRAINED, is_pending, pending
from optdsl.runtime.checkpoint.foreign import check_mapping, check_native
from optdsl.runtime.checkpoint.loading import pairs, signed
from optdsl.runtime.checkpoint.validation import check_structure
from optdsl.runtime.core.fingerprint import Meaning, named, read
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines import completion as migrate
from optdsl.runtime.engines.compiled import LearningOptimizer


def migrated(optimizer: LearningOptimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """See `CompiledOptimizer.migrated`."""
    name, own = type(optimizer).__name__, optimizer.compiled.meaning
    check_mapping(state_dict)
    check_structure(name, state_dict)
    check_native(name, state_dict, named(own))
    saved = read(state_dict.get("meaning"))
    if saved is not None and saved.states != own.states:
        reason = _apart(saved.states, own.states)
        raise ValueError(f"this state cannot become one of {name}: {reason}")
    for group in state_dict["param_groups"]:
        absent = [h for h in (() if saved is None else saved.hypers) if h not in group]
        if absent:
            raise ValueError(f"this state is broken: its groups have no {', '.join(absent)}")
    groups = [
        _group(group, mine, own, saved)
        for group, mine in zip(state_dict["param_groups"], optimizer.param_groups, strict=False)
    ]
    sizes = [len(g["params"]) for g in state_dict["param_groups"]]
    held = [len(g["params"]) for g in optimizer.param_groups]
    if sizes != held:
        raise ValueError(
            f"this state cannot become one of {name}: its parameter groups have {sizes} "
            f"parameters, and those of the optimizer {held}"
        )
    group_of = {index: g for g in state_dict["param_groups"] for index in g["params"]}
    states = dict(state_dict["state"])
    for index, parameter in pairs(optimizer, state_dict):
        if states.get(index):
            states[index] = _state(name, states[index], parameter, group_of[index], own, saved)
    return signed(optimizer, {**state_dict, "state": states, "param_groups": groups})


def _group(
    group: dict[str, Any], mine: dict[str, Any], own: Meaning, saved: Meaning | None
) -> dict[str, Any]:
    """A saved group with the optimizer's hyperparameters, which have the saved values if any."""
    theirs = {*(() if saved is None else saved.hypers), "betas"} - set(mine)
    kept = {key: value for key, value in group.items() if key not in theirs}
    return {**{h: mine[h] for h in own.hypers if h not in kept}, **kept}


def _state(
    name: str,
    state: dict[str, Any],
    parameter: torch.Tensor,
    group: dict[str, Any],
    own: Meaning,
    saved: Meaning | None,
) -> dict[str, Any]:
    """A parameter's state after the saved rule has completed its last step."""
    missing = [s for s in own.states if s not in state]
    if missing:
        raise ValueError(f"this state cannot become one of {name}: it has no {', '.join(missing)}")
    declared = {*own.states, "step"}
    if saved is None and pending("g") in state:
        raise ValueError(
            f"this state cannot become one of {name}: its last step is not completed, and it does "
            "not say by which rule; load it where it was saved, and save it again"
        )
    lasting = {k: v for k, v in state.items() if k not in declared and not is_pending(k)}
    if saved is not None:
        state = {k: v.clone() for k, v in state.items() if k not in lasting}
        device = next(iter(state[s] for s in own.states), parameter).device
        here = lasting.get(TRAINED, parameter.detach()).to(device)
        hypers = {h: float(group[h]) for h in saved.hypers}
        work = ParameterTask(here, torch.zeros_like(here), state, hypers)
        migrate.completed(saved.program, work)
    return {k: v for k, v in state.items() if k in declared} | lasting


def _apart(saved: dict[str, str], own: dict[str, str]) -> str:
    """The differences of two sets of states: names that only one has, and extents."""
    absent = [name for name in own if name not in saved]
    extra = [name for name in saved if name not in own]
    parts = [f"it has no {', '.join(absent)}"] if absent else []
    parts += [f"it keeps {', '.join(extra)} besides"] if extra else []
    parts += [
        f"its {name} is one {saved[name]}, and not one {own[name]}"
        for name in own
        if saved.get(name, own[name]) != own[name]
    ]
    return "; ".join(parts)
