"""Is a difference more than noise? Few seeds, so Student's t; pictures, so McNemar. Of scipy only `special`, because `stats` takes half a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, nctdtr, stdtr, stdtrit

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.8
_MOST_SEEDS = 100_000


class PairedDifference(NamedTuple):
    """How much more often the first of two students is right, as shares of the test part."""

    difference: float
    low: float
    high: float
    p_value: float


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval; low and high are NaN where one seed, or none, gives none."""

    mean: float
    low: float
    high: float
    num: int


class Difference(NamedTuple):
    """How much larger the first of two means over seeds is, with its 95 % interval and the p value of no difference.

    Low, high and p_value are NaN where they can't be had: from one seed, or where no difference varies and so nothing is known of the noise.
    """

    mean: float
    low: float
    high: float
    p_value: float
    num: int  # pairs, or seeds of the smaller group
    spread: float  # standard deviation of a difference between two single runs; NaN from one seed
    is_paired: bool


def paired_difference(first_is_right: np.ndarray, second_is_right: np.ndarray) -> PairedDifference:
    """Both [N] bool on the same pictures. 95 % interval from the variance of a paired difference; p by McNemar's exact test.

    It speaks of the drawing of these pictures only, not of other seeds. McNemar, 1947; Agresti, Categorical Data Analysis, section 11.1.
    """
    gained, lost = int((first_is_right & ~second_is_right).sum()), int((~first_is_right & second_is_right).sum())
    num = len(first_is_right)
    difference = (gained - lost) / num
    half_width = 1.959964 * math.sqrt(max(0.0, gained + lost - (gained - lost) ** 2 / num)) / num
    p_value = min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))) if gained + lost else 1.0
    return PairedDifference(difference, difference - half_width, difference + half_width, p_value)


def share_interval(num_right: int, num: int) -> tuple[float, float]:
    """(low, high): the 95 % interval of a share of which `num_right` of `num` were seen; it never leaves 0 to 1.

    It speaks of the drawing of these pictures only, not of other seeds. Wilson, 1927.
    """
    z = 1.959964
    share, spread = num_right / num, z * z / num
    centre = (share + spread / 2) / (1 + spread)
    half_width = z * math.sqrt(share * (1 - share) / num + spread / (4 * num)) / (1 + spread)
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def mean_interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of one value a seed."""
    num = len(values)
    if not num:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean(values))
    if num < 2:
        return Interval(mean, math.nan, math.nan, num)
    half_width = _quantile(num - 1) * float(np.std(values, ddof=1)) / math.sqrt(num)
    return Interval(mean, mean - half_width, mean + half_width, num)


def paired_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Student's paired t test; the values at one position share their seed."""
    differences = np.subtract(first, second)
    mean, low, high, num = mean_interval(differences.tolist())
    spread = float(np.std(differences, ddof=1)) if num > 1 else math.nan
    if num < 2 or _is_constant(differences):
        return Difference(mean, math.nan, math.nan, math.nan, num, spread, True)
    return Difference(mean, low, high, _p_value(mean / (spread / math.sqrt(num)), num - 1), num, spread, True)


def unpaired_seeds(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Welch's t test, for two groups of other seeds. Welch, 1947."""
    num, mean = min(len(first), len(second)), float(np.mean(first) - np.mean(second))
    if num < 2:
        return Difference(mean, math.nan, math.nan, math.nan, num, math.nan, False)
    errors = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    spread = math.sqrt(sum(np.var(values, ddof=1) for values in (first, second)))
    if _is_constant(first) and _is_constant(second):
        return Difference(mean, math.nan, math.nan, math.nan, num, spread, False)
    freedom = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True))
    half_width = _quantile(freedom) * math.sqrt(sum(errors))
    p_value = _p_value(mean / math.sqrt(sum(errors)), freedom)
    return Difference(mean, mean - half_width, mean + half_width, p_value, num, spread, False)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for having asked several questions at once; NaN stays and does not count. Holm, 1979."""
    order = sorted((index for index, value in enumerate(p_values) if not math.isnan(value)), key=lambda index: p_values[index])
    adjusted, largest = list(map(float, p_values)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(spread: float, effect: float) -> int | None:
    """How many pairs of runs a paired t test at 5 % needs to see the effect in four of five studies; None if more than 100,000.

    spread: standard deviation of one pair's difference. effect: the difference that is there, in the same unit.
    """
    if _power(_MOST_SEEDS, spread, effect) < POWER:
        return None
    low, high = 1, 2
    while _power(high, spread, effect) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, spread, effect) >= POWER else (middle, high)
    return high


def sampling_error(first_is_right: np.ndarray, second_is_right: np.ndarray | None = None) -> float:
    """Standard error of the mean accuracy [seeds, N], or of the difference of two such means, from the drawing of the N test pictures alone."""
    values = first_is_right.mean(axis=0) - (0.0 if second_is_right is None else second_is_right.mean(axis=0))
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _power(num: int, spread: float, effect: float) -> float:
    if spread == 0:
        return 1.0
    freedom, shift = num - 1, abs(effect) / spread * math.sqrt(num)
    limit = _quantile(freedom)
    above = nctdtr(freedom, shift, limit)
    return float(1 - above + nctdtr(freedom, shift, -limit)) if not math.isnan(above) else 1.0  # not computable: the shift is enormous


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _p_value(t: float, freedom: float) -> float:
    return float(min(1.0, 2 * stdtr(freedom, -abs(t))))


def _is_constant(values: Sequence[float] | np.ndarray) -> bool:
    """Whether all values are equal but for rounding: then their spread says nothing."""
    return float(np.ptp(values)) <= 1e-12 * max(1.0, float(np.max(np.abs(values))))
