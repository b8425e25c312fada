"""The result of the compiler for one target, and its text for the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optdsl.backends.base import SourceModule
from optdsl.backends.text import parse_module, print_module
from optdsl.ir.program import Program
from optdsl.learning import Block
from optdsl.plan import Plan
from optdsl.plan.balance import PROCESSOR, Balance
from optdsl.plan.text import parse_plan, print_plan


@dataclass(frozen=True)
class Target:
    """The backend, dtype and order for which kernels are compiled.

    Attributes:
        backend: its name.
        dtype: of the parameters, of `optdsl.backends.base.DTYPES`.
        order: when coefficients move, as of `optdsl.load`.
        state_bytes: the most bytes of state for each parameter, as of `optdsl.load`; None for the
            plan with the least.
        balance: what the plan is chosen by, where `state_bytes` is given.
    """

    backend: str
    dtype: str = "float32"
    order: str = "overlapped"
    state_bytes: float | None = None
    balance: Balance = PROCESSOR

    @property
    def rounded(self) -> bool:
        """Whether parameters are stored in less than the precision of a step."""
        return self.dtype in {"bfloat16", "float16"}


@dataclass(frozen=True)
class Artifact:
    """A rule, compiled for one target, as engines execute it.

    Attributes:
        target: what it was made for.
        program: the rule, differentiated.
        plan: how its steps and its hyper-gradients fit together.
        module: the source text of the kernels.
        beside: that of the parts of steps that torch runs, between those of `module`; see
            `optdsl.backends.interleaved`.
    """

    target: Target
    program: Program
    plan: Plan
    module: SourceModule
    beside: SourceModule | None = None


@dataclass(frozen=True)
class BackHalf:
    """The stages of the compiler that wait for a device and a dtype, as the runtime calls them.

    Attributes:
        kernels: compiles a differentiated program for a target.
        learning: compiles what moves coefficients on the host, a module for each block.
        device_learning: compiles what moves them on a device, given the rule's name, the blocks,
            the coefficients whose hyper-gradients are measured, in order, and the order of
            learning.
        evaluation: compiles the point at which the model is evaluated, of a program that has one.
    """

    kernels: Callable[[Program, Target], Artifact]
    learning: Callable[[Sequence[Block]], tuple[SourceModule, ...]]
    device_learning: Callable[[str, Sequence[Block], Sequence[str], str], SourceModule]
    evaluation: Callable[[Program], SourceModule]


def print_artifact(artifact: Artifact) -> str:
    """The plan and the module as JSON; the program and the target are in the key of the cache."""
    beside = None if artifact.beside is None else print_module(artifact.beside)
    return json.dumps([print_plan(artifact.plan), print_module(artifact.module), beside])


def parse_artifact(text: str, program: Program, target: Target) -> Artifact:
    """Read what `print_artifact` wrote.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: for anything else.
    """
    plan, module, other = json.loads(text)
    beside = None if other is None else parse_module(other)
    return Artifact(target, program, parse_plan(plan), parse_module(module), beside)
