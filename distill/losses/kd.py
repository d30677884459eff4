"""Knowledge distillation: the student imitates the teacher's softened answer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._standardise import standardised
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor) -> Tensor:
    """[N, K] and [N, K] -> []: T^2 KL(softmax(t / T) || softmax(s / T)), summed over classes, mean over the batch."""
    ours = F.log_softmax(student_logits / temperature, dim=1)
    theirs = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class KD(DistillLoss):
    """The student imitates the teacher's whole answer, softened by a temperature; T^2 keeps the gradient's size the same for every T.

    Kind: logit
    Inputs: logits of both
    Equation: T^2 sum_k p_k log(p_k / q_k), p = softmax(t / T), q = softmax(s / T); mean over the batch.
    Paper: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531, section 2
    Weights: CIFAR-100 ce 0.1, kd 0.9, temperature 4 (CRD's repository); ImageNet ce 0.5, kd 0.5, temperature 1 (mdistiller)
    Labels: not used
    Cost: none to speak of

    With `standardise`, both logits are first brought to mean 0 and standard deviation 1, as in ls_kd, and it needs all of the teacher's logits.
    """

    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, temperature: float = 4.0, standardise: bool = False):
        """Raises RecipeError unless the temperature is above 0."""
        super().__init__()
        _require.positive(temperature=temperature)
        self.temperature, self.standardise = temperature, standardise
        self.needs_all_logits = standardise  # mean and deviation are those of all of them

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours, theirs = standardised(student.logits, teacher.logits) if self.standardise else (student.logits, teacher.logits)
        return kd(ours, theirs, self.temperature)
