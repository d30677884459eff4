"""Views: the augmented picture as a pure function of the picture and one row of random numbers.

All decisions (integer boxes, flips, factors, shares) are taken in float64 on the CPU, and pixels are computed in arithmetic that is exact or fixed to
the bit, so a view has the same bytes whatever the batch it travels in, the number of workers and processes, and the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distill.data.auto_augment import MAX_OPERATIONS, rand_augment, trivial_augment
from distill.data.colour import jitter
from distill.data.erasing import erase
from distill.data.mixing import Mixing
from distill.data.random_rows import Block, Draw
from distill.data.resizing import plain_view, random_boxes, resize_boxes

__all__ = ["Views", "plain_view", "resize_boxes"]

_TOP, _LEFT, _AREA, _RATIO, _FLIP = 0, 1, 2, 3, 4  # columns of the geometry block


@dataclass(frozen=True)
class Views:
    """How training pictures are varied, in this order, and the size that every picture is brought to.

    crop: "none", "padded" (zero-padded by `padding` pixels, then cropped at random) or "random_resized" (a box of `scale` share of the area and
    `ratio` width to height, resized). flip: the share of pictures mirrored left to right. auto: "none", "trivial" (TrivialAugment) or "rand"
    (RandAugment: `num_ops` operations of strength `magnitude`, 0 to 30). brightness, contrast, saturation, hue: as torchvision's ColorJitter. erase:
    the share of pictures of which a box of `erase_scale` share of the area is painted over. fill: the colour of what is painted over or moved in.
    mixing: what is done with the views of two pictures, which `apply` does not do.
    """

    size: int
    crop: str = "none"
    padding: int = 0
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.0
    auto: str = "none"
    num_ops: int = 2
    magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.3333)
    fill: tuple[int, int, int] = (0, 0, 0)
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self):
        if self.num_ops > MAX_OPERATIONS:
            raise ValueError(f"num_ops={self.num_ops} is more than {MAX_OPERATIONS}")

    @property
    def one_by_one(self) -> bool:
        """Whether each picture goes through operations of its own, which is work for worker processes."""
        return self.auto != "none"

    @property
    def mixes(self) -> bool:
        return bool(self.mixing.mixup or self.mixing.cutmix) and self.mixing.probability > 0

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """images [N, 3, H, W] uint8 -> [N, 3, size, size] uint8 on the images' device. draw: what these samples draw in this view."""
        images = self._placed(images, draw(Block.GEOMETRY))
        if self.auto == "trivial":
            rows = draw(Block.AUTO_AUGMENT)
            images = torch.stack([trivial_augment(image, row, self.fill) for image, row in zip(images, rows, strict=True)])
        elif self.auto == "rand":
            rows, how = draw(Block.AUTO_AUGMENT), {"num_ops": self.num_ops, "magnitude": self.magnitude}
            images = torch.stack([rand_augment(image, row, self.fill, **how) for image, row in zip(images, rows, strict=True)])
        spreads = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation, "hue": self.hue}
        if any(spreads.values()):
            images = jitter(images, draw(Block.COLOUR), **spreads)
        if self.erase:
            images = erase(images, draw(Block.ERASING), self.fill, probability=self.erase, scale=self.erase_scale)
        return images

    def _placed(self, images: Tensor, rows: np.ndarray) -> Tensor:
        mirrored = rows[:, _FLIP] < self.flip
        if self.crop == "random_resized":
            boxes = random_boxes(rows[:, [_TOP, _LEFT, _AREA, _RATIO]], self.scale, self.ratio, *images.shape[-2:])
            return resize_boxes(images, boxes, self.size, mirrored)
        images = plain_view(images, self.size)
        offsets = np.zeros((len(rows), 2), dtype=np.int64)
        if self.crop == "padded":
            offsets = (rows[:, [_TOP, _LEFT]] * (2 * self.padding + 1)).astype(np.int64) - self.padding
        return _shift(images, offsets, mirrored)


def _shift(images: Tensor, offsets: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Pictures moved by whole pixels, zeros where nothing was, and mirrored. [N, 3, S, S] uint8 -> the same shape."""
    if not offsets.any() and not mirrored.any():
        return images
    size = images.shape[-1]
    steps = np.arange(size)
    down = steps[None] + offsets[:, :1]  # [N, S] the source row of each row
    across = np.where(mirrored[:, None], steps[::-1][None], steps[None]) + offsets[:, 1:]
    visible = ((down >= 0) & (down < size))[:, :, None] & ((across >= 0) & (across < size))[:, None, :]  # [N, S, S]
    flat = np.clip(down, 0, size - 1)[:, :, None] * size + np.clip(across, 0, size - 1)[:, None, :]
    index = torch.from_numpy(flat.reshape(len(offsets), 1, -1)).to(images.device)
    moved = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1)).view_as(images)
    return moved * torch.from_numpy(visible).to(images.device).unsqueeze(1)
