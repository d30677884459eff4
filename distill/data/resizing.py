"""Crops and resizes pictures in whole numbers that float32 holds exactly: the same bytes in any batch and on any device.

Two products with small matrices, one for each axis, whose rows are the weights of an antialiasing triangle filter over an integer box. For a batch
of small pictures, and on other devices, they are matrices; for one large picture only the weights that are not zero.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_ONE = 4096  # fixed-point one of the resize weights: 255 * 16 * 4096 < 2**24, so float32 sums of products are exact in any order
_LARGE = 128 * 128  # pixels of pictures from which on a CPU resizes them one by one, each its own box only
_KEPT = 16  # sixteenths of a grey level kept between the two passes


def random_boxes(uniform: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float], height: int, width: int) -> np.ndarray:
    """[N, 4] int64 of top, left, height, width inside a picture of this size.

    uniform [N, 4] in [0, 1) decides top, left, area (a share within `scale`) and width to height (within `ratio`, evenly in its logarithm).
    torchvision draws such a box up to ten times until it fits; here the first one is trimmed to fit, which differs only for elongated pictures.
    """
    area = (scale[0] + uniform[:, 2] * (scale[1] - scale[0])) * height * width
    low, high = np.log(ratio)
    ratios = np.exp(low + uniform[:, 3] * (high - low))
    box_height = np.clip(np.rint(np.sqrt(area / ratios)), 1, height).astype(np.int64)
    box_width = np.clip(np.rint(np.sqrt(area * ratios)), 1, width).astype(np.int64)
    top = (uniform[:, 0] * (height - box_height + 1)).astype(np.int64)
    left = (uniform[:, 1] * (width - box_width + 1)).astype(np.int64)
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
    if images.device.type == "cpu" and (len(images) == 1 or images.shape[-2] * images.shape[-1] > _LARGE):
        cut = (image[:, top : top + high, left : left + wide] for image, (top, left, high, wide) in zip(images, boxes.tolist(), strict=True))
        return torch.stack([_resized(image, size, is_mirrored) for image, is_mirrored in zip(cut, mirrored.tolist(), strict=True)])
    if len(boxes) and (boxes == boxes[0]).all():  # the same box of all: nothing outside of it need be touched
        top, left, height, width = boxes[0]
        images, boxes = images[..., top : top + height, left : left + width], np.array([[0, 0, height, width]])
    down = _resize_weights(boxes[:, 0], boxes[:, 2], images.shape[-2], size)
    across = _resize_weights(boxes[:, 1], boxes[:, 3], images.shape[-1], size)
    if mirrored.any():
        across = np.where(mirrored[:, None, None], across[:, ::-1], across)
    device = images.device
    rows = _for_each(down, device) @ images.float()  # [., 1, size, H] @ [N, 3, H, W] -> [N, 3, size, W]
    rows = rows.mul_(_KEPT / _ONE).round_()
    result = rows @ _for_each(across, device).mT  # -> [N, 3, size, size]
    return result.div_(_KEPT * _ONE).round_().to(torch.uint8)


def _resized(image: Tensor, size: int, is_mirrored: bool) -> Tensor:
    """[3, H, W] uint8 -> [3, size, size] uint8: the same sums as by matrices, of the few products that are not zero."""
    height, width = image.shape[-2:]
    rows = _weighted(image.permute(1, 2, 0).reshape(height, -1).float(), *_taps(height, size))  # [H, W * 3] -> [size, W * 3]
    rows = rows.mul_(_KEPT / _ONE).round_()
    columns = rows.view(size, width, 3).transpose(0, 1).reshape(width, -1)  # [W, size * 3]
    near, weights = _taps(width, size)
    if is_mirrored:
        near, weights = near.flip(0), weights.flip(0)
    result = _weighted(columns, near, weights).div_(_KEPT * _ONE).round_()  # [size, size * 3], by column
    return result.view(size, size, 3).permute(2, 1, 0).to(torch.uint8)


def _weighted(rows: Tensor, near: Tensor, weights: Tensor) -> Tensor:
    """[M, C], near and weights [K, taps] -> [K, C]: sums of weighted rows."""
    total = rows.index_select(0, near[:, 0]).mul_(weights[:, :1])
    for tap in range(1, near.shape[1]):
        total.addcmul_(rows.index_select(0, near[:, tap]), weights[:, tap : tap + 1])
    return total


def _for_each(weights: np.ndarray, device: torch.device) -> Tensor:
    """[N, size, S] -> [N, 1, size, S], or [size, S] where one serves all."""
    tensor = torch.from_numpy(weights).to(device)
    return tensor[0] if len(tensor) == 1 else tensor.unsqueeze(1)


def _resize_weights(start: np.ndarray, length: np.ndarray, num_in: int, num_out: int) -> np.ndarray:
    """[N, num_out, num_in] float32 of whole numbers that add up to _ONE in each row."""
    weights = np.zeros((len(start), num_out, num_in), dtype=np.float32)
    for each, first, num in zip(weights, start.tolist(), length.tolist(), strict=True):
        each[:, first : first + num] = _kernel(num, num_out)
    return weights


@lru_cache(maxsize=64)  # small pictures have few lengths; for large ones it would hold much, and gain little
def _kernel(num_in: int, num_out: int) -> np.ndarray:
    """[num_out, num_in] float32 of whole numbers that add up to _ONE in each row."""
    near, weights = _band(num_in, num_out)
    kernel = np.zeros((num_out, num_in), dtype=np.float32)
    np.add.at(kernel, (np.arange(num_out)[:, None], near), weights)
    return kernel


@lru_cache(maxsize=1024)
def _taps(num_in: int, num_out: int) -> tuple[Tensor, Tensor]:
    near, weights = _band(num_in, num_out)
    return torch.from_numpy(near), torch.from_numpy(weights)


def _band(num_in: int, num_out: int) -> tuple[np.ndarray, np.ndarray]:
    """What each of `num_out` values is made of: positions [num_out, taps] int64 and their weights, float32 whole numbers that add up to _ONE, by a
    triangle as wide as the reduction. Positions outside of the picture weigh nothing."""
    scale = num_in / num_out
    width = max(scale, 1.0)
    centre = (np.arange(num_out) + 0.5) * scale
    near = np.floor(centre - width).astype(np.int64)[:, None] + np.arange(math.ceil(2 * width) + 2)
    inside = (near >= 0) & (near < num_in)
    taps = np.where(inside, np.maximum(0.0, 1.0 - np.abs(near + 0.5 - centre[:, None]) / width), 0.0)
    shares = np.cumsum(taps / taps.sum(axis=1, keepdims=True), axis=1)
    taps = np.diff(np.rint(shares * _ONE), axis=1, prepend=0.0)  # rounding the running sum, not each weight, keeps the total exact
    return np.clip(near, 0, num_in - 1), np.where(inside, taps, 0.0).astype(np.float32)
