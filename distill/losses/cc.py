"""Correlation congruence: a kernel between samples gives in the student what it gives in the teacher."""

from __future__ import annotations

import math

from torch import Tensor

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses._unit import unit
from distill.losses.base import DistillLoss
from distill.structures import Batch, Outputs


def gaussian(products: Tensor, width: float | Tensor, order: int) -> Tensor:
    """[N, N] inner products x of unit vectors -> [N, N]: exp(-width |a - b|^2) = exp(-2 width) exp(2 width x).

    The second factor is taken to this order of Taylor's series. The width is the paper's gamma.
    """
    scaled = 2 * width * products
    series = added(scaled**power / math.factorial(power) for power in range(1, order + 1))
    return math.e ** (-2 * width) * (1 + series)


class CorrelationCongruence(DistillLoss):
    """How strongly samples go together, by a kernel on their directions, is in the student what it is in the teacher.

    Kind: relation
    Inputs: vectors (or maps, flattened) of both, of the whole batch; any widths
    Equation: mean over the N^2 pairs of (C_t - C_s)^2, C_ij = sum over p = 0 .. P of exp(-2 gamma) (2 gamma)^p / p! (x_i x_j)^p, the
        Gaussian kernel exp(-gamma |x_i - x_j|^2) to order P, or C_ij = x_i x_j (bilinear); x of length 1; summed over layers.
    Paper: Peng et al., 2019, arXiv 1904.01802, section 3
    Weights: CIFAR-100 not known for this formula (CRD's repository: 0.02 for another one); ImageNet 0.003 (torchdistill's sample configuration,
        for trained embeddings that are not scaled to length 1)
    Labels: not used
    Cost: one product of the features with themselves for each network

    Compares every pair, so the order of the samples is of no consequence; CRD's repository multiplies the errors of neighbours in the batch
    instead. The paper embeds both networks' features by linear layers first. There is none here: a trained layer on the teacher's side could make
    all samples equal, and the pairs compare without one.
    """

    batch_coupled = True
    needs_all_logits = False
    zero_at_identity = True

    def __init__(
        self,
        layers: list[str] = ["pooled"],  # noqa: B006  never changed
        kernel: str = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
    ):
        """Raises RecipeError unless the kernel is "gaussian" or "bilinear", gamma above 0 and the order 1 or more."""
        super().__init__(layers=layers)
        if kernel not in ("gaussian", "bilinear"):
            raise RecipeError(f"kernel must be 'gaussian' or 'bilinear', got {kernel!r}")
        _require.positive(gamma=gamma, order=order)
        self.gamma, self._kernel, self._order = gamma, kernel, order

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return added((self._congruence(teacher.features[layer]) - self._congruence(student.features[layer])).square().mean() for layer in self.layers)

    def _congruence(self, features: Tensor) -> Tensor:
        """[N, ...] -> [N, N]."""
        rows = unit(features.flatten(1))
        products = rows @ rows.T
        return products if self._kernel == "bilinear" else gaussian(products, self.gamma, self._order)
