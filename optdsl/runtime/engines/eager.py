"""The engine for emitted PyTorch code: any device, one tensor after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from optdsl.artifact import Artifact
from optdsl.ir.stacks import ELEMENTS, stackable
from optdsl.learning import SQUARE, square_keys
from optdsl.plan.keys import tangent
from optdsl.runtime.build.python_modules import Rule, build
from optdsl.runtime.core.owned_numbers import number_of, without_values
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import (
    COMPUTE,
    PLAIN,
    HyperGradients,
    ParameterTask,
    Shape,
    accurate,
    cosines,
    counted_part,
    dot,
    keep,
    normalizes,
    unwrapped,
)
from optdsl.runtime.engines.overlaps import apart, once
from optdsl.runtime.engines.pieces import Pieces
from optdsl.runtime.engines.reading import Reading
from optdsl.runtime.engines.sampled.choice import smallest
from optdsl.runtime.engines.sampled.tensors import Measured, SampledTensors
from optdsl.runtime.engines.stacks import divided, stacked
from optdsl.runtime.engines.state_shapes import StateShapes
from optdsl.runtime.engines.storage import Storage


class EagerEngine:
    """Runs the eager backend's code; see `optdsl.runtime.core.tasks.Engine`."""

    def __init__(self, artifact: Artifact) -> None:
        """Build what was compiled."""
        program, self.plan = artifact.program, artifact.plan
        self._reading, self._samples = Reading(program), SampledTensors(self.plan)
        # A stack has no sample of its own: its matrices are taken whole.
        whole = self._samples.size == 1 or smallest(self._samples.size) > ELEMENTS
        self._stacks = whole and stackable(program)
        self._storage = Storage(program)
        self._shapes = StateShapes(program)
        self.shape = Shape(self.plan)
        self._rule = self._built(artifact)
        by_pieces = self._rule.pieces, self._rule.pieces_outside
        made = (None if f is None else Pieces(f, program) for f in by_pieces)
        self._pieces, self._outside = made
        self._tangents = {t.hyper: tangent(t.hyper) for t in program.tangents}
        self._cosines = cosines(program)
        squares = (key for name in self._cosines for key in square_keys(name))
        self._normalizes = normalizes(program)
        self._sums = (*self._tangents, *squares, *([SQUARE] if self._normalizes else []))

    def _built(self, artifact: Artifact) -> Rule:
        """The functions of a rule: how states start, and the step."""
        return build(artifact.module)

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """The dot products of the gradients with the stored tangents; one wait for the device."""
        if not works or not self._tangents:
            return {}
        self._shapes.check(works)
        works = once(apart(_plain(works), known))[0]
        total = self._summed(works, self._products)
        if without_values(total):
            return {}
        sums = total.tolist()
        if any(map(math.isnan, sums)):
            # Looked at only now, so that other steps need not.
            sums = self._summed(works, self._counted_products).tolist()
        return dict(zip(self._sums, sums, strict=True))

    @staticmethod
    def _summed(
        works: Sequence[ParameterTask], products: Callable[[ParameterTask], torch.Tensor]
    ) -> torch.Tensor:
        # One after the other: a tensor that adds nothing leaves every bit as it was.
        total = products(works[0])
        for work in works[1:]:
            total = total + products(work)
        return total

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """A step of each."""
        if not works:
            return
        with _in_its_precision(works[0].parameter):
            works = _plain(works)
            found = apart(works, known)
            self._advance_all(found, found is works)

    def _advance_all(self, works: Sequence[ParameterTask], separate: bool) -> None:
        self._shapes.check(works)
        self.begin(works)
        if separate and self._pieces is not None:
            works = self._advance_by_pieces(self._pieces, works)
        stacks, works = divided(works) if self._stacks else ([], works)
        for some in stacks:
            self._advance_together(some)
        for work in works:
            # One by one, and with counts of their own: as plain as with torch.
            t = number_of(work.state["step"]) + 1
            self._advance(work, t)
            work.state["step"].fill_(t)

    def _advance_by_pieces(
        self, pieces: Pieces, works: Sequence[ParameterTask]
    ) -> Sequence[ParameterTask]:
        """A step of the works that can be stepped by pieces; the others."""
        sampled, whole = self._samples.divided(works)
        fitting, others = pieces.divided(whole)
        pieces.advance(fitting)
        if not sampled or self._outside is None:
            return [*others, *sampled]
        fitting, rest = self._outside.divided(sampled)
        # The sample first, for the step writes into the states.
        tasks, copied = self._samples.tasks(fitting)
        pieces.advance_samples(tasks)
        copies = [self._samples.copied(work, self._outside.states) for work in copied]
        pieces.advance(copies)
        for work, copy in zip(copied, copies, strict=True):
            for name in self.plan.kept:
                keep(work.state, name, self._samples.laid_out(copy.state[name], work))
        self._outside.advance(fitting)
        return [*others, *rest]

    def begin(self, works: Sequence[ParameterTask]) -> None:
        """Give each parameter that has no state the states before its first step."""
        for work in works:
            if not work.state:
                with _in_its_precision(work.parameter):
                    self._start(work)
            for name in self.plan.traces - work.state.keys():
                compute = self._storage.compute(work.parameter)
                zeros = torch.zeros_like(work.parameter, dtype=compute)
                keep(work.state, name, self._samples.kept(zeros, work))

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """One after the other."""
        self.advance(works, known)

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Both."""
        sums = self.complete(works, known)
        self.advance(works, known)
        return sums

    def _counted_products(self, work: ParameterTask) -> torch.Tensor:
        found = self._samples.measured(work, self._tangents.values())
        parts = {k: counted_part(found.gradient, x) for k, x in found.tangents.items()}
        return self._multiplied(found._replace(tangents=parts))

    def _products(self, work: ParameterTask) -> torch.Tensor:
        return self._multiplied(self._samples.measured(work, self._tangents.values()))

    def _multiplied(self, found: Measured) -> torch.Tensor:
        # Converted once for all products.
        gradient, tangents, weight = accurate(found.gradient), found.tangents, found.weight
        products = [dot(gradient, tangents[k]) for k in self._tangents.values()]
        for x in (tangents[self._tangents[name]] for name in self._cosines):
            products += [dot(gradient, gradient), dot(x, x)]
        products += [dot(gradient, gradient)] if self._normalizes else []
        total = torch.stack(products)
        return total if weight == 1 else total * weight

    def _start(self, work: ParameterTask) -> None:
        theta, gradient = self._inputs(work)
        work.state["step"] = torch.zeros((), dtype=torch.float64, device="cpu")
        initial = self._rule.initialize(theta, gradient, {}, work.hypers, 1.0, draws=work.draws)
        for name, start in initial.items():
            if name not in self.plan.kept:
                own = self._reading.written(start, work.parameter, name)
                self._storage.write(name, own, work, 0.0)
        self._storage.begin(work)

    def _advance(self, work: ParameterTask, t: float) -> None:
        if self._reading.nothing(work.parameter):
            return
        state, storage = work.state, self._storage
        theta, gradient = self._inputs(work)
        for name, kept in state.items():
            # The model may have become more precise since (`model.double()`).
            least = storage.kept(name, work.parameter)
            if torch.promote_types(kept.dtype, least) is not kept.dtype:
                state[name] = kept.to(least)
        decoded = storage.states(state, storage.compute(work.parameter))
        held = self._reading.states(self._samples.read(decoded, work), work.parameter)
        out = theta if _is_in_place(theta, work.parameter) else None
        written, given = self._reading.written, (theta, gradient, held)
        results = self._samples.step(self._rule, work, t, given, out, written)
        parameter = results.pop("theta")
        if storage.any:
            # What a step leaves as it is keeps its buffers, to the bit.
            results = {k: v for k, v in results.items() if v is not held.get(k)}
        # A result may be one of the inputs itself (`g_prev' = g`, or two states that swap), or read
        # the memory of one (`L' = transpose(theta)`, or one number for every element).
        memory = set(map(_memory, (theta, gradient, *held.values())))
        results = {k: v.clone() if _memory(v) in memory else v for k, v in results.items()}
        if parameter is not out and not (storage.any and parameter is theta):
            storage.write_theta(written(parameter, work.parameter), work, t)
        for name, result in results.items():
            storage.write(name, written(result, work.parameter, name), work, t)

    def _advance_together(self, works: Sequence[ParameterTask]) -> None:
        """A step of matrices that are alike."""
        t = number_of(works[0].state["step"]) + 1
        whole = stacked(works)
        compute = COMPUTE[whole.parameter.dtype]
        held = {
            name: x.to(torch.promote_types(x.dtype, compute)) for name, x in whole.state.items()
        }
        theta, gradient = whole.parameter.to(compute), whole.gradient.to(compute)
        results = self._rule.step(theta, gradient, held, whole.hypers, t)
        parameters = results.pop("theta").unbind(0)
        for number, work in enumerate(works):
            work.parameter.copy_(parameters[number])
            for name, result in results.items():
                # A tangent is not there before the first step.
                if name in held and work.state[name].dtype is not held[name].dtype:
                    work.state[name] = work.state[name].to(held[name].dtype)
                keep(work.state, name, result[number])
            work.state["step"].fill_(t)

    def _inputs(self, work: ParameterTask) -> tuple[torch.Tensor, torch.Tensor]:
        """The parameter and the gradient as the rule reads them, in the precision of a step."""
        self._storage.check(work.parameter)
        read, compute = self._reading.read, self._storage.compute(work.parameter)
        return read(self._storage.theta(work, compute)), read(work.gradient).to(compute)


def _is_in_place(theta: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Whether a step may write the new parameter into what it reads as the old one."""
    plain = type(parameter) in PLAIN and not without_values(parameter)
    return (
        plain
        and not parameter.is_neg()
        and theta.dtype is parameter.dtype
        and theta.data_ptr() == parameter.data_ptr()
    )


def _in_its_precision(parameter: torch.Tensor) -> AbstractContextManager[object]:
    """Within, products on the device of a parameter are not taken in what autocast chooses."""
    device = parameter.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _memory(x: torch.Tensor) -> int | None:
    """What tensors that share memory have in common; None for those that have no memory."""
    # Autograd's zeros have none until somebody writes to them.
    without = type(x) not in PLAIN or without_values(x) or x._is_zerotensor()
    return None if without else x.untyped_storage().data_ptr()


def _plain(works: Sequence[ParameterTask]) -> Sequence[ParameterTask]:
    """The works; a gradient that wraps tensors is copied where its parameter is a plain tensor.

    So states and sums are plain tensors, too.
    """
    if all(type(work.gradient) is torch.Tensor for work in works):
        return works
    return [
        work._replace(gradient=unwrapped(work.gradient)) if type(work.parameter) in PLAIN else work
        for work in works
    ]
