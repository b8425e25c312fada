"""The record of the modded-nanogpt optimization benchmark as a part of a training script.

The benchmark takes no libraries of optimizers, whose code must stand in the script itself.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import optdsl

pytestmark = pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")

SPECS = Path(__file__).parents[1] / "matrices"
TRAINING = '''

def trained(made):
    """A small model of characters after some steps, and its losses."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Embedding(13, 8),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 16),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 16, bias=False),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 13),
    ).double()
    text = torch.arange(400) ** 2 % 13
    x, y = text[:-1].unfold(0, 3, 1), text[3:]
    first, last = model[0].weight, model[6].weight
    rest = [p for p in model.parameters() if p is not first and p is not last]
    optimizer = made(
        [{"params": rest}, {"params": [first, last], "kind": "otherwise", "corrected": 1}], lr=0.02
    )
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.eval()
    return [p.detach() for p in model.parameters()], losses
'''
MAIN = """

if __name__ == "__main__":
    torch.save(trained({name}), sys.argv[1])
"""
# What is None here cannot be imported.
ALONE = 'import sys\n\nsys.modules["optdsl"] = sys.modules["pydantic"] = None\n\n'


@pytest.mark.parametrize(
    "name",
    ["track3_record", pytest.param("track3_composed", marks=pytest.mark.exhaustive)],
)
def test_the_record_stands_in_a_training_script(name: str, tmp_path: Path) -> None:
    spec = SPECS / f"{name}.opt"
    ours = optdsl.load(spec, backend="eager", learn=False)
    script, output = tmp_path / "train.py", tmp_path / "trained.pt"
    text = optdsl.eject(spec)
    script.write_text(ALONE + text + TRAINING + MAIN.format(name=ours.__name__))
    command = [sys.executable, "-I", str(script), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    held, losses = torch.load(output)
    assert losses[-1] < 0.7 * losses[0]
    namespace = {"torch": torch}
    exec(TRAINING, namespace)
    expected, others = namespace["trained"](ours)  # type: ignore[operator]
    # SOAP whitens what rounding has left of directions without gradients, so that runs of which one
    # weight differs in its last bit part after these steps, too.
    assert losses[:3] == pytest.approx(others[:3], rel=1e-12)
    assert losses[-1] == pytest.approx(others[-1], rel=0.05)
    assert [p.shape for p in held] == [p.shape for p in expected]
