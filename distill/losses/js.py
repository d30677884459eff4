"""Jensen-Shannon divergence: student and teacher both come close to the mean of their answers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[N, K] and [N, K] -> []: T^2 times the divergence, summed over classes, mean over the batch."""
    ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    middle = torch.logaddexp(ours, theirs) - math.log(2)
    divergences = (log_p.exp() * (log_p - middle) for log_p in (ours, theirs))
    return 0.5 * added(divergences).sum(dim=1).mean() * temperature**2


class JensenShannon(DistillLoss):
    """The student imitates the teacher's answer by a divergence that is symmetric and never above T^2 log 2, so that no sample dominates.

    Kind: logit
    Inputs: logits of both
    Equation: T^2 (sum_k p_k log(p_k / m_k) + sum_k q_k log(q_k / m_k)) / 2, p = softmax(t / T), q = softmax(s / T), m = (p + q) / 2;
        mean over the batch.
    Paper: the divergence: Lin, 1991, IEEE Transactions on Information Theory 37(1); for distillation: Cui et al., 2021, arXiv 2103.05959 (SSLD)
    Weights: CIFAR-100 not known; ImageNet 1 without ce, temperature 1 (SSLD: from the teacher's answers alone; PaddleClas's
        documentation)
    Labels: not used
    Cost: none to speak of

    Where the two answers are close, it is a quarter of KL(p || q), and so of kd at the same temperature.
    """

    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, temperature: float = 1.0):
        """Raises RecipeError unless the temperature is above 0."""
        super().__init__()
        _require.positive(temperature=temperature)
        self.temperature = temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return jensen_shannon(student.logits, teacher.logits, self.temperature)
