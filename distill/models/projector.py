"""The layer between a student's feature and a teacher's of another width or size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.models.norms import BatchNorm2d
from distill.structures import FeatureShape


class Projector(nn.Module):
    """A student's feature in the teacher's shape.

    Maps: [N, C_student, h, w] -> [N, C_teacher, H, W] by average pooling (only where the sizes differ), 1x1 convolution, batch norm.
    Vectors: [N, D_student] -> [N, D_teacher] by a linear layer with bias.
    Half-precision features are taken with float32 parameters, also where autocast is off, as it is around the losses; the result is half then.
    Raises RecipeError for a map to a vector or the reverse. Source: Romero et al. 2014 (FitNets), arXiv 1412.6550.
    """

    def __init__(self, student: FeatureShape, teacher: FeatureShape):
        super().__init__()
        if student.is_map != teacher.is_map:
            raise RecipeError(
                f"the student's feature is {_describe(student)} and the teacher's is {_describe(teacher)}: "
                "match a map with a map (layer1 .. layer4) or a vector with a vector (pooled)"
            )
        self.size: tuple[int, int] | None = None
        if student.is_map:
            if student[1:] != teacher[1:]:
                self.size = teacher.size
            self.conv = nn.Conv2d(student.channels, teacher.channels, kernel_size=1, bias=False)
            self.norm = BatchNorm2d(teacher.channels)
        else:
            self.linear = nn.Linear(student.channels, teacher.channels)
        self.is_map = student.is_map

    def forward(self, feature: Tensor) -> Tensor:
        is_half = feature.dtype in (torch.bfloat16, torch.float16)
        if is_half and next(self.parameters()).dtype != feature.dtype:
            with torch.autocast(feature.device.type, dtype=feature.dtype):
                return self._project(feature)
        return self._project(feature)

    def _project(self, feature: Tensor) -> Tensor:
        if not self.is_map:
            return self.linear(feature)
        if self.size is not None:  # before the convolution: the norm then sees what is compared, and a shrunk map costs less
            feature = F.adaptive_avg_pool2d(feature, self.size)
        return self.norm(self.conv(feature))


def _describe(shape: FeatureShape) -> str:
    if shape.is_map:
        return f"a map of {shape.channels} channels, {shape.height}x{shape.width}"
    return f"a vector of {shape.channels} values"
