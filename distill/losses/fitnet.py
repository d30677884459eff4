"""FitNet hints: the student's feature maps, projected, come close to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs


class FitNet(DistillLoss):
    """sum over layers of mean((projector(F_s) - F_t)^2), the mean taken over every element; the projector is a 1x1 convolution with BatchNorm.

    Romero et al., 2015, arXiv 1412.6550, equation 3; trained together with the other losses, not in a stage of its own before them. Usual weights:
    CIFAR-100 layer2, 100 (CRD's repository); ImageNet layer3 and layer4, 10 (mmrazor). Works on vectors such as "pooled" too.
    """

    def __init__(self, layers: list[str] = ["layer3"]):  # noqa: B006  never changed; a list, because the recipe shows it as one
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = zip(self.layers, self.projectors, strict=True)
        return sum((upcast(projector(student.features[layer])) - upcast(teacher.features[layer])).square().mean() for layer, projector in pairs)
