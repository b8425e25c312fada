"""Parameter groups without parameters, in flattened checkpoints.

Such a checkpoint has the values of a group under the names of its parameters, so it has none of an
empty group. `torch.distributed.checkpoint` finds out by an IndexError in its own code, which says
nothing of that and asks the optimizer nothing before. What it does do is go over the group's
parameters, so their list is where it can be told.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

# The function of torch.distributed.checkpoint.state_dict that fails.
_READING = "_unflatten_optim_state_dict"


class NoParameters(list[Any]):
    """The parameters of a group that had none when it was made; a list like any other."""

    def __init__(self, optimizer: str = "", number: int = 0, parameters: Any = ()) -> None:
        """Make it.

        Args:
            optimizer: what the error calls the optimizer.
            number: the number of the group.
            parameters: what has been added since.
        """
        super().__init__(parameters)
        self._of = optimizer, number

    def __iter__(self) -> Iterator[Any]:
        """Over what it has.

        Raises:
            ValueError: where a flattened checkpoint is read and it has none.
        """
        if not self and sys._getframe(1).f_code.co_name == _READING:
            optimizer, number = self._of
            raise ValueError(
                f"{optimizer}: parameter group {number} has no parameters, and a flattened "
                f"checkpoint cannot hold the values of such a group; leave the group out of the "
                f"optimizer, or save and load with flatten_optimizer_state_dict=False"
            )
        return super().__iter__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle as a call."""
        return NoParameters, (*self._of, [*self])
