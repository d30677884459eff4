"""Weighted transformed teacher matching: ttm, where samples count for more on which the teacher is not sure."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses._power import power_divergence, power_sum
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


class WTTM(DistillLoss):
    """The student's own answer matches the softened teacher, and samples count for more on which the teacher's answer is spread out.

    Kind: logit
    Inputs: logits of both
    Equation: u KL(p^g / u || q), u = sum_k p_k^g, p = softmax(t), q = softmax(s), g the exponent; mean over the batch.
    Paper: Zheng, Yang, 2024, ICLR, arXiv 2402.11148, section 4
    Weights: CIFAR-100 4 with exponent 0.2, ce 1 (VGG-13 to VGG-8, there beside CRD, the authors' README); ImageNet not verified
    Labels: not used
    Cost: none to speak of

    A sample's weight u is from 1 to K^(1 - g), so a good weight depends on the number of classes. Not 0 where the networks agree, as ttm.
    """

    def __init__(self, exponent: float = 0.2):
        """Raises RecipeError unless the exponent is above 0."""
        super().__init__()
        _require.positive(exponent=exponent)
        self.exponent = exponent

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        spread = power_sum(teacher.logits, self.exponent)
        return (spread * power_divergence(student.logits, teacher.logits, self.exponent)).mean()
