"""MADA as Ozkara et al. (ICML 2024) train it: all six coefficients learned, starting from Adam."""

import re

from optdsl import Learn
from optdsl.diagnostics import Source
from optdsl.specifications.sources import open_source

_GATE = Learn("sgd", lr=0.1, clip=10, after=50)
_BETA = Learn("sgd", lr=5e-4, clip=10, after=50, bounds=(0.01, 0.999))

# What `specs/mada.opt` can learn; by itself it learns two of them, in another way.
SIX = {
    **dict.fromkeys(("c", "rho", "kappa", "gamma"), _GATE),
    **dict.fromkeys(("beta1", "beta2"), _BETA),
}

_LINES = """
learn c, rho, kappa, gamma by SGD(lr = 0.1, clip = 10)
learn beta1, beta2 in [0.01, 0.999] by SGD(lr = 5e-4, clip = 10)
learn after 50
"""


def six_source() -> Source:
    """`specs/mada.opt` with these lines in the place of its own."""
    text = open_source("mada").text
    own = re.findall(r"^learn .*\n", text, flags=re.MULTILINE)
    assert own
    for line in own:
        text = text.replace(line, "")
    return Source("mada.opt", text + _LINES)
