"""Transformed teacher matching: the student, without a temperature, matches the softened teacher."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses._power import power_divergence
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


class TTM(DistillLoss):
    """The student's own answer, not a softened one, matches the softened teacher, which also keeps the student from being too sure.

    Kind: logit
    Inputs: logits of both
    Equation: KL(p^g / sum_k p_k^g || q), p = softmax(t), q = softmax(s), g the exponent; mean over the batch. As kd with temperature 1 / g for
        the teacher and 1 for the student, without T^2.
    Paper: Zheng, Yang, 2024, ICLR, arXiv 2402.11148, section 3
    Weights: CIFAR-100 45 with exponent 0.1, ce 1 (VGG-13 to VGG-8, the authors' README); ImageNet not verified
    Labels: not used
    Cost: none to speak of

    Not 0 where the networks agree, unless the exponent is 1: the student should be softer than the teacher. The authors' code raises probabilities to
    the power, which loses classes whose probability is 0 in float32; this multiplies logits.
    """

    def __init__(self, exponent: float = 0.1):
        """Raises RecipeError unless the exponent is above 0."""
        super().__init__()
        _require.positive(exponent=exponent)
        self.exponent = exponent

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return power_divergence(student.logits, teacher.logits, self.exponent).mean()
