"""How a command says that it cannot run."""


class UsageError(Exception):
    """The command cannot run as it was called; the message is one line, the exit status 2."""
