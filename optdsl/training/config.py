"""What a comparison is asked to do, and the errors a user can cause."""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

DEFAULT_OPTIMIZERS = ("adam", "lion", "yogi", "adan", "avgrad", "mada")

# For each optimizer the rate with the lowest validation loss in a default run with seed 0, among
# rates about a factor of two apart that were tried until both neighbours were worse; for both MADAs
# only Adam's rate and half of it, for the other blends Adam's.  Files, and optimizers that are not
# listed, use their own default.
DEFAULT_LEARNING_RATES: Mapping[str, float] = MappingProxyType(
    {
        "adam": 2e-3,
        "lion": 2e-4,
        "yogi": 5e-3,
        "adan": 8e-3,
        "avgrad": 1e-3,
        "mada": 2e-3,
        "mada_legacy": 1e-3,
        "adam_avgrad": 2e-3,
        "adaptivity": 2e-3,
        "hyperadam": 2e-3,
        "memory": 2e-3,
        "two_speed": 2e-3,
    }
)


class TrainingError(ValueError):
    """A mistake in the request, described in one line that says what to do about it."""


class TrainingConfig(BaseModel):
    """A comparison of optimizers; every optimizer gets the same model, batches and schedule.

    Attributes:
        optimizers: Names that the loader knows, or paths ending in `.opt`.
        steps: Training steps per optimizer.
        seed: Seed of the initial weights and of the batches.
        text: UTF-8 text to learn; None takes sources of Python's standard library.
        out: Directory for the results; created when missing, older results are replaced.
        overrides: Hyperparameters by optimizer label, as in `{"lion": {"lr": 3e-4}}`.  The label
            is the optimizer's name, or the file's stem for a path.
        layers: Transformer blocks.
        width: Features per position; a multiple of `heads`.
        heads: Attention heads per block.
        block: Characters the model sees at once.
        batch: Sequences per training step.
        validation_windows: Windows of `block` characters in each evaluation, fewer if the
            validation text is too short for that many without overlap.
        evaluate_every: Steps between evaluations; None means a twentieth of `steps`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizers: tuple[str, ...] = Field(DEFAULT_OPTIMIZERS, min_length=1)
    steps: PositiveInt = 500
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    text: Path | None = None
    out: Path = Path("training")
    overrides: Mapping[str, Mapping[str, FiniteFloat]] = Field(default_factory=dict)
    layers: PositiveInt = 3
    width: PositiveInt = 128
    heads: PositiveInt = 4
    block: PositiveInt = 64
    batch: PositiveInt = 16
    validation_windows: PositiveInt = 128
    evaluate_every: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = self.labels
        if "" in labels:
            raise ValueError("an optimizer name is empty; separate names by single commas")
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"optimizer '{label}' is listed twice; name each one once")
        for label in self.overrides:
            if label not in labels:
                raise ValueError(
                    f"a hyperparameter is set for '{label}', which is not trained; "
                    f"trained are {', '.join(labels)}"
                )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """Short name of each optimizer: the name itself, or the stem of a `.opt` path."""
        return tuple(
            Path(name).stem if name.endswith(".opt") else name.strip() for name in self.optimizers
        )

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations on the validation windows."""
        return self.evaluate_every or max(1, self.steps // 20)


def configure(**fields: object) -> TrainingConfig:
    """Builds a `TrainingConfig`, reporting the first invalid field in one line.

    Raises:
        TrainingError: A field is unknown or its value is invalid.
    """
    try:
        return TrainingConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise TrainingError(f"{place}: {message}" if place else message) from None


def parse_overrides(settings: Iterable[str]) -> dict[str, dict[str, float]]:
    """Parses settings of the form `NAME.HYPER=VALUE` into hyperparameters by optimizer.

    A later setting of the same hyperparameter replaces an earlier one.

    Raises:
        TrainingError: A setting has another form or its value is not a finite number.
    """
    overrides: dict[str, dict[str, float]] = {}
    for setting in settings:
        target, equals, value = setting.partition("=")
        # The last dot separates: a label, being a file's stem, may itself contain dots.
        label, dot, hyper = target.strip().rpartition(".")
        if not (equals and dot and label and hyper):
            raise TrainingError(
                f"cannot read '{setting}'; use NAME.HYPER=VALUE, as in lion.lr=3e-4"
            )
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            raise TrainingError(f"the value in '{setting}' is not a finite number")
        overrides.setdefault(label, {})[hyper] = number
    return overrides
