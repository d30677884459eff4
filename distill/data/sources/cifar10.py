"""CIFAR-10: 60,000 pictures of 32 px in 10 classes; downloaded if they are not there."""

from __future__ import annotations

from distill.data.sources.torchvision import Torchvision


class CIFAR10(Torchvision):
    """Reads `root/cifar-10-batches-py/`, as torchvision and the published archive lay it out. Its 10,000 test pictures are the test part.

    Source: Krizhevsky, 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1, *, download: bool = False):
        """root: by default a folder in the cache, to which it is downloaded. download: into `root` as well. Raises as Torchvision does."""
        super().__init__(root, image_size, val_fraction, name="CIFAR10", download=download)
