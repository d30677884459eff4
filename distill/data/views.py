"""Views: the augmented picture as a pure function of the picture and one row of random numbers.

All decisions (integer boxes, flips) are taken in float64 on the CPU, and resizing is exact integer arithmetic, so a view has the same bytes
whatever the batch it travels in, the number of workers and processes, and the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Which column of a sample's row of random numbers decides what. Columns are never reused, so a new operation leaves the others' views alone.
_TOP, _LEFT, _AREA, _RATIO, _FLIP = 0, 1, 2, 3, 4

_ONE = 4096  # fixed-point one of the resize weights: 255 * 16 * 4096 < 2**24, so float32 sums of products are exact in any order
_KEPT = 16  # sixteenths of a grey level kept between the two passes


@dataclass(frozen=True)
class Views:
    """How training pictures are varied, and the size that every picture is brought to.

    crop: "none", "padded" (zero-padded by `padding` pixels, then cropped at random) or "random_resized" (a box of `scale` share of the area and
    `ratio` width to height, resized). torchvision draws such a box up to ten times until it fits; here the first one is trimmed to fit, which
    differs only for elongated pictures. flip: the share of pictures mirrored left to right.
    """

    size: int
    crop: str = "none"
    padding: int = 0
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.0

    def apply(self, images: Tensor, rows: np.ndarray) -> Tensor:
        """images [N, 3, H, W] uint8, rows [N, columns] -> [N, 3, size, size] uint8 on the images' device."""
        mirrored = rows[:, _FLIP] < self.flip
        if self.crop == "random_resized":
            height, width = images.shape[-2:]
            return resize_boxes(images, self._random_boxes(rows, height, width), self.size, mirrored)
        images = plain_view(images, self.size)
        offsets = np.zeros((len(rows), 2), dtype=np.int64)
        if self.crop == "padded":
            offsets = (rows[:, [_TOP, _LEFT]] * (2 * self.padding + 1)).astype(np.int64) - self.padding
        return _shift(images, offsets, mirrored)

    def _random_boxes(self, rows: np.ndarray, height: int, width: int) -> np.ndarray:
        """[N, 4] int64 of top, left, height, width inside a picture of this size."""
        area = (self.scale[0] + rows[:, _AREA] * (self.scale[1] - self.scale[0])) * height * width
        low, high = np.log(self.ratio)
        ratio = np.exp(low + rows[:, _RATIO] * (high - low))
        box_height = np.clip(np.rint(np.sqrt(area / ratio)), 1, height).astype(np.int64)
        box_width = np.clip(np.rint(np.sqrt(area * ratio)), 1, width).astype(np.int64)
        top = (rows[:, _TOP] * (height - box_height + 1)).astype(np.int64)
        left = (rows[:, _LEFT] * (width - box_width + 1)).astype(np.int64)
        return np.stack([top, left, box_height, box_width], axis=1)


def plain_view(images: Tensor, size: int) -> Tensor:
    """The unvaried picture: the central square, resized. images [N, 3, H, W] uint8 -> [N, 3, size, size] uint8."""
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    side = min(height, width)
    box = np.array([[(height - side) // 2, (width - side) // 2, side, side]])
    return resize_boxes(images, box.repeat(len(images), axis=0), size, np.zeros(len(images), dtype=bool))


def resize_boxes(images: Tensor, boxes: np.ndarray, size: int, mirrored: np.ndarray) -> Tensor:
    """Each picture's box, resized with an antialiasing triangle filter. [N, 3, H, W] uint8 -> [N, 3, size, size] uint8.

    boxes is [N, 4] int64 of top, left, height, width inside the picture; mirrored [N] bool turns the result left to right.
    """
    height, width = images.shape[-2:]
    down = _resize_weights(boxes[:, 0], boxes[:, 2], height, size)
    across = _resize_weights(boxes[:, 1], boxes[:, 3], width, size)
    across[mirrored] = across[mirrored, ::-1]
    device = images.device
    rows = torch.from_numpy(down).to(device).unsqueeze(1) @ images.float()  # [N, 1, size, H] @ [N, 3, H, W] -> [N, 3, size, W]
    rows = rows.mul_(_KEPT / _ONE).round_()
    result = rows @ torch.from_numpy(across).to(device).unsqueeze(1).transpose(2, 3)  # -> [N, 3, size, size]
    return result.div_(_KEPT * _ONE).round_().to(torch.uint8)


def _resize_weights(start: np.ndarray, length: np.ndarray, num_in: int, num_out: int) -> np.ndarray:
    """[N, num_out, num_in] float32 of whole numbers that add up to _ONE in each row: a triangle as wide as the reduction."""
    scale = (length / num_out)[:, None, None]
    width = np.maximum(scale, 1.0)
    centre = (np.arange(num_out)[None, :, None] + 0.5) * scale
    position = np.arange(num_in)[None, None, :] - start[:, None, None]
    inside = (position >= 0) & (position < length[:, None, None])
    weights = np.where(inside, np.maximum(0.0, 1.0 - np.abs(position + 0.5 - centre) / width), 0.0)
    shares = np.cumsum(weights / weights.sum(axis=2, keepdims=True), axis=2)
    weights = np.diff(np.rint(shares * _ONE), axis=2, prepend=0.0)  # rounding the running sum, not each weight, keeps the total exact
    return weights.astype(np.float32)


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
