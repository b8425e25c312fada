"""Steps of an elementwise rule for pieces of tensors: parts of large ones, small ones together.

The operations of a step run over one piece after the other. On a CPU a piece is so small that what
is computed for it stays in the cache; a large tensor is cut, and small ones are copied into one
piece, so that an operation is one call for all of them. Elsewhere large tensors are pieces.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Program
from optdsl.ir.storage import stored
from optdsl.runtime.build.python_modules import Function
from optdsl.runtime.core.tasks import COMPUTE, PLAIN, ParameterTask
from optdsl.runtime.engines import piece_threads
from optdsl.runtime.engines.piece_buffers import Buffers, Job, Pool
from optdsl.runtime.engines.sampled.pieces import SampledTask

# On a CPU, the elements of a piece: where a thread has pieces of its own, and for each of those
# that share one. Torch divides few operations among threads that have fewer elements than that.
_ALONE, _EACH = 98304, 32768
# A step that computes tangents has four times as much in between: pieces of samples are smaller.
_SAMPLED = 24576
# So many threads share a piece at most.
_THREADS = 16
# Elsewhere, small tensors are taken together up to so many elements.
_TOGETHER = 1 << 20
# Where a thread has pieces of its own, small tensors are taken together up to so many elements, for
# what is copied back should still be in the cache. Others are cut so where pieces would be few.
_SHORT = 49152
# Tensors of fewer elements than this part of such a piece are copied into one with others.
_PART = 4


class Pieces:
    """Steps of what can be stepped piece by piece.

    Attributes:
        states: those that a step reads or writes.
    """

    def __init__(self, step: Function, program: Program) -> None:
        """Nothing is stepped yet.

        Args:
            step: the step of pieces.
            program: the rule.
        """
        self._step = step
        self._usable = not stored(program)
        self.states = step.entry.states
        # Optimizers of a class have one engine, and may be stepped in several threads.
        self._pool = Pool()

    def divided(
        self, works: Sequence[ParameterTask]
    ) -> tuple[Sequence[ParameterTask], Sequence[ParameterTask]]:
        """The works that can be stepped so, and the others.

        Args:
            works: tasks with states, whose tensors do not overlap.
        """
        if not works or not self._usable or not _all_plain(works):
            return [], works
        if self._all_fit(works):
            return works, []
        fitting = [self._all_fit([work]) for work in works]
        both = list(zip(works, fitting, strict=True))
        return [work for work, fits in both if fits], [work for work, fits in both if not fits]

    def advance(self, works: Sequence[ParameterTask]) -> None:
        """A step of each.

        Args:
            works: those that can be stepped so.
        """
        for t, some in _alike(works):
            self._advance(some, t)

    def advance_samples(self, samples: Sequence[SampledTask]) -> None:
        """A step of sampled elements, of which nothing but their tangents is kept.

        Args:
            samples: those that can be stepped so.
        """
        found = {id(sample.work): sample for sample in samples}
        for t, works in _alike([sample.work for sample in samples]):
            dtype = COMPUTE[works[0].parameter.dtype]
            most = min(_elements(), _SAMPLED)
            jobs = (found[id(w)].jobs(self.states, dtype, most) for w in works)
            self._run(works[0], t, itertools.chain.from_iterable(jobs))

    def _all_fit(self, works: Sequence[ParameterTask]) -> bool:
        """Whether tensors' elements lie one after the other, as all that belongs to them do."""
        parameters = [work.parameter for work in works]
        gradients = [work.gradient for work in works]
        if not all(map(Tensor.numel, parameters)) or any(map(Tensor.is_neg, parameters)):
            return False
        if any(map(Tensor.is_neg, gradients)) or any(map(Tensor._is_zerotensor, gradients)):
            return False
        states = [[w.state[name] for w in works if name in w.state] for name in self.states]
        dtypes, devices = {p.dtype for p in parameters}, {p.device for p in parameters}
        if len(dtypes) > 1 or len(devices) > 1 or parameters[0].is_meta:
            return len(works) > 1 and all(self._all_fit([work]) for work in works)
        compute = {COMPUTE[dtype] for dtype in dtypes}
        return (
            all(all(map(Tensor.is_contiguous, x)) for x in (parameters, gradients, *states))
            and {g.device for g in gradients} <= devices
            and all({x.dtype for x in column} <= compute for column in states)
            and all({x.device for x in column} <= devices for column in states)
            # What is kept of some elements only is no memory for a state of all.
            and all(
                w.state[name].shape == w.parameter.shape
                for name in self.states
                for w in works
                if name in w.state
            )
        )

    def _advance(self, works: list[ParameterTask], t: float) -> None:
        for work in works:
            for name in self.states:
                # A tangent is not there before the first step, which does not read it.
                if name not in work.state:
                    like, dtype = work.parameter.detach(), COMPUTE[work.parameter.dtype]
                    work.state[name] = torch.empty_like(
                        like, dtype=dtype, memory_format=torch.contiguous_format
                    )
        self._run(works[0], t, self._cut(works, COMPUTE[works[0].parameter.dtype]))
        for work in works:
            work.state["step"].fill_(t)

    def _run(self, first: ParameterTask, t: float, jobs: Iterator[Job]) -> None:
        """Do the jobs of tensors that are alike, of which one is given."""
        entry, hypers = self._step.entry, first.hypers
        keywords = dict(zip(entry.keywords, (hypers[h] for h in entry.hypers), strict=True))
        if entry.takes_step:
            keywords["t"] = t
        dtype = COMPUTE[first.parameter.dtype]

        def run(jobs: Iterator[Job]) -> None:
            # Calls in this mode do not look for what autograd might want. It ends with the step.
            with torch.inference_mode(), self._pool.buffers() as own:
                pieces = (piece for job in jobs for piece in job(own))
                self._step.call(pieces, own.like, dtype, **keywords)

        waiting = deque(jobs)
        if first.parameter.device.type == "cpu" and _each_has_its_own():
            piece_threads.shared(waiting, run)
        else:
            run(piece_threads.taken(waiting))

    def _cut(self, works: Sequence[ParameterTask], dtype: torch.dtype) -> Iterator[Job]:
        """The jobs of stepping some tensors.

        Args:
            works: of one dtype and device.
            dtype: the precision of the step.
        """
        on_cpu = works[0].parameter.device.type == "cpu"
        most = together = _elements() if on_cpu else _TOGETHER
        if on_cpu and _each_has_its_own():
            together = min(most, _SHORT)
            wanted = piece_threads.LEAST * torch.get_num_threads()
            if sum(work.parameter.numel() for work in works) < wanted * most:
                most = together
        small: list[ParameterTask] = []
        number = 0
        for work in works:
            size = work.parameter.numel()
            if size * _PART >= together:
                yield from self._of_one(work, dtype, most if on_cpu else size)
                continue
            if number + size > together:
                yield from self._of_some(small, dtype, together)
                small, number = [], 0
            small.append(work)
            number += size
        yield from self._of_some(small, dtype, together)

    def _of_one(self, work: ParameterTask, dtype: torch.dtype, most: int) -> Iterator[Job]:
        """The jobs of one tensor: its parts."""
        columns = (work.parameter.detach(), work.gradient, *(work.state[n] for n in self.states))
        parts = zip(*(x.view(-1).split(most) for x in columns), strict=True)
        whole = work.parameter.dtype is dtype and work.gradient.dtype is dtype
        for part in parts:
            yield partial(_as_it_is if whole else _converted, part, dtype)

    def _of_some(
        self, works: Sequence[ParameterTask], dtype: torch.dtype, most: int
    ) -> Iterator[Job]:
        """The jobs of small tensors."""
        if len(works) > 1:
            least = most if works[0].parameter.device.type == "cpu" else 0
            yield partial(self._together, works, dtype, least)
        elif works:
            yield from self._of_one(works[0], dtype, most)

    def _together(
        self, works: Sequence[ParameterTask], dtype: torch.dtype, least: int, own: Buffers
    ) -> Iterator[Sequence[Tensor]]:
        """Copies of small tensors, one after the other, as one piece."""
        parameters = [work.parameter.detach() for work in works]
        columns = [parameters, [work.gradient for work in works]]
        columns += ([w.state[name] for w in works] for name in self.states)
        flat, parts = own.packed(columns, dtype, least)
        for column, part in zip(columns, parts, strict=True):
            torch._foreach_copy_(part, column)
        yield flat
        for number, (column, part) in enumerate(zip(columns, parts, strict=True)):
            if number != 1:  # The gradient stays as it is.
                torch._foreach_copy_(column, part)


