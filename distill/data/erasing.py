"""Random erasing: a box of the picture is painted over (Zhong, Zheng, Kang, Li, Yang, 2017, arXiv 1708.04896)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.data.resizing import random_boxes

_WHETHER, _TOP, _LEFT, _AREA, _RATIO = 0, 1, 2, 3, 4  # columns of the erasing block
_RATIOS = (0.3, 3.3333)  # width to height, as in the paper and in torchvision


def erase(images: Tensor, rows: np.ndarray, fill: Sequence[int], *, probability: float, scale: tuple[float, float]) -> Tensor:
    """[N, 3, H, W] uint8 -> the same shape, with a box of `scale` share of the area in the colour `fill` in some of them."""
    height, width = images.shape[-2:]
    boxes = random_boxes(rows[:, [_TOP, _LEFT, _AREA, _RATIO]], scale, _RATIOS, height, width)
    boxes[rows[:, _WHETHER] >= probability] = 0
    colour = torch.tensor(fill, dtype=torch.uint8, device=images.device).view(1, 3, 1, 1)
    return torch.where(inside_boxes(boxes, height, width, images.device), colour, images)


def inside_boxes(boxes: np.ndarray, height: int, width: int, device: torch.device) -> Tensor:
    """[N, 4] int64 of top, left, height, width -> [N, 1, H, W] bool: which pixels lie in each picture's box."""
    top, left, box_height, box_width = (boxes[:, column, None] for column in range(4))
    down, across = np.arange(height)[None], np.arange(width)[None]
    rows = torch.from_numpy((down >= top) & (down < top + box_height)).to(device)
    columns = torch.from_numpy((across >= left) & (across < left + box_width)).to(device)
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
