"""Which samples make up each step: a pure function of (seed, epoch, step), the same for any number of processes and workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distill.data.random_rows import permutation
from distill.errors import DataError, RecipeError


class StepSampler:
    """Yields this process's share of each step's global batch; the last, incomplete batch of an epoch is left out."""

    def __init__(self, num_samples: int, global_batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1, accumulation: int = 1):
        """Raises RecipeError if processes and accumulation can't divide the batch, DataError if there are fewer samples than one batch."""
        parts = world_size * accumulation
        if global_batch_size % parts:
            fitting = [size for size in range(1, 2 * global_batch_size + 1) if size % parts == 0]
            nearest = sorted(fitting, key=lambda size: abs(size - global_batch_size))[:3]
            raise RecipeError(
                f"data.global_batch_size={global_batch_size} can't be divided among {world_size} process(es) with accumulation {accumulation}; "
                f"it must be a multiple of {parts}" + (f", such as {', '.join(map(str, nearest))}" if nearest else "")
            )
        if num_samples < global_batch_size:
            smaller = max(parts, num_samples // 2 // parts * parts)
            way_out = f"set data.global_batch_size={smaller} or add pictures" if smaller <= num_samples else f"add pictures, {parts} at least"
            raise DataError(f"the training part has {num_samples} pictures, fewer than one batch of {global_batch_size}; {way_out}")
        self.num_samples, self.global_batch_size, self.seed = num_samples, global_batch_size, seed
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.steps_per_epoch = num_samples // global_batch_size

    def global_batch(self, epoch: int, step: int) -> np.ndarray:
        """Positions [global_batch_size] int64 of a step of an epoch, over all processes."""
        return self._batch(permutation(self.seed, epoch, self.num_samples), step)

    def micro_batches(self, epoch: int, first_step: int = 0) -> Iterator[np.ndarray]:
        """Positions [global_batch_size / world_size / accumulation] int64 of each micro-batch, `accumulation` of them a step."""
        order = permutation(self.seed, epoch, self.num_samples)
        for step in range(first_step, self.steps_per_epoch):
            mine = self._batch(order, step)[self.rank :: self.world_size]
            size = len(mine) // self.accumulation
            yield from (mine[start : start + size] for start in range(0, len(mine), size))

    def _batch(self, order: np.ndarray, step: int) -> np.ndarray:
        return order[step * self.global_batch_size : (step + 1) * self.global_batch_size]
