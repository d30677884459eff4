"""FitNet hints: the student's feature maps, projected, come close to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs


class FitNet(DistillLoss):
    """The student's feature, projected to the teacher's width and size, comes close to the teacher's, element by element.

    Kind: feature
    Inputs: maps or vectors of both
    Equation: sum over layers of mean((r(F_s) - F_t)^2), r a 1x1 convolution with batch norm (a linear layer for vectors), the mean over every
        element.
    Paper: Romero et al., 2015, arXiv 1412.6550, equation 3
    Weights: CIFAR-100 100 on layer2 (CRD's repository); ImageNet 10 on layer3 and layer4 (mmrazor)
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width for each layer, trained

    Trained together with the other losses, not in a stage of its own before them. Works on vectors such as "pooled" too.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer3"]):  # noqa: B006  never changed; a list, because the recipe shows it as one
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = zip(self.layers, self.projectors, strict=True)
        return added((upcast(projector(student.features[layer])) - upcast(teacher.features[layer])).square().mean() for layer, projector in pairs)
