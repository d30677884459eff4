"""Maps of two networks brought to one size, for losses that compare place by place."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses.base import upcast


def pooled_to(feature_map: Tensor, size: tuple[int, ...]) -> Tensor:
    """[N, C, h, w] -> [N, C, *size]: the means over equal parts, taken in float32 at least; the map itself where it has that size."""
    height, width = size
    return feature_map if feature_map.shape[2:] == size else F.adaptive_avg_pool2d(upcast(feature_map), (height, width)).to(feature_map.dtype)


def to_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C_s, h, w] and [N, C_t, H, W] -> both with the smaller height and the smaller width, as in CRD's repository."""
    size = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    return pooled_to(student, size), pooled_to(teacher, size)
