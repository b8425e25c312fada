"""The base of every compiled optimizer: a plain `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from optdsl.runtime.checkpoint import evaluated, inert_step, migration, observed
from optdsl.runtime.checkpoint.foreign import check_mapping
from optdsl.runtime.checkpoint.loading import drop_strangers, restored_bitwise, signed
from optdsl.runtime.core.hints import HINTS, check_hints, taken_out
from optdsl.runtime.core.hyperparameters import (
    check_keys,
    check_maximize,
    check_names,
    check_shared,
    check_sums,
    check_value,
)
from optdsl.runtime.core.owned_numbers import separated
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS
from optdsl.runtime.device.coefficient_memory import on_the_host
from optdsl.runtime.device.device_step import device_step_of
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.drawing import SEED, check_group, seeded
from optdsl.runtime.torch_api import (
    completed_state as completing,
    evaluating,
    host_step,
    observing,
    totals,
)
from optdsl.runtime.torch_api.arguments import (
    Betas,
    drop_options_that_are_off,
    gradients,
    place,
    shown,
    spread_into,
)
from optdsl.runtime.torch_api.empty_groups import NoParameters
from optdsl.runtime.torch_api.flattened import check_flattened, packed, unpacked
from optdsl.runtime.torch_api.given import Inputs, given
from optdsl.runtime.torch_api.opaque_step import make_step_opaque
from optdsl.runtime.torch_api.overwritten import Overwritten
from optdsl.runtime.torch_api.partitioned import check_partitioned, join_partition
from optdsl.runtime.torch_api.pickling import RecipeType, blank, made_by_recipe
from optdsl.runtime.torch_api.repeated import Repeated

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class CompiledOptimizer(LearningOptimizer, metaclass=RecipeType):
    """An optimizer compiled from a specification.

    Learned coefficients live in ``param_groups`` like every hyperparameter; all groups share
    those that are learned for the whole optimizer. One that is learned for each tensor is in the
    tensor's state, and its group has where tensors start. The hyper-gradient of a coefficient at a
    step is the dot product of the gradient with the derivative of the previous update (Ozkara et
    al., 2024, section 3).
    """

    _made = False
    # Whether a step was taken since this was made or loaded, and the parameters that have a state
    # and have taken none; None for any of them.
    _begun = False
    _blank: tuple[Tensor, ...] | None = None

    def __init__(
        self,
        /,
        params: Any,
        *positional: Any,
        maximize: bool = False,
        process_group: Any = None,
        seed: Any = None,
        **hypers: Any,
    ) -> None:
        """Make an optimizer.

        Args:
            params: parameters, named parameters, or parameter groups, as in torch. Those that get
                gradients must be float16, bfloat16, float32 or float64; the first two keep their
                state in float32. Groups may have keys of the user's own.
            *positional: the learning rate, for a rule that has ``lr``.
            maximize: whether to go up the gradients; coefficients then learn what raises the loss.
            process_group: the ranks whose optimizers are parts of one, such as those of a pipeline;
                their hyper-gradients are added up. It can also be set later. DTensors,
                DistributedDataParallel and ZeroRedundancyOptimizer need none.
            seed: of what a rule draws at random, a whole number in [0, 2^64); 0 by default.
            **hypers: hyperparameters by their names in the specification; ``betas`` stands for
                beta1, beta2 and so on. One that is not learned may be a tensor of one element,
                which every step reads anew. ``foreach``, ``fused`` and ``capturable`` are kept in
                the groups and change nothing. ``amsgrad=False`` and ``nesterov=False`` are taken
                by rules without these.

        Raises:
            TypeError: for an unknown hyperparameter, a value that is no number, or the seed of a
                rule that draws none.
            ValueError: for a value out of bounds, weights that do not sum to one, a
                hyperparameter that requires gradients, or ``differentiable=True``.
        """
        declared = {h.name: h for h in self.compiled.program.hypers}
        name, betas = type(self).__name__, self.compiled.betas
        place(name, positional, hypers, declared)
        hints = taken_out(name, hypers, declared)
        drop_options_that_are_off(name, self.compiled.program, hypers)
        spread_into(name, hypers, betas)
        if betas:
            hypers.pop("betas", None)
        check_names(name, hypers, declared)
        defaults = {key: hypers.get(key, h.default) for key, h in declared.items()}
        checked: dict[str, Any] = {
            k: check_value(name, declared[k], v, self.compiled.bounds) for k, v in defaults.items()
        }
        check_sums(name, self.compiled.program.simplexes, checked)
        checked |= self.compiled.scopes.defaults()
        if betas:
            checked["betas"] = tuple(checked[beta] for beta in betas)
        checked["maximize"] = check_maximize(name, maximize)
        checked |= hints | seeded(name, seed, self.compiled.draws)
        self._known = StepCache()
        self.process_group = process_group
        join_partition(self)
        self._betas = Betas(name, betas)
        self._overwritten = Overwritten(name, (c.name for c in self.compiled.coefficients))
        super().__init__(params, checked)
        make_step_opaque(type(self))
        self._made = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the class, which pickles as its recipe, and the state."""
        self._betas.read(self.param_groups)
        if not made_by_recipe(type(self)):
            return super().__reduce_ex__(protocol)
        return blank, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        """As of torch, what was observed, whether it is a rank's share, and the mode."""
        found: dict[str, Any] = super().__getstate__()
        names = ("_observed", "_partitioned", "_evaluating")
        kept = {name: getattr(self, name) for name in names}
        return found | {key: value for key, value in kept.items() if value not in (None, False)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over unpickled or loaded state; entries of learning that are missing start anew."""
        self._observed, self._evaluating = None, False
        super().__setstate__(state)
        make_step_opaque(type(self))
        self._known, self._begun, self._blank = StepCache(), False, None
        separated(self.state.values(), ("step", PENDING_HYPERS))
        drop_strangers(self)
        self.compiled.scopes.adopt(self.param_groups, self.state.values())
        for group in self.param_groups:
            group.setdefault("maximize", False)
            if self.compiled.draws:
                group.setdefault(SEED, self.defaults.get(SEED, 0))
        name = type(self).__name__
        self._betas = Betas(name, self.compiled.betas)
        self._overwritten = Overwritten(name, (c.name for c in self.compiled.coefficients))
        self._betas.write(self.param_groups)
        self._made = True

    def __repr__(self) -> str:
        """As of torch; learned coefficients with their bounds."""
        self._betas.read(self.param_groups)
        betas, learned = self.compiled.betas, self.compiled.program.learned
        return shown(type(self).__name__, self.param_groups, betas, learned)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set is as in the constructor, or as learned since.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group is a dict, not {type(param_group).__name__}")
        name, betas = type(self).__name__, self.compiled.betas
        hypers = [h.name for h in self.compiled.program.hypers]
        spread_into(name, param_group, betas)
        usual = ["params", "param_names", "maximize", "kind", *(["betas"] if betas else []), *HINTS]
        check_keys(name, param_group, [*hypers, *usual])
        check_hints(name, param_group, hypers)
        check_group(name, param_group, self.defaults)
        if "maximize" in param_group:
            param_group["maximize"] = check_maximize(name, param_group["maximize"])
        for hyper in self.compiled.program.hypers:
            if hyper.name in param_group:
                value, others = param_group[hyper.name], (self.defaults, param_group)
                kept = check_value(name, hyper, value, self.compiled.bounds, others)
                param_group[hyper.name] = kept
        self._betas.read(self.param_groups)
        if self._made:  # what was learned so far, or set by hand; the first groups all start alike
            for coefficient in self.compiled.scopes.shared:
                for key in (coefficient.name, *coefficient.defaults()):
                    self.defaults[key] = self.param_groups[0][key]
        super().add_param_group(param_group)
        if not param_group["params"]:
            param_group["params"] = NoParameters(name, len(self.param_groups) - 1)
        try:
            self.compiled.parts.check(param_group)
            check_sums(name, self.compiled.program.simplexes, param_group)
            check_shared(name, (c.name for c in self.compiled.scopes.shared), self.param_groups)
        except ValueError:
            self.param_groups.pop()
            raise
        self._betas.write(self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """The state as of torch, the rule's name ("specification"), and what it means ("meaning").

        The meaning is a hash and the rule's program: a loader can tell whether steps are the same.
        """
        self._betas.read(self.param_groups)
        found = super().state_dict()
        found["param_groups"] = on_the_host(found["param_groups"], self.compiled)
        held = (p for group in self.param_groups for p in group["params"])
        found["state"] = packed(found["state"], held)
        return signed(self, found) | observed.saved(self, self._observed) | evaluated.saved(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, every tensor in the dtype in which it was saved.

        Raises:
            TypeError: for what is no state dict, such as an optimizer.
            ValueError: when the state is of a rule that takes other steps, with what is different,
                or of other groups; nothing changes.
        """
        check_mapping(state_dict)
        with restored_bitwise(self):
            super().load_state_dict(unpacked(state_dict))

    def migrated(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state of another rule as one of this rule, for `load_state_dict`.

        States and hyperparameters are matched by their names; what the other rule has not is as
        this optimizer has it now, and its other hyperparameters are forgotten. A step that the
        other rule has not completed is completed as that rule does it, for which the parameters
        must be loaded already; hyper-gradients that are pending are lost, where tangents are not
        stored.

        Args:
            state_dict: what another optimizer saved; it stays as it is.

        Raises:
            TypeError: for what is no state dict, such as an optimizer.
            ValueError: when a parameter's states have other names or extents in the two rules.
        """
        return migration.migrated(self, state_dict)

    @torch.no_grad()
    def completed_state(self, parameter: Tensor) -> dict[str, Any]:
        """The state of a parameter with its last step completed, for logging and export.

        What compiled kernels keep while they learn lags behind by one step; here is what each
        state of the rule is after the last step. Nothing changes.

        Args:
            parameter: one of this optimizer's.

        Returns:
            Copies: the rule's states by their names, shaped as they are kept; ``step``; and what
            is learned for each tensor. Empty for a parameter that has no state yet.

        Raises:
            TypeError: for what is no tensor, such as a parameter's name.
            ValueError: for a parameter that is not in this optimizer.
        """
        return completing.completed_state(self, parameter)

    @torch.no_grad()
    def observe(self, weight: float = 1.0, average: bool | ProcessGroup | None = None) -> None:
        """Let the next step learn from the gradients that the parameters hold now.

        Adds weight times the dot product of these gradients with the derivatives of the last
        update to the hyper-gradients of the next step, which then does not use its own gradients
        for them. So hyper-gradients can be of a gradient before it is clipped, of one micro-batch,
        or of a validation loss. Parameters, states and coefficients stay as they are.

        Args:
            weight: such as 1 / scale for a loss that was multiplied by a scale; finite.
            average: True to average what is observed over all ranks, or the process group of those
                that have the same parameters, for gradients of a backward pass within ``no_sync``;
                False to take it as it is. Without it, ranks compare what they observed. All of
                them call this alike, unless it is False.

        Raises:
            TypeError, ValueError: for a weight that is no finite number, or ranks to average over
                that are none.
            RuntimeError: for a sparse gradient; in eval mode; where a step was captured in a CUDA
                graph; where ranks with the same parameters observed different gradients, or are to
                average over parts of parameters. What was observed before stays.
        """
        evaluating.check_training(self, "observe()")
        self._betas.read(self.param_groups)
        self._observed = observing.observe(self, weight, average, self._observed)

    def discard_observed(self) -> None:
        """Forget what was observed since the last step, such as before a step that is skipped."""
        self._observed = None

    def metrics(self) -> dict[str, float]:
        """Learned coefficients and their last hyper-gradients, for any logger.

        Returns:
            ``{"rho": ..., "hypergradient/rho": ...}``; a hyper-gradient is as measured, before
            the clip, and 0 before the first; empty when nothing is learned. What is learned for
            each group is ``rho/0``, ``rho/1`` and so on, by the groups' numbers; for each tensor
            it is ``rho/mean``, ``rho/min`` and ``rho/max`` over the tensors.
        """
        return self.compiled.scopes.metrics(self.param_groups, self.state)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the parameters where the model is evaluated: the point `eval` of the rule.

        The parameters as they are trained are kept in the state, from which `train` restores them
        to the bit. Between the two, `step` and `observe` are errors. Nothing happens with a rule
        that evaluates at its parameters, a second time, or to parameters that have taken no step.

        Raises:
            TypeError, ValueError: for hyperparameters with which a step would fail; nothing has
                changed.
        """
        self._betas.read(self.param_groups)
        evaluating.enter(self)

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back as they are trained, after `eval`; otherwise nothing happens."""
        evaluating.leave(self)

    @overload
    def step(self, closure: None = None, *, inputs: Inputs | None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float], *, inputs: Inputs | None = None) -> float: ...
    @torch.no_grad()
    def step(
        self, closure: Callable[[], float] | None = None, *, inputs: Inputs | None = None
    ) -> float | None:
        """Take one step with the gradients that the parameters hold.

        Args:
            closure: evaluates the model again and returns the loss.
            inputs: for a rule with inputs, by their names, a tensor like each parameter that has a
                gradient, by parameter; or a number, where the input is one, equal on all ranks.

        Raises:
            RuntimeError: in eval mode, for a sparse gradient, or where something is learned without
                a process group from the share of the parameters that FullyShardedDataParallel or
                ZeroRedundancyOptimizer gives each rank; nothing has changed.
            ValueError: for a hyperparameter that was set out of bounds, weights that do not
                sum to one, a gradient of a parameter that is complex or of a dtype that no
                kernel takes, or an input that is missing, unknown or of another shape; nothing
                has changed.
        """
        evaluating.check_training(self, "step()")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._betas.read(self.param_groups)
        check_flattened(self)
        check_partitioned(self)
        for group in self.param_groups:
            if group.get("differentiable"):
                names = [h.name for h in self.compiled.program.hypers]
                check_hints(type(self).__name__, group, names)
        repeats = self._begun and not (self._blank or inputs)
        same = self._known.get(Repeated).work(self) if repeats else None
        work = same or [gradients(group) for group in self.param_groups]
        if (self._blank or not self._begun) and not self._begin(work):
            return loss
        if inputs or self.compiled.parts.stages:
            self._given = given(self, work, inputs)
        self._overwritten.before_step(self.param_groups)
        # What was observed is on the host, which then learns.
        on_host = self._observed is not None or same is not None
        device = None if on_host else device_step_of(self, work, self._known)
        if device is None:
            host_step.step(self, work, same is not None)
        else:
            device.step(self, work)
        self._betas.write(self.param_groups)
        self._overwritten.after_step(self.param_groups)
        return loss

    def _begin(self, work: list[list[tuple[Tensor, Tensor]]]) -> bool:
        """Whether a first step is to be taken, and not one that only shows what is kept."""
        if not self._begun and inert_step.is_inert(self):
            inert_step.materialize(self)
            totals.show(self)
            return False
        self._blank, self._begun = inert_step.start_over(self, work, self._blank), True
        return True
