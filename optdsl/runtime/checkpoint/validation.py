"""Checks that a training can have saved the values of a state dict.

Other values would make a later step fail, or silently change what is learned. So everything is
checked before anything is loaded. The states that a rule declares may hold any numbers, including
NaN and infinities, since a training that has diverged may be saved, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from optdsl import interpret
from optdsl.ir.domain import Choice
from optdsl.ir.program import Program
from optdsl.learning import Coefficient, memory_key
from optdsl.options import real
from optdsl.passes.totals import SHARED
from optdsl.runtime.core.hints import check_hints
from optdsl.runtime.core.hyperparameters import (
    check_maximize,
    check_shared,
    check_sums,
    check_value,
)
from optdsl.runtime.core.owned_numbers import is_fake, without_values
from optdsl.runtime.core.tasks import COMPUTE, PENDING_HYPERS
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.drawing import SEED, check_seed
from optdsl.runtime.engines.storage import Storage
from optdsl.runtime.learning.scopes import OWN, VALUE

# The dtypes in which counts may have been saved, and the limit of counting in double precision.
_COUNTS = {*COMPUTE, torch.int32, torch.int64}
_MOST = 2.0**53


def check_structure(optimizer: str, state_dict: Mapping[str, Any]) -> None:
    """Refuse a mapping that is not the state dict of an optimizer.

    Raises:
        ValueError: naming the entry that is missing or of another type.
    """
    states, groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(states, dict) or not isinstance(groups, list | tuple):
        raise ValueError(
            f"this is not a state of {optimizer}: it has no `state` or no `param_groups`"
        )
    with _loading_into(optimizer):
        for number, group in enumerate(groups):
            where = f"param_groups[{number}]"
            if not isinstance(group, dict):
                raise ValueError(f"{where} is {_kind(group)}")
            if not isinstance(group.get("params"), list | tuple):
                raise ValueError(f"{where} has no list `params`")
            for index in group["params"]:
                if not isinstance(index, int | str) or isinstance(index, bool):
                    raise ValueError(f"`params` of {where} has {_kind(index)} {index!r}")
        known = {index for group in groups for index in group["params"]}
        for index, state in states.items():
            if index not in known:
                raise ValueError(f"state[{index!r}] is of no parameter")
            if not isinstance(state, dict):
                raise ValueError(f"state[{index!r}] is {_kind(state)}")


def check_groups(optimizer: LearningOptimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values of groups that no training can have, or with which a step would fail.

    Args:
        optimizer: the optimizer that loads them.
        groups: groups with all hyperparameters.

    Raises:
        ValueError: naming the group and the key.
    """
    compiled, name = optimizer.compiled, type(optimizer).__name__
    with _loading_into(name):
        for number, group in enumerate(groups):
            where = f"param_groups[{number}]"
            for hyper in compiled.program.hypers:
                value, key = group[hyper.name], f"{where}[{hyper.name!r}]"
                if isinstance(value, bool) and not hyper.domain.discrete:
                    raise ValueError(f"{key} is bool, no number")
                _check_hyper(name, key, hyper, value, compiled.bounds)
            _check_betas(where, group, compiled.betas)
            with _prefixed(where):
                check_hints(name, group, [h.name for h in compiled.program.hypers])
                check_maximize(name, group.get("maximize", False))
                if SEED in group:
                    check_seed(name, group[SEED])
                check_sums(name, compiled.program.simplexes, group)
            _check_memory(where, group, compiled.scopes.of_groups)
            for key in (k for k in group if str(k).startswith(SHARED)):
                _number(f"{where}[{key!r}]", group[key])
        check_shared(name, (c.name for c in compiled.scopes.shared), groups)


def _check_betas(where: str, group: Mapping[str, Any], betas: tuple[str, ...]) -> None:
    """Refuse ``betas`` that differ from beta1, beta2 and so on: only one of them was edited."""
    if not betas or "betas" not in group:
        return
    given, key = group["betas"], f"{where}['betas']"
    if not isinstance(given, tuple | list) or len(given) != len(betas):
        raise ValueError(f"{key} is no tuple of {len(betas)} numbers")
    for place, (beta, value) in enumerate(zip(betas, given, strict=True)):
        number, kept = _number(f"{key}[{place}]", value), _number(where, group[beta])
        if number != kept:
            raise ValueError(
                f"{key}[{place}] is {number} and {where}[{beta!r}] is {kept}; give both the same "
                f"value"
            )


def check_states(
    optimizer: LearningOptimizer,
    states: Mapping[Any, Mapping[str, Any]],
    pairs: Iterable[tuple[Any, torch.Tensor]],
    hypers: Sequence[str],
) -> None:
    """Refuse states that no training can have.

    Args:
        optimizer: the optimizer that loads them.
        states: states with the right keys and shapes, by index.
        pairs: the index and the parameter of each state.
        hypers: the hyperparameters in the order in which pending steps keep them.

    Raises:
        ValueError: naming the index of the parameter and the key.
    """
    compiled, name = optimizer.compiled, type(optimizer).__name__
    with _loading_into(name):
        for index, parameter in pairs:
            where, state = f"state[{index!r}]", states.get(index, {})
            stored = Storage(optimizer.part_of(parameter).program).dtypes(parameter.dtype)
            for key, value in state.items():
                if str(key).startswith(OWN):
                    continue
                place = f"{where}[{key!r}]"
                _check_tensor(place, value, parameter, _COUNTS if key == "step" else COMPUTE.keys())
                if key in stored and value.dtype is not stored[key]:
                    raise ValueError(
                        f"{place} is of {value.dtype}, and is stored as {stored[key]} here; load "
                        f"it with the storage that it was saved with"
                    )
                if key == "step" and not without_values(value):
                    _check_count(place, value)
                elif key == PENDING_HYPERS and not without_values(value):
                    _check_pending(name, place, value, compiled.program, hypers)
            _check_memory(where, state, compiled.scopes.of_tensors)
            for coefficient in compiled.scopes.of_tensors:
                if (key := VALUE + coefficient.name) in state:
                    hyper = compiled.program.hyper(coefficient.name)
                    _check_hyper(name, f"{where}[{key!r}]", hyper, state[key], compiled.bounds)
            for simplex in compiled.program.simplexes:
                weights = {h: state.get(VALUE + h) for h in simplex.hypers}
                if None not in weights.values():
                    with _prefixed(where):
                        check_sums(name, [simplex], weights)


