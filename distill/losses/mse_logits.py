"""Logit matching: the student's logits come close to the teacher's, number by number."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


class MSELogits(DistillLoss):
    """The student's logits come close to the teacher's own, size and mean included: no softmax, no temperature.

    Kind: logit
    Inputs: logits of both
    Equation: mean((s - t)^2) over the classes and the batch.
    Paper: Ba, Caruana, 2014, arXiv 1312.6184, equation 1; Kim et al., 2021, arXiv 2105.08919, which compares it with kd
    Weights: CIFAR-100 1 without ce (Kim et al.'s code); ImageNet not known
    Labels: not used
    Cost: none to speak of

    For logits of mean 0, kd tends to half of this as its temperature grows. Ba and Caruana write half of the sum over classes; the mean is
    Kim et al.'s code, and keeps the weight independent of the number of classes.
    """

    zero_at_identity = True

    def __init__(self) -> None:
        super().__init__()

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return (student.logits - teacher.logits).square().mean()
