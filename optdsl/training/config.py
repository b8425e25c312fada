"""The request for a comparison, and the exception for mistakes in it."""

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from optdsl.diagnostics import nearest

DEFAULT_OPTIMIZERS = ("adam", "lion", "yogi", "adan", "avgrad", "mada")
Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")
LAST_SEED = 2**63 - 1  # the largest that PyTorch's generators take


class TrainingError(ValueError):
    """A mistake in the request, described in one line with what to do about it."""


class TrainingConfig(BaseModel):
    """A comparison of optimizers; every optimizer gets the same model, batches and schedule.

    Attributes:
        optimizers: Names that the loader knows, or paths ending in `.opt`.
        steps: Training steps per optimizer.
        seed: Seed of the initial weights and of the batches.
        seeds: Number of runs per optimizer, with the seeds `seed`, `seed + 1`, and so on.
        tuned: Whether to search for each optimizer's learning rate first, with the same budget
            for all; see `optdsl.training.tuning`.  Otherwise it is the default in the optimizer's
            file, unless `overrides` has another one.
        task: The task, a name in `optdsl.training.tasks.TASKS`; None for the transformer that the
            sizes below describe.
        text: UTF-8 text to learn; None for sources of Python's standard library.
        images: Directory with images to learn, for tasks that learn images; None for digits.
        out: Directory for the results, created if missing; older results are replaced.
        tensorboard: Whether to log every step for TensorBoard, too, in `tensorboard/` in `out`.
        overrides: Hyperparameters by optimizer label, as in `{"lion": {"lr": 3e-4}}`.  The label
            is the optimizer's name, or the file's stem for a path.
        formats: Formats of the figure's files: "png", "svg", "pdf".
        layers: Transformer blocks.
        width: Features per position; a multiple of `heads`.
        heads: Attention heads per block.
        block: Characters of the model's input.
        batch: Sequences per training step.
        validation_windows: Windows of `block` characters in each evaluation, fewer if the
            validation text is too short for that many without overlap.
        evaluate_every: Steps between evaluations; None means a twentieth of `steps`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizers: tuple[str, ...] = Field(DEFAULT_OPTIMIZERS, min_length=1)
    steps: PositiveInt = 500
    seed: NonNegativeInt = 0
    seeds: PositiveInt = 1
    tuned: bool = False
    task: str | None = None
    text: Path | None = None
    images: Path | None = None
    out: Path = Path("training")
    tensorboard: bool = False
    overrides: Mapping[str, Mapping[str, FiniteFloat]] = Field(default_factory=dict)
    formats: tuple[Format, ...] = Field(FORMATS, min_length=1)
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
        if self.seed + self.seeds > LAST_SEED:  # the search uses the seed after the last one
            raise ValueError(f"seed + seeds must be at most {LAST_SEED}")
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
    def all_seeds(self) -> range:
        """The seed of each run of an optimizer."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations on the validation windows."""
        return self.evaluate_every or max(1, self.steps // 20)


_ALLOWED = {
    "optimizers": "one name or more",
    "seed": "a whole number that is not negative",
    "tuned": "true or false",
    "tensorboard": "true or false",
    "task": "the name of a task",
    "text": "the path of a file",
    "images": "the path of a directory",
    "out": "the path of a directory",
    "overrides": "a finite number",
    "formats": f"one or more of {', '.join(FORMATS)}",
    "evaluate_every": "a whole number, 1 or more, or None",
}
_COUNT = "a whole number, 1 or more"


def configure(**fields: object) -> TrainingConfig:
    """Builds a `TrainingConfig`, reporting the first invalid field in one line.

    Raises:
        TrainingError: A field is unknown or its value is invalid.
    """
    try:
        return TrainingConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        hint = nearest(field, TrainingConfig.model_fields)
        raise TrainingError(f"there is no setting '{field}'" + (f": {hint}" if hint else ""))
    if not field:
        raise TrainingError(first["msg"].removeprefix("Value error, "))
    # An invalid item of a sequence is shown with the sequence, one of a mapping with its path.
    place = ".".join(map(str, first["loc"])) if field == "overrides" else field
    value = first["input"] if field == "overrides" else fields[field]
    if isinstance(value, tuple | list):
        value = ",".join(map(str, value))
    shown = value if isinstance(value, int | float) else f"'{value}'"
    raise TrainingError(f"{place} must be {_ALLOWED.get(field, _COUNT)}, not {shown}")


def parse_overrides(
    settings: Iterable[str], canonical: Callable[[str], str] = str
) -> dict[str, dict[str, float]]:
    """Parses settings of the form `NAME.HYPER=VALUE` into hyperparameters by optimizer.

    A later setting of the same hyperparameter replaces an earlier one.

    Args:
        settings: The settings.
        canonical: Maps the name of an optimizer to its spelling in the request.

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
        overrides.setdefault(canonical(label), {})[hyper] = number
    return overrides
