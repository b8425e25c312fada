"""The base of every compiled optimizer: a plain `torch.optim.Optimizer`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper, Program
from optdsl.runtime.build import Rule
from optdsl.runtime.checkpoint import drop_strangers, restored_bitwise, signed
from optdsl.runtime.hyperparameters import (
    check_keys,
    check_names,
    check_shared,
    check_sums,
    check_value,
)
from optdsl.runtime.learning import Block, Coefficient, blocks
from optdsl.runtime.pickling import RecipeType, blank, made_by_recipe

# The precision in which a parameter of each dtype is updated and its states are kept.
_COMPUTE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a specification.

    Attributes:
        program: the program that runs, tangents included.
        rule: its built functions.
        coefficients: the learned hyperparameters.
        order: "exact" (coefficients learn first, then act in the same step) or "overlapped".
        recipe: a function and arguments that make the same class again, for pickle.
    """

    program: Program
    rule: Rule
    coefficients: tuple[Coefficient, ...]
    order: str
    recipe: tuple[Callable[..., type[CompiledOptimizer]], tuple[Any, ...]]

    @functools.cached_property
    def bounds(self) -> dict[str, Interval]:
        """The bounds of learning by coefficient."""
        return {c.name: c.learned.bounds for c in self.coefficients}

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The learned hyperparameters, as they move."""
        return blocks(self.coefficients, self.program)


def tangent_key(hyper: str) -> str:
    """Where a parameter's state keeps the tangent by a hyperparameter."""
    return f"tangent/{hyper}"


