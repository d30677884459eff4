"""What the doctor has found: problems, of which each would end a run, and warnings. A check that fails does not keep the others from being made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from distill.errors import DistillError

_RANKS = {2: 0, 3: 1}  # what is asked for comes before what is there, and both before all else
_ONE_PICTURE = (
    "batch norm can't train on one value per channel, and a part of the batch has a single picture here: a larger data.global_batch_size, a smaller "
    "train.accumulation, fewer processes, or norm: group"
)


class Problem(NamedTuple):
    """Something that would end the run later, and the exit code that it would then have."""

    message: str
    exit_code: int


class FoundError(DistillError):
    """Problems were found; they are in the report already."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Findings:
    """Collects; each message once, because several checks may meet the same problem."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, message: str, exit_code: int) -> None:
        if message not in (problem.message for problem in self.problems):
            self.problems.append(Problem(message, exit_code))
            self.problems.sort(key=lambda problem: _RANKS.get(problem.exit_code, len(_RANKS)))

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Whatever is raised inside becomes a problem. what: is being done, for errors that nobody foresaw."""
        try:
            yield
        except DistillError as error:
            self.problem(str(error), error.exit_code)
        except torch.OutOfMemoryError as error:
            self.problem(f"{what}: the device's memory is full ({str(error).splitlines()[0]}); a smaller data.global_batch_size needs less", 1)
        except Exception as error:
            if "more than 1 value per channel when training" in str(error):  # torch's own words, of a batch norm
                self.problem(_ONE_PICTURE, 1)
            else:
                self.problem(f"{what}: unexpected {type(error).__name__}: {error}", 1)


def size(num_bytes: float) -> str:
    """1.2 GB, 34 MB"""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e7 else f"{num_bytes / 1e6:,.0f} MB"
