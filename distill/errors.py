"""Errors that a user can act on: each carries the exit code its kind of failure ends with, and is shown without a traceback."""

from collections.abc import Sequence


class DistillError(Exception):
    """Something went wrong that the person at the keyboard can mend; the message says what, where and how."""

    exit_code = 1
    is_shared = False  # whether all processes of a run find it out alike, so that one of them may speak for all


class RecipeError(DistillError):
    """The recipe or the command line asks for something that does not exist or makes no sense."""

    exit_code, is_shared = 2, True


class DataError(DistillError):
    """Pictures, weights or a run folder can't be used as they are."""

    exit_code = 3


class DivergedError(DistillError):
    """A loss or a gradient became infinite or not a number."""

    exit_code, is_shared = 4, True

    def __init__(self, message: str, *, step: int, sample_ids: Sequence[int], terms: Sequence[str]):
        """step: steps that were done before the one that failed; terms: labels of the losses that were not finite, none if only the gradient was."""
        super().__init__(message)
        self.step, self.sample_ids, self.terms = step, list(sample_ids), list(terms)


class StoppedError(DistillError):
    """Somebody asked the run to stop, and it has. Not a failure: the exit code says "try again later" (EX_TEMPFAIL), or 130 after Ctrl-C."""

    def __init__(self, message: str, exit_code: int = 75):
        super().__init__(message)
        self.exit_code = exit_code
