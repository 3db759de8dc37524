"""The set-up's one exception. Needs nothing."""


class SetupProblem(Exception):  # noqa: N818 - it is what a person reads
    """Say what was wrong, what was expected and what to do; ./owled prints it and exits with 1."""
