"""The optimizers that studies compare."""

from __future__ import annotations

from optdsl.studies.runs.optimizers import Contestant, Learned

ADAMW = Contestant(label="adamw", rule="adamw")
MADA = Contestant(label="mada", rule="mada")
# With the start and the learning of the paper, which `mada` had before studies compared them.
_GATES = Learned(hypers={"lr": 0.1}, clip=10.0, after=50)
_BETAS = Learned(hypers={"lr": 5e-4}, clip=10.0, after=50, bounds=(0.01, 0.999))
PAPER_LEARNS = {
    **dict.fromkeys(("c", "rho", "kappa", "gamma"), _GATES),
    **dict.fromkeys(("beta1", "beta2"), _BETAS),
}
PAPER = Contestant(label="mada of the paper", rule="mada", hypers={"rho": 1.0}, learn=PAPER_LEARNS)
HYPERADAM = Contestant(label="hyperadam", rule="hyperadam")
# One coefficient, learned fast and by the sign of its hyper-gradient.
SIGN = Contestant(
    label="adam, β1 by sign",
    rule="adamw",
    hypers={"beta2": 0.95},
    learn={
        "beta1": Learned(hypers={"lr": 2e-2}, bounds=(0.0, 0.99), after=10, signal="sign"),
    },
)
# The same by what beta1 does to the direction of steps, and not to their lengths (decision 62).
ACROSS = {"beta1": Learned(hypers={"lr": 2e-2}, bounds=(0.0, 0.99), after=10, signal="sign")}
DIRECTION = Contestant(
    label="adam, β1 by direction",
    rule="adamw with direction",
    hypers={"beta2": 0.95},
    learn=ACROSS,
)
# The default of `mada`, and what gains most beside it, at the price of a norm (decision 66).
STEERED = Contestant(
    label="mada, β1 by direction",
    rule="mada with direction",
    learn={"rho": Learned(hypers={"lr": 2e-2}, after=10, signal="sign"), **ACROSS},
)
MEMBERS = (
    *(Contestant(label=rule, rule=rule) for rule in ("avgrad", "yogi", "adan")),
    Contestant(label="lion", rule="lion", scale=0.1),
)
PEERS = (
    Contestant(label="prodigy", rule="prodigyopt:Prodigy", centre=1.0),
    Contestant(label="d-adaptation", rule="dadaptation:DAdaptAdam", centre=1.0),
    Contestant(
        label="mechanic",
        rule="mechanic_pytorch:mechanize",
        base="torch.optim:AdamW",
        hypers={"lr": 1.0, "weight_decay": 0.0},
        centre=1.0,
    ),
    Contestant(label="schedule-free", rule="schedulefree:AdamWScheduleFree", constant=True),
)


def installed(contestants: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """Returns those whose packages are there."""
    return tuple(contestant for contestant in contestants if contestant.installed)


def absent(contestants: tuple[Contestant, ...]) -> str:
    """Says which are not there; empty if all are."""
    labels = [contestant.label for contestant in contestants if not contestant.installed]
    if not labels:
        return ""
    return f" Not installed, and so not compared: {', '.join(labels)}."
