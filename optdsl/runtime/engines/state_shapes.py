"""Whether states and gradients have the shapes that their parameters ask for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Size

from optdsl.ir.program import Program
from optdsl.ir.sections import state_shapes
from optdsl.runtime.core.tasks import ParameterTask


class StateShapes:
    """The shapes of the states of a program of one section."""

    def __init__(self, program: Program) -> None:
        """See the class."""
        self._program = program
        # Lengths of a rule's own axes are checked where its hyperparameters are read.
        self._own = {name: 1 for name, _ in program.axes}
        self._plain = [s.name for s in program.states if not s.type.own_axes]
        self._known: dict[Size, list[tuple[str, tuple[int, ...]]]] = {}

    def check(self, works: Sequence[ParameterTask]) -> None:
        """Refuse states and gradients of other shapes; nothing has changed.

        Raises:
            RuntimeError: with the state or the gradient, and the shapes.
        """
        for work in works:
            shape, whole = work.gradient.shape, work.parameter.shape
            if shape != whole:
                raise RuntimeError(
                    f"{self._program.name}: gradient has shape {tuple(shape)}, and its parameter "
                    f"{tuple(whole)}; has the parameter changed since?"
                )
            for name, wanted in self._of(whole) if work.state else ():
                kept = work.state.get(name)
                if kept is not None and kept.shape != wanted:
                    raise RuntimeError(
                        f"{self._program.name}: {name} has shape {tuple(kept.shape)}, and for its "
                        f"parameter of shape {tuple(whole)} it would be {wanted}; has the "
                        f"parameter changed since? Delete its entry of optimizer.state, which "
                        f"then starts anew"
                    )

    def _of(self, whole: Size) -> list[tuple[str, tuple[int, ...]]]:
        if whole not in self._known:
            shapes = state_shapes(self._program, whole, self._own)
            self._known[whole] = [(name, shapes[name]) for name in self._plain]
        return self._known[whole]
