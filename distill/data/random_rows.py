"""Random numbers as a pure function of keys: the same on every machine, in any order, without a generator that someone could disturb.

Only NumPy's raw Philox stream is used, because NumPy promises to keep the bit streams of its bit generators for ever, and makes no such promise
for the distributions drawn from them (numpy.org, "Compatibility policy" of numpy.random).
"""

from __future__ import annotations

import numpy as np

NUM_COLUMNS = 16  # numbers kept for each picture and view; a multiple of 4, because one count of Philox yields four of them
_ORDER_STREAM = 1 << 63  # sets the keys of sample orders apart from those of views


def _philox(seed: int, stream: int, count: int = 0) -> np.random.Philox:
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([count, 0, 0, 0], dtype=np.uint64))


def _unit(raw: np.ndarray) -> np.ndarray:
    return (raw >> np.uint64(11)) * 2.0**-53


def view_table(view_seed: int, view: int, num_samples: int) -> np.ndarray:
    """[num_samples, NUM_COLUMNS] float64 in [0, 1): row i belongs to the sample with id i in this view."""
    return _unit(_philox(view_seed, view).random_raw(num_samples * NUM_COLUMNS)).reshape(num_samples, NUM_COLUMNS)


def view_row(view_seed: int, view: int, sample_id: int) -> np.ndarray:
    """[NUM_COLUMNS] float64: row `sample_id` of view_table without making the table."""
    return _unit(_philox(view_seed, view, sample_id * NUM_COLUMNS // 4).random_raw(NUM_COLUMNS))


def permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """[num_samples] int64: the order of the samples in an epoch."""
    return np.argsort(_philox(seed, _ORDER_STREAM | epoch).random_raw(num_samples), kind="stable")
