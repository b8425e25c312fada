"""Loading states: only those of a rule that takes the same steps, and every number as it was saved.

`torch.optim.Optimizer.load_state_dict` casts floating-point states to the dtype of their parameter,
which would round the float32 moments of a bfloat16 parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Set as AbstractSet
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from optdsl.ir.lengths import own_lengths
from optdsl.ir.program import Program
from optdsl.ir.sections import state_shapes
from optdsl.ir.storage import CODECS, PARAMETER, added, stored
from optdsl.plan.keys import SAMPLE, is_added, is_pending
from optdsl.runtime.checkpoint import evaluated, observed, sampled
from optdsl.runtime.checkpoint.foreign import check_native
from optdsl.runtime.checkpoint.validation import check_groups, check_states, check_structure
from optdsl.runtime.core.fingerprint import Meaning, differences, named, read, shortened
from optdsl.runtime.core.owned_numbers import made
from optdsl.runtime.core.tasks import PENDING_HYPERS
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.completion import is_whole
from optdsl.runtime.engines.state_allocation import copied_beside
from optdsl.runtime.learning.scopes import OWN

# The entries of states that are kept on the host.
_ON_THE_HOST = frozenset({"step", PENDING_HYPERS})


@contextmanager
def restored_bitwise(optimizer: LearningOptimizer) -> Iterator[None]:
    """Within, `load_state_dict` checks its argument and keeps the dtype of every tensor.

    The hooks run after the user's pre-hooks, which may replace the state dict, and before the
    user's post-hooks, which may read the result.
    """
    loaded: dict[str, Any] = {}

    def check(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        _check(optimizer, state_dict)
        loaded.update(state_dict)

    def restore(_: torch.optim.Optimizer) -> None:
        _restore(optimizer, loaded)

    handles = [
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def signed(optimizer: LearningOptimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the name of the specification and with the meaning of its rule.

    Its states say from which sample what is pending is to be learned.
    """
    compiled = optimizer.compiled
    own = {"specification": compiled.program.name, "meaning": dict(compiled.meaning.entry)}
    return {**state_dict, **own, "state": sampled.marked(optimizer, state_dict["state"])}


def drop_strangers(optimizer: LearningOptimizer) -> None:
    """Delete loaded entries for coefficients that this optimizer does not learn.

    A tangent that the next step does not use would be wrong at any later step.
    """
    learned = {c.name for c in optimizer.compiled.coefficients}
    for entry in (*optimizer.param_groups, *optimizer.state.values()):
        for key in list(entry):
            kind, slash, name = str(key).partition("/")
            known = kind in {"tangent", "hypergradient", "learn", "coefficient"} and slash
            if known and name.partition("/")[0] not in learned:
                del entry[key]


def _check(optimizer: LearningOptimizer, state_dict: dict[str, Any]) -> None:
    program, own = optimizer.compiled.program, optimizer.compiled.meaning
    name = type(optimizer).__name__
    check_structure(name, state_dict)
    check_native(name, state_dict, named(own))
    _check_meaning(optimizer, state_dict)
    observed.check(optimizer, state_dict)
    held = pairs(optimizer, state_dict)
    for group in state_dict["param_groups"]:
        missing = [h.name for h in program.hypers if h.name not in group]
        if missing:
            raise ValueError(
                f"this state is not one of {name}: its groups have no {', '.join(missing)}"
            )
    own_parameters = dict(held)
    for index, state in state_dict["state"].items():
        part = program
        if index in own_parameters:
            part = optimizer.part_of(own_parameters[index]).program
        states = {s.name for s in part.states} | {"step"} | added(part).keys()
        kept = {key for key in state if not (is_added(key) or str(key).startswith(OWN))}
        if state and kept != states:
            raise ValueError(
                f"this state is not one of {name}: it keeps {', '.join(sorted(map(str, kept)))}, "
                f"not {', '.join(sorted(states))}" + _stored_otherwise(kept ^ states, part)
            )
        noted = frozenset(str(key) for key in state if is_pending(key) and key != SAMPLE)
        if not is_whole(part, noted):
            raise ValueError(
                f"this state is incomplete: its last step is pending, and of the entries that "
                f"complete it, there are only {', '.join(sorted(noted))}"
            )
        for key, value in state.items():
            if key in states and not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"this state is not one of {name}: {key} is {type(value).__name__}, no tensor"
                )
    for index, parameter in held:
        own_program = optimizer.part_of(parameter).program
        lengths = {}
        if own_program.axes:
            groups = state_dict["param_groups"]
            saved_group = next(group for group in groups if index in group["params"])
            lengths = own_lengths(own_program, parameter.shape, saved_group)
        shapes = state_shapes(own_program, parameter.shape, lengths)
        saved = state_dict["state"].get(index, {})
        try:
            sample = sampled.saved_sample(saved)
        except ValueError as error:
            raise ValueError(f"this state is broken: state[{index!r}]: {error}") from None
        for key, value in saved.items():
            one = key in {"step", SAMPLE} or str(key).startswith(OWN)
            expected = torch.Size() if one else torch.Size(shapes.get(key, parameter.shape))
            if sampled.keeps(key) and isinstance(value, torch.Tensor):
                possible = sampled.shapes(parameter, sample)
                expected = value.shape if value.shape in possible else possible[0]
            if key == PENDING_HYPERS:
                expected = torch.Size([1 + len(program.hypers)])
            if isinstance(value, torch.Tensor) and value.shape != expected:
                raise ValueError(
                    f"this state is not one of these parameters: {key} has shape "
                    f"{tuple(value.shape)}, not {tuple(expected)}"
                )
    check_groups(optimizer, state_dict["param_groups"])
    check_states(optimizer, state_dict["state"], held, _saved_hypers(own, state_dict))
    evaluated.check(optimizer, state_dict)


