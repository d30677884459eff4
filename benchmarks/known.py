"""A teacher whose answers are known already: a step that asks it is the student's alone."""

from __future__ import annotations

from collections.abc import Sequence

from distill.structures import Batch, Outputs


class Known:
    """A teacher that costs nothing: its answers to the batches of the one epoch, in order."""

    def __init__(self, answers: Sequence[Outputs]):
        self.answers, self.next = answers, 0

    def __call__(self, batch: Batch) -> Outputs:
        self.next = (self.next + 1) % len(self.answers)
        return self.answers[self.next - 1]
