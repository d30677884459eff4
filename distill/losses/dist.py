"""DIST: the student's probabilities rise and fall with the teacher's, over the classes of a sample and over the samples of a class."""

from __future__ import annotations

from torch import Tensor

from distill.losses import _require
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs

_EPSILON = 1e-4  # deviation, as a share of the mean probability 1 / K, below which a row counts as constant: bounds the gradient there


def correlation(ours: Tensor, theirs: Tensor) -> Tensor:
    """[M, n] and [M, n] with values of the order of 1 -> [M]: Pearson's correlation of each row; two constant rows agree, with 1."""
    ours, theirs = (values - values.mean(dim=1, keepdim=True) for values in (ours, theirs))
    variances = [values.square().mean(dim=1) + _EPSILON**2 for values in (ours, theirs)]
    return ((ours * theirs).mean(dim=1) + _EPSILON**2) / (variances[0] * variances[1]).sqrt()


class DIST(DistillLoss):
    """The student keeps the teacher's relations: its probabilities correlate with the teacher's, whatever their mean and spread.

    Kind: logit
    Inputs: logits of both, of the whole batch
    Equation: T^2 (beta (1 - mean over samples of r(p_i, q_i)) + gamma (1 - mean over classes of r(p_k, q_k))), p = softmax(t / T),
        q = softmax(s / T), r Pearson's correlation, of a sample over the classes and of a class over the samples.
    Paper: Huang, You, Wang, Qian, Xu, 2022, arXiv 2205.10536, section 3
    Weights: CIFAR-100 2, temperature 4; ImageNet 2, temperature 1; beta and gamma 1, ce 1 (the authors' repository)
    Labels: not used
    Cost: none to speak of

    Equals the authors' code but for its guard: they add 1e-8 to the product of the lengths, which at 1000 classes is no longer small and lets the
    gradient reach 6e6 where all probabilities are equal. Here a row that is constant in both networks counts as correlated, so the term over
    classes is 0 in a batch of one.
    """

    batch_coupled = True
    zero_at_identity = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0):
        """Raises RecipeError unless the temperature is above 0, and beta and gamma 0 or more."""
        super().__init__()
        _require.positive(temperature=temperature)
        _require.not_negative(beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        num_classes = student.logits.shape[1]
        ours, theirs = ((outputs.logits / self.temperature).softmax(dim=1) * num_classes for outputs in (student, teacher))
        rows, columns = 1 - correlation(ours, theirs).mean(), 1 - correlation(ours.T, theirs.T).mean()
        return (self.beta * rows + self.gamma * columns) * self.temperature**2
