"""The parts of a rule: its sections, its stages, and what it is at other values of its structure.

Most rules are one program for all tensors. A rule with sections is another program for each kind
of tensor; one that reads sums over all tensors has programs that measure them before the step; and
one whose operations depend on a hyperparameter, such as a number of iterations, is another program
for each value. Each of these has engines of its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from optdsl.ir.laws import Stage
from optdsl.ir.lengths import reads_taps
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import name_of, of_matrices, section_of, taps
from optdsl.passes.lengths import at_taps, conditions_on_lengths, decided, without_conditions
from optdsl.passes.pipeline import run_passes
from optdsl.passes.specialize import specialize
from optdsl.passes.totals import TOTAL, Staged, staged
from optdsl.runtime.engines.selection import Engines
from optdsl.runtime.engines.sharded.shards import looks_at_wholes

# The number of a section, if there are any, the values of the structure, and the number of
# positions of a kernel, if the rule reads it.
_Key = tuple[int | None, tuple[float, ...], int | None]
_ANY: _Key = (None, (), None)


@dataclass(frozen=True)
class Measure:
    """What measures, of tensors of one kind, some totals.

    Attributes:
        engines: what runs it.
        totals: the names of its totals, which are states of its program.
        states: the states of the rule that it reads.
        timed: whether it reads `t`.
        wholes: whether what it sums up is not computed element by element.
    """

    engines: Engines
    totals: tuple[str, ...]
    states: tuple[str, ...]
    timed: bool
    wholes: bool


class Parts:
    """The parts of one rule, made when they are first asked for.

    Attributes:
        program: the rule, of all sections.
        varied: whether it is not the same for all tensors.
        divided: whether there is more than the rule itself.
        stages: the stages of its steps, if they have any.
    """

    def __init__(
        self,
        program: Program,
        engines: Callable[[Program], Engines],
        variant: Callable[[Mapping[str, float]], Program],
    ) -> None:
        """Make nothing yet.

        Args:
            program: differentiated, through all passes.
            engines: makes the engines of a program without sections and stages.
            variant: makes the program for other values of the hyperparameters in its structure.
        """
        self.program = program
        self.stages = staged(program)
        self.varied = bool(program.sections or program.structure)
        self.divided = self.varied or self.stages is not None
        self._engines, self._variant = engines, variant
        self._taps = reads_taps(program)
        self._variants: dict[tuple[float, ...], tuple[Program, Staged | None]] = {}
        self._parts: dict[_Key, Engines] = {}
        self._measures: dict[tuple[int, _Key], Measure | None] = {}
        self._conditions: dict[Engines, tuple[Value, ...]] = {}
        self._of_shapes: dict[tuple[Engines, tuple[bool, ...]], Engines] = {}

    @functools.cached_property
    def whole(self) -> Engines:
        """The engines of a rule that is not divided."""
        return self._engines(self.program)

    def of(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> Engines:
        """The engines of the rule as it is for a parameter.

        Args:
            parameter: the parameter.
            group: its parameter group, which may choose the section by its ``kind``.

        Raises:
            ValueError: where no section takes the parameter.
        """
        if not self.divided:
            return self.whole
        key = self._key(parameter, group) if self.varied else _ANY
        if key not in self._parts:
            program, stages = self._at(key[1])
            self._parts[key] = self._of_section(stages.program if stages else program, key)
        return self._of_lengths(self._parts[key], parameter, group)

    def _of_lengths(
        self, engines: Engines, parameter: torch.Tensor, group: Mapping[str, Any]
    ) -> Engines:
        """The engines of the rule of a section as it is for the lengths of a parameter."""
        if engines not in self._conditions:
            self._conditions[engines] = conditions_on_lengths(engines.program)
        conditions = self._conditions[engines]
        if not conditions:
            return engines
        key = engines, decided(engines.program, conditions, parameter.shape, group)
        if key not in self._of_shapes:
            program = without_conditions(engines.program, conditions, key[1])
            self._of_shapes[key] = self._engines(run_passes(program))
        return self._of_shapes[key]

    def measure(
        self, level: int, parameter: torch.Tensor, group: Mapping[str, Any]
    ) -> Measure | None:
        """What measures a parameter's part of the totals of a stage; None if it has no part."""
        key = self._key(parameter, group) if self.varied else _ANY
        if (level, key) not in self._measures:
            stages = self._at(key[1])[1]
            assert stages is not None
            engines = self._of_section(stages.measures[level], key)
            self._measures[level, key] = _measure(engines)
        return self._measures[level, key]

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse a parameter group with parameters that no section takes.

        Raises:
            ValueError: with the shape and the kinds.
        """
        program, kind = self.program, group.get("kind")
        if kind is not None and kind not in [*map(name_of, program.sections)]:
            raise ValueError(_refusal(program, (), kind))
        if not program.sections:
            return
        names = group.get("param_names") or itertools.repeat("a parameter")
        for parameter, name in zip(group["params"], names, strict=False):
            self._section(parameter, kind, name)

    def _key(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> _Key:
        structure = tuple(float(group[name]) for name, _ in self.program.structure)
        if not self.program.sections:
            return None, structure, None
        section = self._section(parameter, group.get("kind"))
        reads = self._taps and of_matrices(self.program.sections[section])
        return section, structure, taps(parameter.shape) if reads else None

    def _section(self, parameter: torch.Tensor, kind: Any, name: str = "a parameter") -> int:
        found = section_of(self.program.sections, parameter.shape, kind)
        if found is None:
            raise ValueError(_refusal(self.program, tuple(parameter.shape), kind, name))
        return found

    def _at(self, structure: tuple[float, ...]) -> tuple[Program, Staged | None]:
        """The rule, and its stages, at values of its structure."""
        if structure not in self._variants:
            names = [name for name, _ in self.program.structure]
            wanted = dict(zip(names, structure, strict=True))
            same = wanted == dict(self.program.structure)
            program = self.program if same else self._variant(wanted)
            self._variants[structure] = program, staged(program)
        return self._variants[structure]

    def _of_section(self, program: Program, key: _Key) -> Engines:
        section, _, positions = key
        if section is not None:
            program = specialize(program, section)
        if positions is not None:
            program = at_taps(program, positions)
        return self._engines(run_passes(replace(program, structure=())))


def _measure(engines: Engines) -> Measure | None:
    program = engines.program
    totals = tuple(s.name for s in program.states if s.name.startswith(TOTAL))
    states = tuple(s.name for s in program.states if s.name not in totals)
    timed = any(o.opcode == "step" for o in program.operations)
    summed: list[Value] = []
    for state in program.states:
        end = program.operations[state.next]
        reduced = TABLE[end.opcode].stage is Stage.REDUCTION
        if state.name in totals:
            summed.extend(end.arguments if reduced else [state.next])
    wholes = looks_at_wholes(program, tuple(summed))
    return Measure(engines, totals, states, timed, wholes) if totals else None


def _refusal(
    program: Program, shape: tuple[int, ...], kind: object, parameter: str = "a parameter"
) -> str:
    """Why no section of a rule takes a tensor, and what to do."""
    listed = ", ".join(map(name_of, program.sections))
    if kind is not None and not program.sections:
        return f"{program.name} is one rule for all tensors, and has no kind {kind!r}"
    if kind is not None and kind not in [*map(name_of, program.sections)]:
        return f"{program.name} has no kind {kind!r}; its kinds are {listed}"
    if kind is not None:
        return f"{program.name} cannot read {parameter} of shape {shape} as {kind}"
    return (
        f"{program.name} is for {listed}, and {parameter} has the shape {shape}; give it to "
        f"another optimizer"
    )
