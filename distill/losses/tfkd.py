"""Teacher-free distillation: a virtual teacher that is nearly always right takes the place of a network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses.base import DistillLoss, label_shares
from distill.structures import Batch, Outputs


class TeacherFree(DistillLoss):
    """The student learns from a virtual teacher that gives the right class probability a and shares the rest equally, softened by a temperature.

    Kind: logit
    Inputs: the student's logits, labels
    Equation: sum_k v_k log(v_k / q_k), v = softmax(d / T), d = a for the label and (1 - a) / (K - 1) elsewhere, q = softmax(s);
        mean over the batch. No factor T^2.
    Paper: Yuan, Tay, Li, Wang, Feng, 2020, arXiv 1909.11723 (Tf-KD by regularisation)
    Weights: CIFAR-100 ce 0.9, tfkd 0.1, a 0.99, temperature 20 for ResNet-18 (the authors' code, whose factor 100 undoes its mean over the
        classes); ImageNet not known
    Labels: soft labels y give d = (1 - a) / (K - 1) + (a - (1 - a) / (K - 1)) y
    Cost: none to speak of

    As in the authors' code, the virtual teacher's probabilities, not logarithms of them, are divided by the temperature, and the student is not
    softened: at temperature 20 the target is close to uniform, and the loss is chiefly a brake on certainty.
    """

    needs_teacher = False
    needs_labels = True
    needs_all_logits = False

    def __init__(self, correct_probability: float = 0.99, temperature: float = 20.0):
        """Raises RecipeError unless 0 < correct_probability < 1 and the temperature is above 0."""
        super().__init__()
        if not 0 < correct_probability < 1:
            raise RecipeError(f"correct_probability must be above 0 and below 1, such as 0.99, got {correct_probability}")
        _require.positive(temperature=temperature)
        self.correct_probability, self.temperature = correct_probability, temperature

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        rest = (1 - self.correct_probability) / (student.logits.shape[1] - 1)
        virtual = rest + (self.correct_probability - rest) * label_shares(batch.labels, student.logits)
        target = F.log_softmax(virtual / self.temperature, dim=1)
        return F.kl_div(F.log_softmax(student.logits, dim=1), target, reduction="batchmean", log_target=True)