def _stored_otherwise(keys: AbstractSet[str], program: Program) -> str:
    """What to say of keys that only one of two states has, if they are of its storage."""
    others = {b.key(PARAMETER) for codec in CODECS.values() for b in codec.buffers if b.name}
    if not keys <= others:
        return ""
    how = stored(program).get(PARAMETER)
    return (
        f"; it was saved with other storage, and this one stores parameters "
        f"{'as they are' if how is None else 'as ' + how.name}: load it with the storage that it "
        f"was saved with"
    )


def _check_meaning(optimizer: LearningOptimizer, state_dict: dict[str, Any]) -> None:
    """Refuse the state of a rule that takes other steps, and list the differences."""
    program, name = optimizer.compiled.program, type(optimizer).__name__
    other = state_dict.get("specification", program.name)
    entry, own = state_dict.get("meaning"), optimizer.compiled.meaning
    if not isinstance(entry, dict):
        # A state saved by an early version has at most a name.
        if other != program.name:
            raise ValueError(f"this state is not one of {name}: it was saved by {other}")
        return
    if entry.get("hash") == own.hash:
        return
    saved = read(entry)
    if saved is None:
        raise ValueError(
            f"this state is not one of {name}: it was saved by {other}, whose equations are not "
            "these, and cannot be read"
        )
    lines = differences(saved, own)
    if not lines:
        return
    lines = shortened(lines)
    if saved.states == own.states:
        lines.append(
            "The states have the same names: load_state_dict(optimizer.migrated(state_dict)) goes "
            "on with them."
        )
    raise ValueError(
        f"this state is not one of {name}: it was saved by {other}, which takes other steps\n  "
        + "\n  ".join(lines)
    )


def _saved_hypers(own: Meaning, state_dict: dict[str, Any]) -> tuple[str, ...]:
    """The hyperparameters in the order in which a checkpoint's pending steps keep them."""
    entry = state_dict.get("meaning")
    same = isinstance(entry, dict) and entry.get("hash") == own.hash
    saved = own if same else read(entry)
    return own.hypers if saved is None else saved.hypers


def pairs(
    optimizer: LearningOptimizer, state_dict: dict[str, Any]
) -> list[tuple[Any, torch.Tensor]]:
    """The index under which each parameter was saved, and the parameter."""
    saved = chain.from_iterable(g["params"] for g in state_dict["param_groups"])
    own = chain.from_iterable(g["params"] for g in optimizer.param_groups)
    return list(zip(saved, own, strict=False))


def _restore(optimizer: LearningOptimizer, state_dict: dict[str, Any]) -> None:
    held = pairs(optimizer, state_dict)
    optimizer._observed = observed.loaded(optimizer, state_dict, held)
    optimizer._evaluating = evaluated.loaded(state_dict)
    own = optimizer.compiled.meaning
    saved = _saved_hypers(own, state_dict)
    places = [0, *(1 + saved.index(h) for h in own.hypers)]
    together: dict[tuple[Any, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for index, parameter in held:
        if index in state_dict["state"]:
            sampled.settle(optimizer, parameter, state_dict["state"][index])
        for number, (key, value) in enumerate(state_dict["state"].get(index, {}).items()):
            known = key in optimizer.state[parameter] and key != SAMPLE
            if known and isinstance(value, torch.Tensor):
                if key == PENDING_HYPERS and saved != own.hypers:
                    value = value[places]
                if key in _ON_THE_HOST:
                    together.setdefault((key, value.device), []).append((parameter, value))
                    continue
                device = value.device if str(key).startswith(OWN) else parameter.device
                copy = copied_beside(parameter, number, value, device)
                optimizer.state[parameter][key] = copy
    for (key, _), alike in together.items():
        # They share one tensor, which a step reads and writes as a whole.
        rows = made(torch.stack([value.detach().to(torch.float64) for _, value in alike]))
        for (parameter, _), row in zip(alike, rows, strict=True):
            optimizer.state[parameter][key] = row
