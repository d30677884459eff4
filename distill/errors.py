"""Errors that a user can act on: each carries the exit code its kind of failure ends with, and is shown without a traceback."""


class DistillError(Exception):
    """Something went wrong that the person at the keyboard can mend; the message says what, where and how."""

    exit_code = 1


class RecipeError(DistillError):
    """The recipe or the command line asks for something that does not exist or makes no sense."""

    exit_code = 2


class DataError(DistillError):
    """Pictures, weights or a run folder can't be used as they are."""

    exit_code = 3


class DivergedError(DistillError):
    """The loss became infinite or not a number."""

    exit_code = 4
