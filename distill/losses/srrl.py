"""Softmax regression representation learning: the teacher's own classifier must read the student's features as it reads its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, FeatureShape, ModelInfo, Outputs


class SRRL(DistillLoss):
    """The student's projected feature equals the teacher's in front of the classifier, and the teacher's classifier gives it the teacher's logits.

    Kind: feature
    Inputs: the student's last map; the teacher's "pooled", classifier and logits
    Equation: alpha mean((h - h_t)^2) + beta mean((W_t h + b_t - t)^2), h the mean over places of relu(r(F_s)), r a 1x1 convolution with batch norm to
        the width of h_t = the teacher's "pooled"; t the teacher's logits; means over the batch and over channels, or classes.
    Paper: Yang, Martinez, Bulat, Tzimiropoulos, 2021, ICLR, "Knowledge distillation via softmax regression representation learning"
    Weights: CIFAR-100 1 with alpha 1, beta 5 (NKD's repository); ImageNet 1 with alpha 1, beta 1 (the authors' code)
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width, trained; a product with the teacher's classifier

    The student's own classifier learns from the other losses only, such as ce.
    """

    def __init__(self, layer: str = "layer4", alpha: float = 1.0, beta: float = 1.0):
        """Raises RecipeError for a negative alpha or beta."""
        super().__init__(layers=[layer, "pooled"])
        _require.not_negative(alpha=alpha, beta=beta)
        self.layer, self.alpha, self.beta = layer, alpha, beta

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.head(teacher, "teacher")
        _require.maps(student.shapes, [self.layer], "student")
        ours = student.shapes[self.layer]
        self.projector = Projector(ours, FeatureShape(teacher.shapes["pooled"].channels, ours.height, ours.width))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pooled = upcast(self.projector(student.features[self.layer])).relu().mean(dim=(2, 3))  # [N, D]
        logits = F.linear(pooled, *_require.head_now(teacher))
        return self.alpha * F.mse_loss(pooled, upcast(teacher.features["pooled"])) + self.beta * F.mse_loss(logits, teacher.logits)
