"""Normalised distillation: cross-entropy with the teacher, of the label and of the other classes among themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._target import log_odds, log_softmax_without, only
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def nkd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, gamma: float | Tensor, temperature: float | Tensor) -> Tensor:
    """[N, K], [N, K] and [N] int64 -> []: the label's term plus gamma T^2 times that of the other classes, mean over the batch."""
    target = -log_odds(teacher_logits, labels).sigmoid() * F.logsigmoid(log_odds(student_logits, labels))
    left_out = only(labels, student_logits)
    ours, theirs = (log_softmax_without(logits / temperature, left_out) for logits in (student_logits, teacher_logits))
    others = -(theirs.exp() * ours).sum(dim=1)
    return (target + gamma * temperature**2 * others).mean()


class NKD(DistillLoss):
    """The teacher says how much the label's own term counts; the other classes are compared after each network's were brought to a sum of 1.

    Kind: logit
    Inputs: logits of both, labels
    Equation: -p_y log q_y - gamma T^2 sum_{k != y} p'_k log q'_k, p = softmax(t), q = softmax(s), y the label, p' = softmax(t / T) and
        q' = softmax(s / T) without it; mean over the batch.
    Paper: Yang, Zeng, Li, Zhang, Yuan, Li, 2023, ICCV, arXiv 2303.13005
    Weights: CIFAR-100 1 with gamma 3.5, temperature 3 (ResNet-34 to ResNet-18, the authors' code); ImageNet 1 with gamma 1.5, temperature 1, ce 1
    Labels: one class for each sample; soft labels are refused, since the split needs one target (the authors' code takes their largest)
    Cost: none to speak of

    A cross-entropy, not a divergence: it is not 0 where the networks agree.
    """

    needs_labels = True
    takes_soft_labels = False

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0):
        """Raises RecipeError for a negative gamma or a temperature that is not above 0."""
        super().__init__()
        _require.not_negative(gamma=gamma)
        _require.positive(temperature=temperature)
        self.gamma, self.temperature = gamma, temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return nkd(student.logits, teacher.logits, batch.labels, self.gamma, self.temperature)
