"""Tensors of which hyper-gradients are estimated from a sample of the elements.

What is kept for a pending step has one number for each sampled element: it is of one dimension, in
the row-major order of the elements. In two cases it has the shape of the parameter: where every
element is sampled, and for a shard of a tensor, so that distributed checkpoints can cut it as they
cut the parameter. Of a shard's, only the sampled elements count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optdsl.plan import Plan, elementwise
from optdsl.runtime.build.python_modules import Rule
from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.tasks import COMPUTE, ParameterTask
from optdsl.runtime.engines.sampled.choice import Sample, sample_of
from optdsl.runtime.engines.sampled.pieces import SampledTask, sampled_task


class Measured(NamedTuple):
    """What a hyper-gradient is measured from: the sampled elements of a tensor.

    Attributes:
        gradient: of these elements; shaped like the tensor where every element is sampled.
        tangents: the same of tangents, by the keys of states.
        weight: what their dot products count.
    """

    gradient: Tensor
    tangents: dict[str, Tensor]
    weight: int


def gathered(x: Tensor, sample: Sample) -> Tensor:
    """The sampled elements of a tensor, shape (count,); the tensor where all are sampled."""
    if sample.whole:
        return x
    if without_values(x):
        return x.reshape(-1)[: sample.count].clone()  # as many elements
    return x.reshape(-1).index_select(0, sample.index(x.device))


def kept_part(x: Tensor, sample: Sample, name: str) -> Tensor:
    """The sampled elements of what is kept of a tensor for a pending step.

    Raises:
        RuntimeError: for something that has neither as many elements as the sample nor as many as
            the tensor.
    """
    if x.numel() == sample.size:
        return gathered(x, sample)
    if x.numel() != sample.count:
        raise RuntimeError(
            f"{name} has {x.numel()} elements, and of its parameter {sample.count} of "
            f"{sample.size} are sampled; has the parameter changed since? Delete its entry of "
            f"optimizer.state, which then starts anew"
        )
    return x


def scattered(x: Tensor, values: Tensor, sample: Sample) -> Tensor:
    """A copy of a tensor, with other numbers in the place of its sampled elements."""
    if without_values(x):
        return x.clone()
    flat = x.reshape(-1).index_copy(0, sample.index(x.device), values.reshape(-1).to(x.dtype))
    return flat.reshape(x.shape)


class SampledTensors:
    """The samples of the tensors of a rule, as steps of PyTorch code see them.

    Attributes:
        size: hyper-gradients are estimated from one in so many elements.
    """

    def __init__(self, plan: Plan) -> None:
        """See the class; a plan may learn from all elements."""
        self.size, self._kept, self._traces = plan.sample, plan.kept, plan.traces
        self._alone = plan.outside is not None and elementwise(plan.outside)

    def of(self, work: ParameterTask) -> Sample | None:
        """The sample of a tensor; None where every element is sampled."""
        if self.size == 1:
            return None
        found = sample_of(work.parameter.shape, self.size, work.place)
        return None if found.whole else found

    def measured(self, work: ParameterTask, names: Iterable[str]) -> Measured:
        """What hyper-gradients are measured from, with the tangents of these names."""
        sample, state = self.of(work), work.state
        if sample is None:
            weight = 1
            if work.place is not None:
                weight = sample_of(work.parameter.shape, self.size, work.place).weight
            return Measured(work.gradient, {name: state[name] for name in names}, weight)
        parts = {name: kept_part(state[name], sample, name) for name in names}
        return Measured(gathered(work.gradient, sample), parts, sample.weight)

    def kept(self, x: Tensor, work: ParameterTask) -> Tensor:
        """What is kept of a tangent of all elements of a tensor."""
        sample = self.of(work)
        if sample is None:
            return x
        part = gathered(x, sample)
        return part if work.place is None else scattered(torch.zeros_like(x), part, sample)

    def divided(
        self, works: Sequence[ParameterTask]
    ) -> tuple[Sequence[ParameterTask], Sequence[ParameterTask]]:
        """The tasks of tensors of which a part is sampled, and those of which every element is."""
        if self.size == 1:
            return [], works
        parts = [work for work in works if self.of(work) is not None]
        return parts, [work for work in works if self.of(work) is None]

    def tasks(
        self, works: Sequence[ParameterTask]
    ) -> tuple[list[SampledTask], list[ParameterTask]]:
        """Tasks of sampled elements to be stepped piece by piece, and those that cannot be so.

        Args:
            works: tasks of tensors of which a part is sampled, whose elements lie one after the
                other, as those of all that belongs to them do.
        """
        found, others = [], []
        for work in works:
            task = sampled_task(work, self.of(work), self._kept, self._traces)
            if task is None:
                others.append(work)
            else:
                found.append(task)
        return found, others

    def copied(self, work: ParameterTask, states: Iterable[str]) -> ParameterTask:
        """A task of a copy of the sampled elements, of a tensor of which a part is sampled.

        Args:
            work: the task of the tensor.
            states: the names of the states that are copied, beside tangents that a step reads.
        """
        sample = self.of(work)
        assert sample is not None
        state = {name: gathered(work.state[name], sample) for name in states}
        parameter = gathered(work.parameter.detach(), sample)
        gradient = gathered(work.gradient, sample)
        for name in self._traces:
            state[name] = kept_part(work.state[name], sample, name).to(COMPUTE[parameter.dtype])
        state["step"] = work.state["step"].clone()
        return work._replace(parameter=parameter, gradient=gradient, state=state)

    def laid_out(self, x: Tensor, work: ParameterTask) -> Tensor:
        """What is kept of numbers of the sampled elements; for a shard, in the shard's shape."""
        sample = self.of(work)
        if sample is None or work.place is None:
            return x
        blank = torch.zeros(work.parameter.shape, dtype=x.dtype, device=x.device)
        return scattered(blank, x, sample)

    def read(self, state: dict[str, Tensor], work: ParameterTask) -> dict[str, Tensor]:
        """The state of a tensor as a step reads it.

        Where elements have to do with each other, that is a step of all of them: tangents that it
        reads have zeros for those of which nothing is kept.
        """
        sample = None if self._alone else self.of(work)
        if sample is None:
            return state
        found = dict(state)
        for name in self._traces:
            if state[name].numel() != sample.size:
                zeros = state[name].new_zeros(work.parameter.shape)
                found[name] = scattered(zeros, kept_part(state[name], sample, name), sample)
        return found

    def step(
        self,
        rule: Rule,
        work: ParameterTask,
        t: float,
        given: tuple[Tensor, Tensor, dict[str, Tensor]],
        out: Tensor | None,
        written: Callable[[Tensor, Tensor, str], Tensor],
    ) -> dict[str, Tensor]:
        """The results of a step, with tangents of sampled elements only, by their names.

        Args:
            rule: the functions of the rule.
            work: the parameter.
            t: the number of the step.
            given: the parameter, the gradient and the states, as the rule reads them.
            out: memory for the new parameter; None for none.
            written: gives a result of the rule the shape of the parameter.
        """
        sample, rest = self.of(work), (work.hypers, t, out, work.draws)
        theta, gradient, held = given
        if sample is None:
            return rule.step(theta, gradient, held, *rest)
        if not self._alone or rule.outside is None:
            results = rule.step(theta, gradient, held, *rest)
            whole = {n: written(results[n], work.parameter, n) for n in self._kept}
            return results | {name: self.kept(x, work) for name, x in whole.items()}
        # The sample first, for the step may write into the parameter.
        read = rule.step.entry.states
        own = {
            name: kept_part(x, sample, name) if name in self._traces else gathered(x, sample)
            for name, x in held.items()
            if name in read
        }
        inputs = gathered(theta, sample), gathered(gradient, sample)
        sampled = rule.step(*inputs, own, work.hypers, t)
        parts = {name: sampled[name] for name in self._kept}
        results = rule.outside(theta, gradient, held, *rest)
        return results | {name: self.laid_out(x, work) for name, x in parts.items()}
