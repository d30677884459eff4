"""Random numbers as a pure function of keys: the same on every machine, in any order, without a generator that someone could disturb.

Only NumPy's raw Philox stream is used, because NumPy promises to keep the bit streams of its bit generators for ever, and makes no such promise
for the distributions drawn from them (numpy.org, "Compatibility policy" of numpy.random).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np

NUM_COLUMNS = 16  # numbers in a block of a picture's row; a multiple of 4, because one count of Philox yields four of them
_ORDER_STREAM = 1 << 63  # sets the keys of sample orders apart from those of views
_BLOCK_STREAM = 1 << 48  # and those of the blocks of a view's row; more views than that nobody has


class Block(IntEnum):
    """A row of random numbers has a block for each operation, so that a new operation leaves what the others draw as it is."""

    GEOMETRY = 0
    COLOUR = 1
    AUTO_AUGMENT = 2
    ERASING = 3
    MIXING = 4


Draw = Callable[[Block], np.ndarray]  # a block -> [N, NUM_COLUMNS], a row for each picture at hand


def _philox(seed: int, stream: int, count: int = 0) -> np.random.Philox:
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([count, 0, 0, 0], dtype=np.uint64))


def _unit(raw: np.ndarray) -> np.ndarray:
    return (raw >> np.uint64(11)) * 2.0**-53


def view_table(view_seed: int, view: int, num_samples: int, block: Block = Block.GEOMETRY) -> np.ndarray:
    """[num_samples, NUM_COLUMNS] float64 in [0, 1): row i belongs to the sample with id i in this view."""
    raw = _philox(view_seed, view + block * _BLOCK_STREAM).random_raw(num_samples * NUM_COLUMNS)
    return _unit(raw).reshape(num_samples, NUM_COLUMNS)


def view_row(view_seed: int, view: int, sample_id: int, block: Block = Block.GEOMETRY) -> np.ndarray:
    """[NUM_COLUMNS] float64: row `sample_id` of view_table without making the table."""
    return _unit(_philox(view_seed, view + block * _BLOCK_STREAM, sample_id * NUM_COLUMNS // 4).random_raw(NUM_COLUMNS))


class ViewTables:
    """All rows of one view, each block made when it is first asked for."""

    def __init__(self, view_seed: int, view: int, num_samples: int):
        self.view_seed, self.view, self.num_samples = view_seed, view, num_samples
        self._tables: dict[Block, np.ndarray] = {}

    def table(self, block: Block) -> np.ndarray:
        """[num_samples, NUM_COLUMNS] float64 in [0, 1)."""
        if block not in self._tables:
            self._tables[block] = view_table(self.view_seed, self.view, self.num_samples, block)
        return self._tables[block]

    def of(self, sample_ids: np.ndarray) -> Draw:
        """What these samples draw."""
        return lambda block: self.table(block)[sample_ids]


def draw_of(view_seed: int, view: int, sample_id: int) -> Draw:
    """What one sample draws, as [1, NUM_COLUMNS], without making tables."""
    return lambda block: view_row(view_seed, view, sample_id, block)[None]


def permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """[num_samples] int64: the order of the samples in an epoch."""
    return np.argsort(_philox(seed, _ORDER_STREAM | epoch).random_raw(num_samples), kind="stable")
