"""Probabilistic knowledge transfer: each sample has the same neighbours, with the same probabilities, as the teacher sees."""

from __future__ import annotations

from torch import Tensor

from distill.losses._added import added
from distill.losses._unit import unit
from distill.losses.base import DistillLoss
from distill.structures import Batch, Outputs

_EPSILON = 1e-7  # the authors' code


def neighbours(features: Tensor) -> Tensor:
    """[N, ...] -> [N, N]: how likely each sample is to pick each sample as a neighbour; rows sum to 1."""
    rows = unit(features.flatten(1))
    similarities = (rows @ rows.T + 1) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)


class ProbabilisticTransfer(DistillLoss):
    """Each sample has the same neighbours in the student's space, with the same probabilities, as in the teacher's.

    Kind: relation
    Inputs: vectors (or maps, flattened) of both, of the whole batch; any widths
    Equation: sum_ij p_ij log((p_ij + e) / (q_ij + e)) / N^2, p_ij = k_ij / sum_j k_ij of the teacher, q of the student,
        k = (cosine + 1) / 2, e = 1e-7; summed over layers.
    Paper: Passalis, Tefas, 2018, arXiv 1803.10837
    Weights: CIFAR-100 30000 (CRD's repository); ImageNet not known
    Labels: not used
    Cost: one product of the features with themselves for each network

    As in the authors' code, a sample is among its own neighbours, and the mean is over the N^2 pairs, which explains the weight. It
    falls like 1 / N for the same features: the weight is for batches of 64, multiply it by N / 64 for larger ones.
    """

    batch_coupled = True
    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, layers: list[str] = ["pooled"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for layer in self.layers:
            ours, theirs = neighbours(student.features[layer]), neighbours(teacher.features[layer])
            terms.append((theirs * ((theirs + _EPSILON) / (ours + _EPSILON)).log()).mean())
        return added(terms)
