"""The exception for mistakes in a request for studies."""


class StudyError(ValueError):
    """A mistake in the request, described in one line with what to do about it."""
