"""Steps as part of a graph, which does launches again with the arguments that they had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from optdsl.runtime.device import device_step as resident_module
from optdsl.runtime.engines import launch_arguments as launches_of
from optdsl.runtime.engines.triton import TritonEngine
from tests.triton.test_resident import HALF, ORDERS, Training, small

pytestmark = pytest.mark.broad(8)

pytest.importorskip("triton")


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether steps become part of a graph, in which nothing may be sent."""
    sent = launches_of.sent

    def switch(on: bool) -> None:
        for module in (launches_of, resident_module):
            monkeypatch.setattr(module, "captured", lambda device: on)
        monkeypatch.setattr(launches_of, "sent", None if on else sent)

    return switch


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("warm", [3, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_a_graph_replays_steps(
    order: str, warm: int, capturing: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches done again with the arguments that they had, as a graph does them."""
    ours, theirs = (
        Training(small("triton", order), **HALF),
        Training(small("eager", order), **HALF),
    )

    def fed(training: Training, taken: Callable[[], None]) -> None:
        """The next gradients, where those of the first step were."""
        held = [p.grad for p in training.parameters]
        training.optimizer.step = lambda: None
        training.step()
        for parameter, old in zip(training.parameters, held, strict=True):
            if old is not None:
                old.copy_(parameter.grad)
                parameter.grad = old
        del training.optimizer.step
        taken()

    for _ in range(warm):
        fed(ours, ours.optimizer.step)
        fed(theirs, theirs.optimizer.step)
    calls: list[tuple[Any, ...]] = []
    launched = TritonEngine.launched

    def recorded(engine: TritonEngine, function: Any, ready: Any, *flags: bool) -> None:
        calls.append((engine, function, dataclasses.replace(ready), *flags))
        launched(engine, function, ready, *flags)

    monkeypatch.setattr(TritonEngine, "launched", recorded)
    capturing(True)
    fed(ours, ours.optimizer.step)
    fed(theirs, theirs.optimizer.step)
    capturing(False)
    monkeypatch.setattr(TritonEngine, "launched", launched)
    for _ in range(3):
        fed(ours, lambda: [launched(*call) for call in calls])
        fed(theirs, theirs.optimizer.step)
        ours.agrees(theirs)
    # Steps outside of the graph, and the graph again.
    fed(ours, ours.optimizer.step)
    fed(theirs, theirs.optimizer.step)
    ours.agrees(theirs)
    fed(ours, lambda: [launched(*call) for call in calls])
    fed(theirs, theirs.optimizer.step)
    ours.agrees(theirs)
    counts = [float(t.optimizer.state[t.parameters[0]]["step"]) for t in (ours, theirs)]
    assert counts == [warm + 6, warm + 6]


def test_what_a_graph_cannot_hold_is_refused(capturing: Callable[[bool], None]) -> None:
    ours = Training(small("triton"), **HALF)
    for _ in range(3):
        ours.step()
    capturing(True)
    ours.step()
    ours.optimizer.param_groups[0]["lr"] = 0.01
    with pytest.raises(RuntimeError, match="cannot be captured, since a hyperparameter was set"):
        ours.step()
    for group in ours.optimizer.param_groups:
        group["rho"] = 0.1
    with pytest.raises(RuntimeError, match="cannot be captured, since rho was set"):
        ours.step()