def _alike(works: Sequence[ParameterTask]) -> list[tuple[float, list[ParameterTask]]]:
    """Tasks that take the same step, of the same kind of tensors, and its number."""
    classes: dict[Any, list[ParameterTask]] = {}
    for work in works:
        parameter, t = work.parameter, float(work.state["step"])
        key = id(work.hypers), t, parameter.dtype, parameter.device
        classes.setdefault(key, []).append(work)
    return [(key[1] + 1, some) for key, some in classes.items()]


def _as_it_is(
    part: Sequence[Tensor], dtype: torch.dtype, own: Buffers
) -> Iterator[Sequence[Tensor]]:
    """A part of a tensor as a piece."""
    yield part


def _converted(
    part: Sequence[Tensor], dtype: torch.dtype, own: Buffers
) -> Iterator[Sequence[Tensor]]:
    """A part of a tensor that is stored in less precision than it is computed in."""
    theta, gradient, *states = part
    piece = theta.to(dtype)
    yield piece, gradient.to(dtype), *states
    theta.copy_(piece)


def _each_has_its_own() -> bool:
    """Whether each thread has pieces of its own on the CPU."""
    return torch.get_num_threads() <= piece_threads.MOST


def _elements() -> int:
    """The elements of a piece on the CPU."""
    return _ALONE if _each_has_its_own() else _EACH * min(torch.get_num_threads(), _THREADS)


def _all_plain(works: Sequence[ParameterTask]) -> bool:
    """Whether no tensor wraps others, nor is one of a compiler that looks at the step."""
    types = {type(x) for work in works for x in (work.parameter, work.gradient)}
    types |= {type(x) for work in works for x in work.state.values()}
    return types.issubset(PLAIN) and not torch.compiler.is_compiling()