def _check_tensor(
    where: str, value: Any, parameter: torch.Tensor, dtypes: Collection[torch.dtype]
) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{where} is {_kind(value)}, no tensor")
    if value.layout is not torch.strided or value.is_quantized:
        raise ValueError(f"{where} is not dense ({value.layout})")
    if without_values(value) and not (parameter.is_meta or is_fake(parameter)):
        raise ValueError(f"{where} is on {value.device} and has no values")
    if value.dtype not in dtypes:
        raise ValueError(f"{where} is of {value.dtype}")


def _check_count(where: str, value: Any) -> None:
    number = _number(where, value)
    if not (0 <= number < _MOST and number == int(number)):
        raise ValueError(f"{where} is {number}, and no number of steps")


def _check_pending(
    name: str, where: str, value: torch.Tensor, program: Program, hypers: Sequence[str]
) -> None:
    t, *numbers = value.tolist()
    _check_count(f"{where}[0]", t)
    if not t:
        return  # no step is pending, and the other numbers are not used
    for place, (hyper, number) in enumerate(zip(hypers, numbers, strict=True), start=1):
        _check_hyper(name, f"{where}[{place}]", program.hyper(hyper), number, {})


def _check_memory(
    where: str, entries: Mapping[str, Any], coefficients: Iterable[Coefficient]
) -> None:
    """Refuse an invalid memory of coefficients; the memory of another rule is not used."""
    for coefficient in coefficients:
        key = coefficient.hypergradient_key
        if key in entries:
            _number(f"{where}[{key!r}]", entries[key])
        prefix = memory_key(coefficient.name, "")
        if {k for k in entries if str(k).startswith(prefix)} != set(coefficient.memory_keys):
            continue
        for key in sorted(coefficient.memory_keys):
            number = _number(f"{where}[{key!r}]", entries[key])
            if key == coefficient.step_key:
                _check_count(f"{where}[{key!r}]", number)
            elif not math.isfinite(number):
                raise ValueError(f"{where}[{key!r}] is {number}, and nothing would be learned")
        if not _moves(coefficient, {k: real(entries[k]) for k in coefficient.memory_keys}):
            shown = ", ".join(f"{k} = {entries[k]}" for k in sorted(coefficient.memory_keys))
            raise ValueError(f"{where} has {shown}, with which {coefficient.name} cannot learn")


def _moves(coefficient: Coefficient, memory: Mapping[str, float]) -> bool:
    """Whether a step of a coefficient's rule is finite with a memory.

    The step is for a hyper-gradient of 0, or of 1 if the rule's first step is not finite for 0. If
    it is not finite for 1 either, nothing is known of the memory.
    """
    rule, count = coefficient.rule, memory[coefficient.step_key]
    if not count:
        return True  # the memory starts anew
    hypers = {h.name: h.default for h in rule.hypers} | dict(coefficient.learned.options)
    keys = (memory_key(coefficient.name, s.name) for s in rule.states)
    numbers = [0.5, 0.0, 1.0, *(memory[key] for key in keys)]
    start, zero, one, *kept = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    states = {s.name: x for s, x in zip(rule.states, kept, strict=True)}
    for gradient in (zero, one):
        fresh = interpret.initial_state(rule, start, gradient, hypers)
        if _finite(interpret.step(rule, start, gradient, fresh, hypers, 1)):
            return _finite(interpret.step(rule, start, gradient, states, hypers, int(count) + 1))
    return True


def _finite(step: interpret.Step) -> bool:
    return all(bool(x.isfinite()) for x in (step.parameter, *step.state.values()))


def _check_hyper(name: str, where: str, hyper: Any, value: Any, bounds: Mapping[str, Any]) -> None:
    labels = hyper.domain.labels if isinstance(hyper.domain, Choice) else ()
    number = value if value in labels else _number(where, value)
    with _prefixed(where):
        check_value(name, hyper, number, bounds)


def _number(where: str, value: Any) -> float:
    if isinstance(value, torch.Tensor) and without_values(value):
        raise ValueError(f"{where} is on {value.device} and has no value")
    try:
        return real(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{where} is {_kind(value)}, no number") from None


@contextmanager
def _prefixed(prefix: str) -> Iterator[None]:
    """Within, the messages of errors about values get a prefix that says where the value is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{prefix}: {error}") from None


def _loading_into(optimizer: str) -> AbstractContextManager[None]:
    return _prefixed(f"this state cannot be loaded into {optimizer}")


def _kind(value: object) -> str:
    return type(value).__name__
