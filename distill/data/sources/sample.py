"""The embedded sample: 10,000 real pictures (Fashion-MNIST's t10k part, 28 px, 10 kinds of clothing) that come with the package.

It is Fashion-MNIST's *test* part: train on it to try things out, and never report a number from it as a Fashion-MNIST result.
Source: Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747; MIT licence beside the files.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from distill.data.sources.base import DataSource, Part, stratified_cut, to_rgb
from distill.errors import DataError

FOLDER = Path(__file__).parent / "fashion_mnist"
CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


class Sample(DataSource):
    """7,000 / 1,000 / 2,000 pictures for train / val / test, as many of each class, always the same ones."""

    mean = (0.2860,) * 3
    std = (0.3530,) * 3
    note = "Fashion-MNIST's t10k part, cut 7,000 / 1,000 / 2,000: not comparable with published Fashion-MNIST results"

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1):
        """`root` and `val_fraction` do not apply. Raises DataError if `root` is given."""
        if root is not None:
            raise DataError(f"data.root={root} means nothing with data.source=sample; for your own pictures set data.source=imagefolder")
        pixels = to_rgb(read_idx(FOLDER / "t10k-images-idx3-ubyte.gz"))
        labels = read_idx(FOLDER / "t10k-labels-idx1-ubyte.gz").astype(np.int64)
        rest, test = stratified_cut(labels, 0.2)
        train, val = (rest[chosen] for chosen in stratified_cut(labels[rest], 0.125))
        self.class_names = CLASS_NAMES
        self.image_size = image_size or pixels.shape[-1]
        self.train, self.val, self.test = (Part(labels[ids], ids, pixels=pixels[ids]) for ids in (train, val, test))


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not (the format is described at the end of yann.lecun.com/exdb/mnist)."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    num_axes = data[3]
    shape = np.frombuffer(data, dtype=">u4", count=num_axes, offset=4)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * num_axes).reshape(shape)
