"""Similarity-preserving distillation: pairs of samples that excite the teacher alike excite the student alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, Outputs


def similarities(features: Tensor) -> Tensor:
    """[N, ...] -> [N, N]: products of every two samples, each row scaled to length 1."""
    rows = upcast(features).flatten(1)
    return F.normalize(rows @ rows.T, p=2, dim=1)


class SimilarityPreserving(DistillLoss):
    """Pairs of samples that excite the teacher alike excite the student alike.

    Kind: relation
    Inputs: maps or vectors of both, of the whole batch; any widths and sizes
    Equation: sum over layers of |G_t - G_s|^2 / N^2, G the N x N products of the flattened features, each row divided by its length.
    Paper: Tung, Mori, 2019, arXiv 1907.09682, section 3
    Weights: CIFAR-100 3000 (CRD's repository); ImageNet not known
    Labels: not used
    Cost: one product of the flattened features with themselves for each network and layer

    The value falls like 1 / N for the same features: the weight is for batches of 64, multiply it by N / 64 for larger ones.
    torchdistill 1.1.5 divides each row by the sum of its absolute values instead, which makes the loss smaller by about N.
    """

    batch_coupled = True
    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, layers: list[str] = ["layer4"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return added((similarities(teacher.features[layer]) - similarities(student.features[layer])).square().mean() for layer in self.layers)