class CompiledOptimizer(torch.optim.Optimizer, metaclass=RecipeType):
    """An optimizer compiled from a specification.

    Learned coefficients live in ``param_groups`` like every hyperparameter; all groups share
    them. The hyper-gradient of a coefficient at a step is the dot product of the gradient with
    the derivative of the previous update (Ozkara et al., 2024, section 3).
    """

    compiled: ClassVar[Compiled]
    _made = False

    def __init__(self, /, params: Any, **hypers: Any) -> None:
        """Make an optimizer.

        Args:
            params: parameters, named parameters, or parameter groups, as in torch. They must be
                real and of a floating dtype; float16 and bfloat16 keep their state in float32.
            **hypers: hyperparameters by their names in the specification.

        Raises:
            TypeError: for an unknown hyperparameter, or a value that is no number.
            ValueError: for a value out of bounds, weights that do not sum to one, or a parameter
                of another dtype.
        """
        declared = {h.name: h for h in self.compiled.program.hypers}
        check_names(type(self).__name__, hypers, declared)
        defaults = {name: hypers.get(name, h.default) for name, h in declared.items()}
        checked = {name: self._checked(declared[name], value) for name, value in defaults.items()}
        check_sums(type(self).__name__, self.compiled.program.simplexes, checked)
        for coefficient in self.compiled.coefficients:
            checked |= coefficient.defaults()
        super().__init__(params, checked)
        self._made = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the class, which pickles as its recipe, and the state."""
        if not made_by_recipe(type(self)):
            return super().__reduce_ex__(protocol)
        return blank, (type(self),), self.__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over unpickled or loaded state; entries of learning that are missing start anew."""
        super().__setstate__(state)
        drop_strangers(self)
        for coefficient in self.compiled.coefficients:
            for group in self.param_groups:
                coefficient.adopt(group)
        self._made = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set is as in the constructor, or as learned since.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group is a dict, not {type(param_group).__name__}")
        name = type(self).__name__
        check_keys(name, param_group, [h.name for h in self.compiled.program.hypers])
        for hyper in self.compiled.program.hypers:
            if hyper.name in param_group:
                param_group[hyper.name] = self._checked(hyper, param_group[hyper.name])
        if self._made:
            # What was learned so far, or set by hand; the constructor's groups all start alike.
            for coefficient in self.compiled.coefficients:
                for key in (coefficient.name, *coefficient.defaults()):
                    self.defaults[key] = self.param_groups[0][key]
        super().add_param_group(param_group)
        try:
            check_sums(name, self.compiled.program.simplexes, param_group)
            check_shared(name, self.compiled.bounds, self.param_groups)
            for parameter in param_group["params"]:
                _check_dtype(name, parameter)
        except ValueError:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The state as of torch, and under "specification" the name of the rule."""
        return signed(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, every tensor in the dtype in which it was saved.

        Raises:
            ValueError: when the state is another optimizer's, or of other groups; nothing changes.
        """
        with restored_bitwise(self):
            super().load_state_dict(state_dict)

    def metrics(self) -> dict[str, float]:
        """Learned coefficients and their last hyper-gradients, for any logger.

        Returns:
            ``{"rho": ..., "hypergradient/rho": ...}``; a hyper-gradient is as measured, before
            the clip, and 0 before the first; empty when nothing is learned.
        """
        found: dict[str, float] = {}
        for coefficient in self.compiled.coefficients:
            for key in (coefficient.name, coefficient.hypergradient_key):
                found[key] = float(self.param_groups[0][key])
        return found

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with the gradients that the parameters hold.

        Args:
            closure: evaluates the model again and returns the loss.

        Raises:
            RuntimeError: for a sparse gradient; nothing has changed.
            ValueError: for a hyperparameter that was set out of bounds, or weights that do not
                sum to one; nothing has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        self._check_step(work)
        parameters = [p for ps in work for p in ps]
        taken = max((int(state["step"]) for state in self.state.values() if state), default=0)
        hypergradients = self._hypergradients(parameters)
        if self.compiled.order == "exact":
            self._learn(hypergradients, taken)
        for group, ps in zip(self.param_groups, work, strict=True):
            hypers = {h.name: float(group[h.name]) for h in self.compiled.program.hypers}
            for parameter in ps:
                self._advance(parameter, hypers)
        if self.compiled.order == "overlapped":
            self._learn(hypergradients, taken)
        return loss

    def _checked(self, hyper: Hyper, value: Any) -> float:
        return check_value(type(self).__name__, hyper, value, self.compiled.bounds)

    def _check_step(self, work: list[list[Tensor]]) -> None:
        name = type(self).__name__
        for group in self.param_groups:
            for hyper in self.compiled.program.hypers:
                self._checked(hyper, group[hyper.name])
            check_sums(name, self.compiled.program.simplexes, group)
        check_shared(name, self.compiled.bounds, self.param_groups)
        for parameter in (p for ps in work for p in ps):
            assert parameter.grad is not None
            if parameter.grad.layout is not torch.strided:
                raise RuntimeError(
                    f"{name} does not take sparse gradients; make the layer with sparse=False"
                )

    def _hypergradients(self, parameters: Iterable[Tensor]) -> dict[str, float]:
        """The sum over all tensors of <gradient, pending tangent> by coefficient.

        Dot products are accumulated in double precision; the host waits once a device.
        """
        sums: dict[torch.device, dict[str, Tensor]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            keys = {c.name: tangent_key(c.name) for c in self.compiled.coefficients}
            if not any(key in state for key in keys.values()):
                continue
            assert parameter.grad is not None
            accurate = torch.float32 if parameter.device.type == "mps" else torch.float64
            gradient = parameter.grad.reshape(-1).to(accurate)
            total = sums.setdefault(parameter.device, {})
            for name, key in keys.items():
                if key in state:
                    product = torch.dot(gradient, state[key].reshape(-1).to(accurate))
                    total[name] = total[name] + product if name in total else product
        found: dict[str, float] = {}
        for total in sums.values():
            for name, value in zip(total, torch.stack(list(total.values())).tolist(), strict=True):
                found[name] = found.get(name, 0.0) + value
        return found

    def _learn(self, hypergradients: dict[str, float], taken: int) -> None:
        for block in self.compiled.blocks:
            block.update(self.param_groups, hypergradients, taken)

    def _advance(self, parameter: Tensor, hypers: dict[str, float]) -> None:
        """One step of one tensor."""
        assert parameter.grad is not None
        rule, state = self.compiled.rule, self.state[parameter]
        compute = _COMPUTE[parameter.dtype]
        theta, gradient = parameter.detach().to(compute), parameter.grad.to(compute)
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            for name, value in rule.initialize(theta, gradient, {}, hypers, 1.0).items():
                _keep(state, name, value)
        for name, value in state.items():
            # The model may have become more precise since (`model.double()`).
            if torch.promote_types(value.dtype, compute) is not value.dtype:
                state[name] = value.to(compute)
        state["step"] += 1
        results = rule.step(theta, gradient, state, hypers, float(state["step"]))
        # A result may be one of the inputs itself (`g_prev' = g`, or two states that swap).
        inputs = {id(theta), id(gradient), *(id(v) for v in state.values())}
        results = {k: v.clone() if id(v) in inputs else v for k, v in results.items()}
        parameter.copy_(results.pop("theta"))
        for name, value in results.items():
            _keep(state, name, value)


def _keep(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Copy a value into memory that is the state's own."""
    if name not in state:
        # The value may be a view of one number, or the same tensor as another state.
        state[name] = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    state[name].copy_(value)


def _check_dtype(optimizer: str, parameter: Tensor) -> None:
    if parameter.is_complex():
        raise ValueError(
            f"{optimizer} does not take complex parameters; optimize torch.view_as_real(p)"
        )
    if parameter.dtype not in _COMPUTE:
        known = ", ".join(str(d).removeprefix("torch.") for d in _COMPUTE)
        raise ValueError(f"{optimizer} takes parameters of {known}, not {parameter.dtype}")
