"""Logit standardisation: the student imitates the pattern of the teacher's logits, whatever their mean and size."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses._standardise import standardised
from distill.losses.base import DistillLoss
from distill.losses.kd import kd
from distill.structures import Batch, ModelInfo, Outputs


class LogitStandardisedKD(DistillLoss):
    """The student imitates the pattern of the teacher's logits and may choose their mean and size itself.

    Kind: logit
    Inputs: logits of both
    Equation: T^2 KL(softmax(Z(t) / T) || softmax(Z(s) / T)), Z(x) = (x - mean(x)) / std(x) over the classes; mean over the batch.
    Paper: Sun, Ren, Li, Wang, Cao, 2024, CVPR, arXiv 2403.01427, section 3.2
    Weights: CIFAR-100 ce 0.1, ls_kd 9, temperature 2 (the authors' repository; 3 for some pairs); ImageNet the same
    Labels: not used
    Cost: none to speak of

    The same as kd with `standardise`, but for the default temperature. It says nothing of the size of the logits, so keep ce beside it. The deviation
    divides by K, as in the paper; the authors' code divides by K - 1.
    """

    zero_at_identity = True

    def __init__(self, temperature: float = 2.0):
        """Raises RecipeError unless the temperature is above 0."""
        super().__init__()
        _require.positive(temperature=temperature)
        self.temperature = temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return kd(*standardised(student.logits, teacher.logits), self.temperature)
