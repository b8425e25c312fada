"""New processes that need not import for seconds first, where a test is not about that."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

import torch.multiprocessing as mp

# They are forked from a process that has imported these, and has done nothing else.
IMPORTED = (
    "optdsl.api",
    "optdsl.compiler",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "torch.distributed.tensor.parallel",
)


def forking() -> ForkServerContext:
    """How to start such processes, which are to take this one's environment."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__, *IMPORTED])
    return context


def take(environment: Mapping[str, str]) -> None:
    """Have this environment, and not that of the process this one is forked from."""
    os.environ.clear()
    os.environ.update(environment)


def begun(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Such a process, in this environment, which calls a function of a module."""
    process = forking().Process(target=_call, args=(dict(os.environ), function, arguments))
    process.start()
    return process


def printed(code: str) -> str:
    """What a script prints in such a process, in this environment."""
    here, there = forking().Pipe(duplex=False)
    process = begun(_print, code, there)
    there.close()
    try:
        return here.recv().strip()
    finally:
        process.join()
        assert process.exitcode == 0


def _call(
    environment: Mapping[str, str], function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    take(environment)
    function(*arguments)


def _print(code: str, end: Connection) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
    end.send(out.getvalue())
