"""Made-up pictures that can be learned: each class has its own coloured waves, each picture its own noise. For tests and for trying things."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from distill.data.sources.base import DataSource, Part
from distill.errors import DataError


class Synthetic(DataSource):
    """Pictures as a pure function of (seed, index); class k is index modulo the number of classes."""

    mean = (0.5,) * 3
    std = (0.25,) * 3
    note = "made-up pictures"

    def __init__(
        self,
        root: str | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        *,
        num_classes: int = 4,
        num_train: int = 256,
        num_val: int = 64,
        num_test: int = 64,
        noise: float = 0.3,
        seed: int = 0,
    ):
        """`root` and `val_fraction` do not apply; noise is the share of the picture that says nothing."""
        if root is not None:
            raise DataError(f"data.root={root} means nothing with data.source=synthetic")
        if not 0 <= noise <= 1:
            raise DataError(f"noise is a share of the picture, from 0 to 1, got {noise}")
        self.class_names = [f"wave{label}" for label in range(num_classes)]
        self.image_size = image_size or 32
        bounds = np.cumsum([0, num_train, num_val, num_test])
        self.train, self.val, self.test = (self._part(np.arange(first, last), num_classes, noise, seed) for first, last in itertools.pairwise(bounds))

    def _part(self, ids: np.ndarray, num_classes: int, noise: float, seed: int) -> Part:
        size, labels = self.image_size, ids % num_classes
        generator = np.random.Philox(key=np.array([seed, num_classes], dtype=np.uint64))
        phases = (generator.random_raw(num_classes * 3) >> np.uint64(11)).reshape(num_classes, 3) * 2.0**-53 * 2 * np.pi
        steps = np.linspace(0, 2 * np.pi, size, endpoint=False)
        angle = np.pi * labels / num_classes  # the direction in which the class's wave runs
        wave = 2 * (np.cos(angle)[:, None, None] * steps[None, None, :] + np.sin(angle)[:, None, None] * steps[None, :, None])  # [N, S, S]
        pixels = np.empty((len(ids), 3, size, size), dtype=np.uint8)
        for row, sample_id in enumerate(ids):
            raw = np.random.Philox(key=np.array([seed, 1 << 62 | int(sample_id)], dtype=np.uint64)).random_raw(3 * size * size)
            grain = ((raw >> np.uint64(11)) * 2.0**-53).reshape(3, size, size)
            clean = 0.5 + 0.5 * np.sin(wave[row][None] + phases[labels[row]][:, None, None])
            pixels[row] = 255 * ((1 - noise) * clean + noise * grain)
        return Part(labels, ids, pixels=torch.from_numpy(pixels))
