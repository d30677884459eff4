"""Checks labels that a data set comes with: what it says is believed only where it can be true."""

from __future__ import annotations

import numpy as np

from distill.errors import DataError


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raises DataError if a label is none of 0 to num_classes - 1. what: whose labels they are."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DataError(
            f"{what}: {len(wrong)} label(s) are out of range, the first is {labels[wrong[0]]}, of picture number {wrong[0]}; "
            f"there are {num_classes} classes, so labels go from 0 to {num_classes - 1}"
        )
