"""Top-down fusion of a network's stages: each deep feature flows into the shallower ones, by attention over where it helps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models.norms import BatchNorm2d
from distill.structures import FeatureShape


class Fusion(nn.Module):
    """[N, C, H, W] maps of the student, shallow to deep -> maps in the teacher's shapes, in the same order. Vectors count as maps of 1x1.

    From the deepest on: x is the feature by 1x1 convolution and batch norm; the x of the level below, enlarged, is added to it, each times an
    attention map that a 1x1 convolution with sigmoid draws from both; a 3x3 convolution with batch norm leads to the teacher's width.
    Chen et al., 2021, arXiv 2104.09044: its attention-based fusion.
    """

    def __init__(self, student: Sequence[FeatureShape], teacher: Sequence[FeatureShape], mid_channels: int):
        super().__init__()
        self.sizes = [(shape.height or 1, shape.width or 1) for shape in teacher]
        self.enter = nn.ModuleList(_convolution(shape.channels, mid_channels, 1) for shape in student)
        self.attend = nn.ModuleList(nn.Conv2d(2 * mid_channels, 2, kernel_size=1) for _ in student[:-1])
        self.leave = nn.ModuleList(_convolution(mid_channels, shape.channels, 3) for shape in teacher)

    def forward(self, *features: Tensor) -> list[Tensor]:
        outputs = []
        deeper = None
        for level in reversed(range(len(features))):
            mixed = self.enter[level](as_map(features[level]))
            if deeper is not None:
                mixed = self._mix(level, mixed, F.interpolate(deeper, mixed.shape[2:]))
            deeper = mixed
            outputs.append(self.leave[level](mixed if mixed.shape[2:] == self.sizes[level] else F.interpolate(mixed, self.sizes[level])))
        return outputs[::-1]

    def _mix(self, level: int, ours: Tensor, deeper: Tensor) -> Tensor:
        attention = self.attend[level](torch.cat([ours, deeper], dim=1)).sigmoid()  # [N, 2, H, W]
        return ours * attention[:, :1] + deeper * attention[:, 1:]


def as_map(feature: Tensor) -> Tensor:
    """A map as it is, a vector [N, D] -> [N, D, 1, 1]."""
    return feature if feature.ndim == 4 else feature[:, :, None, None]


def _convolution(channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)  # as the authors start
    return nn.Sequential(convolution, BatchNorm2d(out_channels))
