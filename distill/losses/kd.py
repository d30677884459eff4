"""Knowledge distillation: the student imitates the teacher's softened answer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses.base import DistillLoss, require_equal_classes
from distill.structures import Batch, ModelInfo, Outputs


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """[N, K] and [N, K] -> []: T^2 KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch."""
    ours = F.log_softmax(student_logits / temperature, dim=1)
    theirs = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class KD(DistillLoss):
    """T^2 KL(p_teacher || p_student), both softened by the temperature T; T^2 keeps the gradient's size the same for every T.

    Hinton, Vinyals, Dean, 2015, arXiv 1503.02531, section 2. Usual weights: CIFAR-100 T 4, ce 0.1, kd 0.9 (CRD's repository); ImageNet T 1, ce 0.5,
    kd 0.5 (mdistiller).
    """

    def __init__(self, temperature: float = 4.0):
        """Raises RecipeError unless the temperature is above 0."""
        super().__init__()
        if not temperature > 0:  # so that not-a-number is refused too
            raise RecipeError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        require_equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return kd(student.logits, teacher.logits, self.temperature)
