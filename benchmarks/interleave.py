"""Times two or more contenders in turn (A B B A A B B A ...) and says how they compare, with an interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Time of a contender over the time of the reference: the median over adjacent blocks, and its 95 % interval."""

    ratio: float
    low: float
    high: float
    num_pairs: int

    @property
    def inverse(self) -> Ratio:
        return Ratio(1 / self.ratio, 1 / self.high, 1 / self.low, self.num_pairs)

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}, {self.num_pairs} pairs)"


@dataclass(frozen=True)
class Difference:
    """A contender's value less the reference's: the median over adjacent blocks, and its 95 % interval."""

    difference: float
    low: float
    high: float
    num_pairs: int

    def __str__(self) -> str:
        return f"{self.difference:+,.1f} ({self.low:+,.1f} to {self.high:+,.1f}, {self.num_pairs} pairs)"


def interleave(reference: str, contenders: Mapping[str, Callable[[], None]], *, num_rounds: int, progress: Callable[[int], None] = lambda _: None):
    """Runs every contender once a round, in alternating order, after one round that does not count. Returns (ratios, seconds a block)."""
    seconds = time_in_turn(contenders, num_rounds=num_rounds, progress=progress)
    ratios = {name: ratio_of(np.log(values / seconds[reference])) for name, values in seconds.items() if name != reference}
    return ratios, {name: float(np.median(values)) for name, values in seconds.items()}


def time_in_turn(
    contenders: Mapping[str, Callable[[], None]], *, num_rounds: int, progress: Callable[[int], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round."""
    names, seconds = list(contenders), {name: [] for name in contenders}
    for name in names:
        contenders[name]()
    for number in range(num_rounds):
        for name in names if number % 2 == 0 else reversed(names):
            started = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - started)
        progress(number + 1)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio_of(logs: np.ndarray) -> Ratio:
    """The median of logarithms, one a round, as a ratio, with a bootstrap interval."""
    return Ratio(*(float(np.exp(value)) for value in median_of(logs)), len(logs))


def difference_of(values: np.ndarray) -> Difference:
    """The median of differences, one a round, with a bootstrap interval."""
    return Difference(*median_of(values), len(values))


def median_of(values: np.ndarray) -> tuple[float, float, float]:
    """(the median, the two ends of its 95 % bootstrap interval)"""
    draws = np.random.default_rng(0).choice(values, size=(4000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(values)), float(low), float(high)


def show_round(num_rounds: int) -> Callable[[int], None]:
    """Prints how far the rounds are, on one line."""

    def progress(number: int) -> None:
        print(f"\rround {number}/{num_rounds}", end="\n" if number == num_rounds else "", flush=True)

    return progress
