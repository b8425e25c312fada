"""The exception for a command that cannot run."""


class UsageError(Exception):
    """A command cannot run as it was called; the message has one line, and the exit status is 2."""
