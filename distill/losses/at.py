"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses.base import DistillLoss, require_maps, upcast
from distill.structures import Batch, ModelInfo, Outputs


def attention(feature_map: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W]: mean over the channels of the squares, scaled to length 1 for each sample."""
    return F.normalize(upcast(feature_map).square().mean(dim=1).flatten(1), dim=1)


class AttentionTransfer(DistillLoss):
    """sum over layers of mean((A_s - A_t)^2), A being the normalised map of squared activations; no parameters, any widths.

    Zagoruyko, Komodakis, 2017, arXiv 1612.03928, equation 2 with p = 2, and the authors' mean over positions in place of the norm: their
    weight is 1000 on CIFAR and ImageNet, for the sum over the layers.
    """

    def __init__(self, layers: list[str] = ["layer1", "layer2", "layer3", "layer4"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        require_maps(student.shapes, self.layers, "student")
        require_maps(teacher.shapes, self.layers, "teacher")
        for layer in self.layers:
            ours, theirs = student.shapes[layer], teacher.shapes[layer]
            if ours[1:] != theirs[1:]:
                raise RecipeError(
                    f"{layer}: the student's map is {ours.height}x{ours.width} and the teacher's {theirs.height}x{theirs.width}; "
                    "attention is compared place by place, so take layers of one size"
                )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return sum((attention(student.features[layer]) - attention(teacher.features[layer])).square().mean() for layer in self.layers)
