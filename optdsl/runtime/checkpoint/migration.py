"""Conversion of the state of one rule for another, by the names of states and hyperparameters."""

from __future__ import annotations

from typing import Any

import torch

from optdsl.ir.program import Program
from optdsl.ir.sections import section_of
from optdsl.ir.types import Extent
from optdsl.passes.specialize import specialize
from optdsl.plan.keys import SAMPLE, TRAINED, is_pending, pending
from optdsl.runtime.checkpoint import sampled
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
    if saved is not None:
        reason = _apart(_shared(saved), _shared(own))
        if not (saved.program.sections or own.program.sections):
            reason = _apart(saved.states, own.states)
        if reason:
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
    groups_here = {p: g for g in optimizer.param_groups for p in g["params"]}
    for index, parameter in pairs(optimizer, state_dict):
        if states.get(index):
            here = _of(own, parameter, groups_here[parameter])
            there = None if saved is None else _of(saved, parameter, group_of[index])
            reason = "" if there is None else _apart(_kept(there), _kept(here))
            if reason:
                raise ValueError(
                    f"this state cannot become one of {name}: that of parameter {index}, of shape "
                    f"{tuple(parameter.shape)}, {reason}; take its entry out of the states, "
                    f"state_dict['state'].pop({index!r}), and it starts anew"
                )
            states[index] = _state(name, states[index], parameter, group_of[index], here, there)
    return signed(optimizer, {**state_dict, "state": states, "param_groups": groups})


def _group(
    group: dict[str, Any], mine: dict[str, Any], own: Meaning, saved: Meaning | None
) -> dict[str, Any]:
    """A saved group with the optimizer's hyperparameters, which have the saved values if any."""
    # Of which kind a tensor is, the optimizer says that takes its steps from now on.
    theirs = {*(() if saved is None else saved.hypers), "betas"} - set(mine) | {"kind"}
    kept = {key: value for key, value in group.items() if key not in theirs}
    kept |= {"kind": mine["kind"]} if "kind" in mine else {}
    return {**{h: mine[h] for h in own.hypers if h not in kept}, **kept}


def _state(
    name: str,
    state: dict[str, Any],
    parameter: torch.Tensor,
    group: dict[str, Any],
    own: Program,
    saved: Program | None,
) -> dict[str, Any]:
    """A parameter's state after the saved rule has completed its last step.

    `own` and `saved` are the rules as they are for the parameter.
    """
    kept = _kept(own)
    missing = [s for s in kept if s not in state]
    if missing:
        raise ValueError(f"this state cannot become one of {name}: it has no {', '.join(missing)}")
    declared = {*kept, "step"}
    if saved is None and pending("g") in state:
        raise ValueError(
            f"this state cannot become one of {name}: its last step is not completed, and it does "
            "not say by which rule; load it where it was saved, and save it again"
        )
    lasting = {k: v for k, v in state.items() if k not in declared and not is_pending(k)}
    if any(map(sampled.keeps, lasting)):
        # The sample of tangents, which is not that of the rule that goes on.
        lasting[SAMPLE] = sampled.entry(sampled.saved_sample(state))
    if saved is not None:
        state = {k: v.clone() for k, v in state.items() if k not in lasting}
        device = next(iter(state[s] for s in kept), parameter).device
        here = lasting.get(TRAINED, parameter.detach()).to(device)
        hypers = {h.name: float(group[h.name]) for h in saved.hypers}
        work = ParameterTask(here, torch.zeros_like(here), state, hypers)
        migrate.completed(saved, work)
    return {k: v for k, v in state.items() if k in declared} | lasting


def _of(rule: Meaning, parameter: torch.Tensor, group: dict[str, Any]) -> Program:
    """A rule as it is for a parameter, of its section."""
    program = rule.program
    number = section_of(program.sections, parameter.shape, group.get("kind"))
    if program.sections and number is None:
        raise ValueError(
            f"this state is broken: its rule has no section for a parameter of shape "
            f"{tuple(parameter.shape)}"
        )
    return program if number is None else specialize(program, number)


def _kept(program: Program) -> dict[str, str]:
    """The states that each tensor has, by name, and what they are."""
    return {s.name: str(s.type) for s in program.states if s.type.extent is not Extent.SHARED}


def _shared(rule: Meaning) -> dict[str, str]:
    """The states that all tensors share."""
    states = rule.program.states
    return {s.name: str(s.type) for s in states if s.type.extent is Extent.SHARED}


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
