"""What is done about a picture that can't be read: an error, or the same other picture of its class on every run, counted and limited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from distill.data.sources.base import Part
from distill.errors import DataError

_LIMIT = 0.001  # the share of a part's pictures that may be replaced


class Failure(NamedTuple):
    """A picture that could not be read."""

    position: int  # in the part
    message: str  # names the file


class BadPictures:
    """The pictures of one part that were replaced, over a run."""

    def __init__(self, part: Part, warn: Callable[[str], None]):
        """warn: told of each such picture once."""
        self._num, self._warn = len(part), warn
        self._messages: dict[int, str] = {}

    def note(self, failures: Sequence[Failure]) -> None:
        """Raises DataError when more pictures than the limit are bad."""
        for position, message in failures:
            if position not in self._messages:
                self._messages[position] = message
                self._warn(f"{message}; another picture of its class stands in for it (data.on_bad_image=skip)")
        if len(self._messages) > _LIMIT * self._num:
            some = "\n  ".join(list(self._messages.values())[:5])
            raise DataError(
                f"{len(self._messages)} of {self._num:,} pictures can't be read, more than the {_LIMIT:.1%} that data.on_bad_image=skip allows; mend "
                f"or remove them (distill data check FOLDER finds them all):\n  {some}"
            )


def read_or_replace(part: Part, position: int) -> tuple[Tensor, list[Failure]]:
    """([3, H, W] uint8, the pictures that could not be read): the picture at the position, or else the next one in the part that has its label.

    A function of the files alone. Raises DataError if no picture of the class can be read.
    """
    failures: list[Failure] = []
    for candidate in _in_turn(part, position):
        try:
            return part.picture(candidate), failures
        except DataError as error:
            failures.append(Failure(candidate, str(error)))
    raise DataError(failures[0].message)


def _in_turn(part: Part, position: int):
    yield position
    members = np.flatnonzero(part.labels == part.labels[position])  # looked for only when a picture is bad
    after = np.searchsorted(members, position, side="right")
    for member in np.roll(members, -after):
        if member != position:
            yield int(member)
