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


def interleave(reference: str, contenders: Mapping[str, Callable[[], None]], *, num_rounds: int, progress: Callable[[int], None] = lambda _: None):
    """Runs every contender once a round, in alternating order, after one round that does not count. Returns (ratios, seconds a block)."""
    names, seconds = list(contenders), {name: [] for name in contenders}
    for name in names:
        contenders[name]()
    for number in range(num_rounds):
        for name in names if number % 2 == 0 else reversed(names):
            started = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - started)
        progress(number + 1)
    ratios = {name: _ratio(np.array(seconds[name]), np.array(seconds[reference])) for name in names if name != reference}
    return ratios, {name: float(np.median(values)) for name, values in seconds.items()}


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> Ratio:
    logs = np.log(ours / theirs)
    draws = np.random.default_rng(0).choice(logs, size=(4000, len(logs)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return Ratio(float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high)), len(logs))
