"""Weighted soft labels: the teacher counts for more on samples where the student is still the worse of the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses.base import DistillLoss, label_shares
from distill.structures import Batch, ModelInfo, Outputs

_EPSILON = 1e-7  # the authors' code; for a teacher that is sure of the label


def wsld(student_logits: Tensor, teacher_logits: Tensor, shares: Tensor, temperature: float | Tensor) -> Tensor:
    """[N, K] three times -> []: T^2 times the weighted cross-entropy with the softened teacher, mean over the batch."""
    student_error, teacher_error = (-(shares * F.log_softmax(logits, dim=1)).sum(dim=1) for logits in (student_logits.detach(), teacher_logits))
    weight = -torch.expm1(-student_error / (teacher_error + _EPSILON))  # [N]
    ours, theirs = F.log_softmax(student_logits / temperature, dim=1), F.softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * (weight * -(theirs * ours).sum(dim=1)).mean()


class WSLD(DistillLoss):
    """Soft labels count for more on samples where the student's cross-entropy with the label is large against the teacher's.

    Kind: logit
    Inputs: logits of both, labels
    Equation: T^2 w (-sum_k p_k log q_k), p = softmax(t / T), q = softmax(s / T), w = 1 - exp(-CE(s, y) / CE(t, y)) without gradient, CE at
        temperature 1; mean over the batch.
    Paper: Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, 2021, ICLR, arXiv 2102.00650
    Weights: CIFAR-100 2.25 with temperature 4 (NKD's repository); ImageNet 2.5 with temperature 2, ce 1 (the authors' code)
    Labels: soft labels are taken as y in both cross-entropies
    Cost: none to speak of

    A cross-entropy, not a divergence: it is not 0 where the networks agree. A sample's weight is between 0 and 1; where the teacher is sure of the
    label, so that its cross-entropy is 0 in float32, it is 1 unless the student is as sure.
    """

    needs_labels = True

    def __init__(self, temperature: float = 4.0):
        """Raises RecipeError unless the temperature is above 0."""
        super().__init__()
        _require.positive(temperature=temperature)
        self.temperature = temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return wsld(student.logits, teacher.logits, label_shares(batch.labels, student.logits), self.temperature)
