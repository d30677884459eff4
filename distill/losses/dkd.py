"""Decoupled distillation: how sure the teacher is of the label, and how it ranks the other classes, as two terms with weights of their own."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses._standardise import standardised
from distill.losses._target import divergence_without, log_odds, only, two_way_divergence
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def dkd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float | Tensor, beta: float | Tensor, temperature: float | Tensor
) -> Tensor:
    """[N, K], [N, K] and [N] int64 -> []: T^2 (alpha TCKD + beta NCKD), mean over the batch."""
    ours, theirs = student_logits / temperature, teacher_logits / temperature
    target = two_way_divergence(log_odds(ours, labels), log_odds(theirs, labels)).mean()
    others = divergence_without(ours, theirs, left_out=only(labels, ours))
    return temperature**2 * (alpha * target + beta * others)


class DKD(DistillLoss):
    """Takes kd apart: the label against all others, and the others among themselves, which count for little in kd where the teacher is sure.

    Kind: logit
    Inputs: logits of both, labels
    Equation: T^2 (alpha KL((p_y, 1 - p_y) || (q_y, 1 - q_y)) + beta KL(p' || q')), p = softmax(t / T), q = softmax(s / T), y the label, p' and q' the
        softmax without it; mean over the batch. With alpha 1 and beta 1 - p_y it is kd.
    Paper: Zhao, Cui, Song, Qiu, Liang, 2022, CVPR, arXiv 2203.08679, section 3
    Weights: CIFAR-100 1 with alpha 1, beta 2 to 8 by pair, temperature 4, warm-up over 20 of 240 epochs (mdistiller); ImageNet 1 with alpha 1,
        beta 0.5 (ResNet-34 to ResNet-18), temperature 1, warm-up over 1 of 100 epochs (mdistiller)
    Labels: one class for each sample; soft labels are refused, since the split needs one target
    Cost: none to speak of

    Where one class has all of the answer, the authors' code takes the logarithm of a sum of probabilities that is 0, and becomes infinite; this does
    not. With `standardise`, both logits are first brought to mean 0 and standard deviation 1; Sun et al., 2024, use temperature 2 and weight 9 then.
    """

    needs_labels = True
    takes_soft_labels = False
    zero_at_identity = True

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardise: bool = False):
        """Raises RecipeError for a negative alpha or beta, or a temperature that is not above 0."""
        super().__init__()
        _require.not_negative(alpha=alpha, beta=beta)
        _require.positive(temperature=temperature)
        self.alpha, self.beta, self.temperature, self.standardise = alpha, beta, temperature, standardise

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours, theirs = standardised(student.logits, teacher.logits) if self.standardise else (student.logits, teacher.logits)
        return dkd(ours, theirs, batch.labels, self.alpha, self.beta, self.temperature)
