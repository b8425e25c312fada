"""Steps of an elementwise rule for pieces of tensors: parts of large ones, small ones together.

The operations of a step run over one piece after the other. On a CPU a piece is so small that what
is computed for it stays in the cache; a large tensor is cut, and small ones are copied into one
piece, so that an operation is one call for all of them. Elsewhere large tensors are pieces.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Program
from optdsl.ir.storage import stored
from optdsl.runtime.build.python_modules import Function
from optdsl.runtime.core.tasks import COMPUTE, PLAIN, ParameterTask

# On a CPU, the elements of a piece: for one thread, and for each of several. Torch divides no
# operation among threads that has fewer elements than that.
_ALONE, _EACH = 24576, 32768
# So many threads share a piece at most.
_THREADS = 16
# Elsewhere, small tensors are taken together up to so many elements.
_TOGETHER = 1 << 20
# Tensors of fewer elements than this part of a piece are copied into one with others.
_PART = 4

# Memory for so many lengths of pieces is kept.
_LENGTHS = 8
# So many layouts of small tensors are kept: another one comes with each set of those that have a
# gradient.
_PACKS = 64

# The memory of copies, and, for each of them, its parts.
_Packed = tuple[Sequence[Tensor], list[list[Tensor]]]


class _Memory(threading.local):
    """Memory that is used in every step and belongs to none; each thread has its own.

    Attributes:
        between: for values in between, by dtype, number and length.
        copies: for copies of small tensors.
        packs: how small tensors were last laid out there.
    """

    def __init__(self) -> None:
        self.between: dict[tuple[torch.dtype, int, int], Sequence[Tensor]] = {}
        self.copies: Tensor | None = None
        self.packs: dict[Any, _Packed] = {}


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
        self._own = _Memory()

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
        classes: dict[Any, list[ParameterTask]] = {}
        for work in works:
            parameter, t = work.parameter, float(work.state["step"])
            key = id(work.hypers), t, parameter.dtype, parameter.device
            classes.setdefault(key, []).append(work)
        for key, some in classes.items():
            self._advance(some, key[1] + 1)

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
        entry, hypers = self._step.entry, works[0].hypers
        keywords = dict(zip(entry.keywords, (hypers[h] for h in entry.hypers), strict=True))
        if entry.takes_step:
            keywords["t"] = t
        dtype = COMPUTE[works[0].parameter.dtype]
        self._step.call(self._cut(works, dtype), self._memory_like, dtype, **keywords)
        for work in works:
            work.state["step"].fill_(t)

    def _cut(
        self, works: Sequence[ParameterTask], dtype: torch.dtype
    ) -> Iterator[Sequence[Tensor]]:
        """The pieces of some tensors; what is written to one is stored when the next is asked for.

        Args:
            works: of one dtype and device.
            dtype: the precision of the step.
        """
        on_cpu = works[0].parameter.device.type == "cpu"
        most = _elements() if on_cpu else _TOGETHER
        small: list[ParameterTask] = []
        number = 0
        for work in works:
            size = work.parameter.numel()
            if size * _PART >= most:
                yield from self._of_one(work, dtype, most if on_cpu else size)
                continue
            if number + size > most:
                yield from self._together(small, dtype)
                small, number = [], 0
            small.append(work)
            number += size
        if len(small) > 1:
            yield from self._together(small, dtype)
        elif small:
            yield from self._of_one(small[0], dtype, most)

    def _of_one(
        self, work: ParameterTask, dtype: torch.dtype, most: int
    ) -> Iterator[Sequence[Tensor]]:
        """The pieces of one tensor: it itself, part by part."""
        columns = (work.parameter.detach(), work.gradient, *(work.state[n] for n in self.states))
        parts = [x.view(-1).split(most) for x in columns]
        if work.parameter.dtype is dtype and work.gradient.dtype is dtype:
            yield from zip(*parts, strict=True)
            return
        for theta, gradient, *states in zip(*parts, strict=True):
            # What is computed in more precision than it is stored in is converted.
            own = theta.to(dtype)
            yield own, gradient.to(dtype), *states
            theta.copy_(own)

    def _together(
        self, works: Sequence[ParameterTask], dtype: torch.dtype
    ) -> Iterator[Sequence[Tensor]]:
        """Copies of small tensors, one after the other, as one piece."""
        if not works:
            return
        parameters = [work.parameter.detach() for work in works]
        columns = [parameters, [work.gradient for work in works]]
        columns += ([w.state[name] for w in works] for name in self.states)
        flat, parts = self._packed(columns, dtype)
        for column, part in zip(columns, parts, strict=True):
            torch._foreach_copy_(part, column)
        yield flat
        for number, (column, part) in enumerate(zip(columns, parts, strict=True)):
            if number != 1:  # The gradient stays as it is.
                torch._foreach_copy_(column, part)

    def _packed(self, columns: list[list[Tensor]], dtype: torch.dtype) -> _Packed:
        """Memory for copies of small tensors, and the parts of it that have their shapes."""
        shapes, device = tuple(x.shape for x in columns[0]), columns[0][0].device
        key, own = (shapes, dtype, device), self._own
        if key not in own.packs:
            # What is kept must serve outside an inference mode, too.
            with torch.inference_mode(False):
                own.packs[key] = self._pack(shapes, (len(columns), dtype, device))
        return own.packs[key]

    def _pack(
        self, shapes: Sequence[torch.Size], kind: tuple[int, torch.dtype, torch.device]
    ) -> _Packed:
        own, (number, dtype, device) = self._own, kind
        sizes = [shape.numel() for shape in shapes]
        wanted = number, max(sum(sizes), _elements() if device.type == "cpu" else 0)
        copies = own.copies
        if copies is None or (copies.shape, copies.dtype, copies.device) != (wanted, dtype, device):
            own.packs.clear()
            copies = own.copies = torch.empty(wanted, dtype=dtype, device=device)
        elif len(own.packs) >= _PACKS:
            own.packs.clear()
        flat = copies[:, : sum(sizes)].unbind()
        parts = [
            [x.view(s) for x, s in zip(row.split_with_sizes(sizes), shapes, strict=True)]
            for row in flat
        ]
        return flat, parts

    def _memory_like(self, piece: Tensor, number: int) -> Sequence[Tensor]:
        """Memory for values in between, with the elements of a piece."""
        if piece.device.type != "cpu":
            return piece.new_empty((number, len(piece))).unbind()
        key, between = (piece.dtype, number, len(piece)), self._own.between
        if key not in between:
            if len(between) > _LENGTHS:
                between.clear()
            with torch.inference_mode(False):
                between[key] = piece.new_empty((number, len(piece))).unbind()
        return between[key]


def _elements() -> int:
    """The elements of a piece on the CPU."""
    threads = min(torch.get_num_threads(), _THREADS)
    return _ALONE if threads == 1 else _EACH * threads


def _all_plain(works: Sequence[ParameterTask]) -> bool:
    """Whether no tensor wraps others, nor is one of a compiler that looks at the step."""
    types = {type(x) for work in works for x in (work.parameter, work.gradient)}
    types |= {type(x) for work in works for x in work.state.values()}
    return types.issubset(PLAIN) and not torch.compiler.is_compiling()
