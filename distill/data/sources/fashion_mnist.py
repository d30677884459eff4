"""Fashion-MNIST: 70,000 grey pictures of 28 px in 10 kinds of clothing; Debian's package is found, or they are downloaded."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets

from distill.data.sources._downloads import opened
from distill.data.sources._labels import check_labels
from distill.data.sources._parts import three_parts
from distill.data.sources.base import DataSource, Part, to_rgb
from distill.data.sources.sample import CLASS_NAMES, Sample, read_idx
from distill.errors import DataError

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
_BELOW = ("", "raw", "FashionMNIST/raw")  # where the files lie in a folder: as published, and as torchvision has them
_FILES = {"train": "train", "test": "t10k"}


class FashionMNIST(DataSource):
    """Reads the four published files, packed or not, in `root`. The 10,000 pictures of t10k are the test part.

    Source: Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747.
    """

    mean, std = Sample.mean, Sample.std

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1, *, download: bool = False):
        """root: by default Debian's folder if it is there, else one in the cache, to which the files are downloaded. download: into `root` as well.
        Raises DataError if the files can't be had or are damaged.
        """
        if root is None and _place(_DEBIAN) is not None:
            root = str(_DEBIAN)
        arrays, _ = opened("FashionMNIST", _read, root, download=download, source="fashion_mnist")
        labels = {part: part_labels for part, (_, part_labels) in arrays.items()}
        pixels, every = torch.cat([to_rgb(images) for images, _ in arrays.values()]), np.concatenate(list(labels.values()))
        self.class_names = CLASS_NAMES
        self.image_size = image_size or pixels.shape[-1]
        rows, self.note = three_parts(labels, val_fraction, CLASS_NAMES)
        self.train, self.val, self.test = (Part(every[rows[part]], rows[part], pixels=pixels[rows[part]]) for part in ("train", "val", "test"))


def _read(folder: Path, download: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Part -> (images [N, H, W] uint8, labels [N] int64). Raises FileNotFoundError if a file is not there, DataError if one is damaged."""
    if download:
        torchvision.datasets.FashionMNIST(str(folder), download=True)
    place = _place(folder)
    if place is None:
        raise FileNotFoundError(f"there is no {', '.join(_names())} (or the same with .gz)")
    arrays = {}
    for part, prefix in _FILES.items():
        images, labels = (_array(place / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(f"{place}: the files of {prefix} hold images of shape {images.shape} and labels of shape {labels.shape}; fetch them anew")
        check_labels(labels.astype(np.int64), len(CLASS_NAMES), f"{place}, {prefix}")
        arrays[part] = (images, labels.astype(np.int64))
    return arrays


def _place(folder: Path) -> Path | None:
    """Where in the folder the four files are."""
    return next((folder / below for below in _BELOW if all(_file(folder / below / name) for name in _names())), None)


def _names() -> list[str]:
    return [f"{prefix}-{kind}-ubyte" for prefix in _FILES.values() for kind in ("images-idx3", "labels-idx1")]


def _file(path: Path) -> Path | None:
    """The file of this name, packed or not."""
    return next((candidate for candidate in (path.with_name(path.name + ".gz"), path) if candidate.is_file()), None)


def _array(path: Path) -> np.ndarray:
    found = _file(path)
    try:
        return read_idx(found)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"can't read {found}: {error or type(error).__name__}; fetch it anew") from error
