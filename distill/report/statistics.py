"""Is a difference more than noise? Plain statistics from scipy, for two students scored on the same pictures."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class PairedDifference(NamedTuple):
    """How much more often the first of two students is right, as shares of the test part."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_difference(first_is_right: np.ndarray, second_is_right: np.ndarray) -> PairedDifference:
    """Both [N] bool on the same pictures. 95 % interval from the variance of a paired difference; p by McNemar's exact test.

    It speaks of the drawing of these pictures only, not of other seeds. McNemar, 1947; Agresti, Categorical Data Analysis, section 11.1.
    """
    from scipy.stats import binomtest  # late: it takes half a second to import

    gained, lost = int((first_is_right & ~second_is_right).sum()), int((~first_is_right & second_is_right).sum())
    num = len(first_is_right)
    difference = (gained - lost) / num
    half_width = 1.959964 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / num)) / num
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return PairedDifference(difference, difference - half_width, difference + half_width, float(p_value))
