"""Parameter groups without parameters, in flattened checkpoints.

Such a checkpoint has the values of a group under the names of its parameters, and so none of an
empty group. `torch.distributed.checkpoint` fails with an IndexError that does not say this, without
calling a method of the optimizer first. But it iterates over the parameters of the group, so their
list raises a better error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

# The function of torch.distributed.checkpoint.state_dict that fails.
_READING = "_unflatten_optim_state_dict"


class NoParameters(list[Any]):
    """The list of parameters of a group that had none when it was made."""

    def __init__(self, optimizer: str = "", number: int = 0, parameters: Any = ()) -> None:
        """Make the list for the group of an index; `parameters` are those that were added later.

        `optimizer` is the name in messages.
        """
        super().__init__(parameters)
        self._of = optimizer, number

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the parameters.

        Raises:
            ValueError: if there are none and a flattened checkpoint is being read.
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
        """Copy and pickle as a call of the constructor."""
        return NoParameters, (*self._of, [*self])
