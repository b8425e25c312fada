"""What a rule stores otherwise than it computes it: decoded for a step, and encoded after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optdsl.codecs import CODERS, dtype_of
from optdsl.ir.program import Program
from optdsl.ir.storage import PARAMETER, stored
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.tasks import COMPUTE, ParameterTask, keep


class Storage:
    """The codecs of a program."""

    def __init__(self, program: Program) -> None:
        """Look up what it stores otherwise."""
        self._name = program.name
        self._codecs = stored(program)
        self._coders = {name: CODERS[codec.name] for name, codec in self._codecs.items()}
        self._theta = self._codecs.get(PARAMETER)
        # The states that lie in memory as they are computed need no look.
        self._states = [name for name in self._codecs if name != PARAMETER]
        self._others = [s.name for s in program.states if s.name not in self._codecs]
        self.any = bool(self._codecs)

    def compute(self, parameter: Tensor) -> torch.dtype:
        """The precision of a step of a parameter."""
        widens = self._theta is not None and self._theta.widens
        if widens and parameter.dtype is torch.float32:
            return torch.float64
        return COMPUTE[parameter.dtype]

    def kept(self, name: str, parameter: Tensor) -> torch.dtype:
        """The dtype in which a state of that name is kept for a parameter."""
        return self.dtypes(parameter.dtype).get(name, COMPUTE[parameter.dtype])

    def dtypes(self, parameter: torch.dtype) -> dict[str, torch.dtype]:
        """The dtypes of all buffers, by their keys, for a parameter of a dtype."""
        return {
            buffer.key(name): dtype_of(buffer, parameter)
            for name, codec in self._codecs.items()
            for buffer in codec.buffers
        }

    def theta(self, work: ParameterTask, dtype: torch.dtype) -> Tensor:
        """The parameter that equations see."""
        parameter = work.parameter.detach()
        if self._theta is None or "step" not in work.state:
            return parameter.to(dtype)
        return self._decoded(PARAMETER, {**work.state, PARAMETER: parameter}, dtype)

    def states(self, state: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        """The state of a parameter with the values that equations see."""
        decoded = {n: self._decoded(n, state, dtype) for n in self._states if n in state}
        if self._theta is not None and self._theta.widens:
            # Products take no matrices of two precisions.
            decoded |= {n: state[n].to(dtype) for n in self._others if n in state}
        return state | decoded if decoded else state

    def begin(self, work: ParameterTask) -> None:
        """Make the buffers beside a parameter, before its first step."""
        for buffer in self._codecs[PARAMETER].buffers[1:] if self._theta is not None else ():
            like = work.parameter.detach()
            dtype = dtype_of(buffer, like.dtype)
            work.state[buffer.key(PARAMETER)] = torch.zeros_like(
                like, dtype=dtype, memory_format=torch.contiguous_format
            )

    def write_theta(self, value: Tensor, work: ParameterTask, t: float) -> None:
        """Store the parameter after a step."""
        parameter = work.parameter
        if self._theta is None:
            parameter.copy_(value)
            return
        first, *others = self._encoded(PARAMETER, value, work, t)
        parameter.copy_(first)
        for buffer, x in zip(self._codecs[PARAMETER].buffers[1:], others, strict=True):
            key, own = buffer.key(PARAMETER), dtype_of(buffer, parameter.dtype)
            if work.state[key].dtype is not own:
                # The model has changed its precision since.
                work.state[key] = work.state[key].to(own)
            work.state[key].copy_(x)

    def write(self, name: str, value: Tensor, work: ParameterTask, t: float) -> None:
        """Store a state after a step, or before the first one, at which `t` is 0."""
        if name not in self._coders:
            # A step in more precision than usual keeps no more.
            first = name not in work.state
            keep(work.state, name, value.to(COMPUTE[work.parameter.dtype]) if first else value)
            return
        codec = self._codecs[name]
        for buffer, x in zip(codec.buffers, self._encoded(name, value, work, t), strict=True):
            keep(work.state, buffer.key(name), x)

    def _encoded(
        self, name: str, value: Tensor, work: ParameterTask, t: float
    ) -> tuple[Tensor, ...]:
        own = dtype_of(self._codecs[name].buffers[0], work.parameter.dtype)
        return self._coders[name].encode(
            value,
            own,
            lambda x: _drawn(work.draws, f"store {name}", t, x, work.parameter),
        )

    def _decoded(self, name: str, state: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
        codec, coder = self._codecs[name], self._coders[name]
        return coder.decode([state[buffer.key(name)] for buffer in codec.buffers], dtype)

    def check(self, parameter: Tensor) -> None:
        """Refuse to store a parameter as no buffers of its dtype do.

        Raises:
            ValueError: for a float64 parameter that is to be compensated.
        """
        if self._theta is not None and self._theta.widens and parameter.dtype is torch.float64:
            raise ValueError(
                f"{self._name} stores parameters as {self._codecs[PARAMETER].name}, and there is "
                f"no wider precision in which one of float64 could be worked on; leave the "
                f"storage out for such parameters"
            )


def _drawn(draws: Draws | None, name: str, t: float, x: Tensor, parameter: Tensor) -> Tensor:
    assert draws is not None
    # Of a shard, the elements of the whole tensor count.
    return draws.uniform(name, t, x, None if x.shape == parameter.shape else x.shape)
