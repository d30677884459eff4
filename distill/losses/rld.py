"""Refined logits: the student learns nothing from the teacher that speaks against the label."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses._target import divergence_without, log_odds, two_way_divergence
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def sample_confidence(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """[N, K], [N, K] and [N] int64 -> []: the student is to be as sure of the label as the teacher is of its best class; mean over the batch."""
    best = teacher_logits.argmax(dim=1)
    return two_way_divergence(log_odds(student_logits, labels), log_odds(teacher_logits, best)).mean()


def masked_correlation(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """[N, K], [N, K] and [N] int64 -> []: T^2 KL among the classes that the teacher ranks below the label; mean over the batch."""
    left_out = teacher_logits >= teacher_logits.gather(1, labels[:, None])
    return temperature**2 * divergence_without(student_logits / temperature, teacher_logits / temperature, left_out)


class RLD(DistillLoss):
    """Where the teacher errs, the student still learns how sure to be, and how the classes below the label relate, but not to prefer a wrong class.

    Kind: logit
    Inputs: logits of both, labels
    Equation: alpha T1^2 KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) + beta T^2 KL(p' || q'), p = softmax(t / T1), q = softmax(s / T1), y the label, p'
        and q' the softmax at T over the classes with t_k < t_y; T1 the confidence temperature; mean over the batch.
    Paper: Sun, Chen, Lyu, Chen, Chen, Wang, 2025, ICCV, arXiv 2408.07703
    Weights: CIFAR-100 1 with alpha 1, beta 8, temperature 4, warm-up over 20 of 240 epochs; ImageNet 1 with alpha 1, beta 0.5, temperature 1,
        warm-up over 1 of 100 epochs; the confidence temperature 1 in both (the authors' code)
    Labels: one class for each sample; soft labels are refused, since teacher and label are ranked against each other
    Cost: none to speak of

    The second term of a sample is 0 where the teacher ranks no class, or one alone, below the label. Not 0 where the networks agree on a wrong class.
    """

    needs_labels = True
    takes_soft_labels = False

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, confidence_temperature: float = 1.0):
        """Raises RecipeError for a negative alpha or beta, or a temperature that is not above 0."""
        super().__init__()
        _require.not_negative(alpha=alpha, beta=beta)
        _require.positive(temperature=temperature, confidence_temperature=confidence_temperature)
        self.alpha, self.beta, self.temperature, self.confidence_temperature = alpha, beta, temperature, confidence_temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        scale = self.confidence_temperature
        confidence = scale**2 * sample_confidence(student.logits / scale, teacher.logits / scale, batch.labels)
        return self.alpha * confidence + self.beta * masked_correlation(student.logits, teacher.logits, batch.labels, self.temperature)
