"""What a source of pictures is: three parts (train, val, test) of labelled pictures, cut the same way every time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.data.random_rows import permutation
from distill.errors import DataError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SPLIT_SEED = 0  # splits never depend on a run's seed, or two runs could not be compared


class Part:
    """Labelled pictures. `pixels` holds them all where they have one size; else `read` decodes one by its position."""

    def __init__(
        self,
        labels: np.ndarray,
        sample_ids: np.ndarray,
        *,
        pixels: Tensor | None = None,
        read: Callable[[int], Tensor] | None = None,
    ):
        """labels and sample_ids [N] int64 (ids are rows of the whole source), pixels [N, 3, H, W] uint8, read: position -> [3, H, W] uint8."""
        if (pixels is None) == (read is None):
            raise ValueError("a part has either pixels or a way to read them")
        self.labels, self.sample_ids, self.pixels, self._read = labels.astype(np.int64), sample_ids.astype(np.int64), pixels, read

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, position: int) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the file if it can't be read."""
        if self._read is not None:
            return self._read(int(position))
        assert self.pixels is not None  # a part has one of the two
        return self.pixels[position]

    def subset(self, positions: np.ndarray) -> Part:
        """The pictures at these positions, under the ids that they have here."""
        pixels = None if self.pixels is None else self.pixels[positions]
        read = None if self._read is None else _Positions(self._read, positions)
        return Part(self.labels[positions], self.sample_ids[positions], pixels=pixels, read=read)


class _Positions:
    """Reads a subset's pictures; a class, because worker processes may have to pickle it."""

    def __init__(self, read: Callable[[int], Tensor], positions: np.ndarray):
        self._read, self._positions = read, positions

    def __call__(self, position: int) -> Tensor:
        return self._read(int(self._positions[position]))


class DataSource:
    """Base of all sources; a subclass fills in the attributes below in its `__init__(root, image_size, val_fraction, **arguments)`."""

    class_names: list[str]
    train: Part
    val: Part
    test: Part
    image_size: int  # pixels a side that training and evaluation use
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the pictures in [0, 1], for networks that don't bring their own
    std: tuple[float, ...] = IMAGENET_STD
    has_labels: bool = True  # of the training part; without, they are all -1
    decoder: str = ""  # what decodes the pictures, with its version; empty where they come as pixels
    note: str = ""  # what the person should know about the split, in a sentence

    def fingerprint(self) -> str:
        """A hash of what is in each part and which classes there are: equal only if a run on one can be compared with a run on the other."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for part in (self.train, self.val, self.test):
            digest.update(part.labels.tobytes() + part.sample_ids.tobytes())
            if part.pixels is not None:
                digest.update(np.ascontiguousarray(part.pixels.numpy()).tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Raises DataError if there is nothing to learn from these parts."""
        if len(self.class_names) < 2:
            raise DataError(f"there is only one class ({self.class_names[0]!r}); a classifier needs at least two folders of pictures")
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            if len(part) == 0:
                raise DataError(f"the {name} part has no pictures")


def stratified_cut(labels: np.ndarray, fraction: float, class_names: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Positions of (kept, cut): `fraction` of every class, at least one picture of each, chosen by a fixed permutation; both sorted.

    Raises DataError, with the class's name where names are given, if a class has too few pictures to be in both.
    """
    order = permutation(_SPLIT_SEED, 0, len(labels))
    cut: list[np.ndarray] = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        num_cut = max(1, round(fraction * len(members)))
        if num_cut >= len(members):
            name = repr(class_names[label]) if class_names else f"number {label}"
            raise DataError(f"class {name} has {len(members)} picture(s) left, too few to set {fraction:.0%} of them aside; add some")
        cut.append(members[:num_cut])
    chosen = np.sort(np.concatenate(cut))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def to_rgb(grey: np.ndarray) -> Tensor:
    """[N, H, W] uint8 -> [N, 3, H, W] uint8, the one channel three times."""
    return torch.from_numpy(np.array(grey)).unsqueeze(1).repeat(1, 3, 1, 1)
