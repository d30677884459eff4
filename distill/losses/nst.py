"""Neuron selectivity transfer: where the student's channels are active is distributed as in the teacher."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._added import added
from distill.losses._sizes import to_one_size
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs


def patterns(feature_map: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, P]: each channel's map scaled to length 1; a dead one is 0."""
    return F.normalize(upcast(feature_map).flatten(2), dim=2)


def _by_places(ours: int, theirs: int, places: int) -> bool:
    return 2 * places**2 < ours**2 + ours * theirs + theirs**2


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """[N, C_s, P] and [N, C_t, P] -> [N]: squared maximum mean discrepancy of the patterns under the kernel (a . b)^2.

    The kernel's feature of a is a a^T, so it is |1/C_s sum a a^T - 1/C_t sum b b^T|^2, of matrices [N, P, P]; where those are larger than the
    kernel's own, [N, C, C], the means of the kernel are taken: over all pairs of ours, of theirs, and twice less over those of one with the other.
    """
    if _by_places(student.shape[1], teacher.shape[1], student.shape[2]):
        ours, theirs = (each.mT @ each / each.shape[1] for each in (student, teacher))
        return (ours - theirs).square().sum(dim=(1, 2))
    pairs = ((student, student, 1), (teacher, teacher, 1), (student, teacher, -2))
    return added(factor * (one @ other.mT).square().mean(dim=(1, 2)) for one, other, factor in pairs)


class NeuronSelectivityTransfer(DistillLoss):
    """The places that single out a channel are matched as distributions: the student's channels are like draws from the teacher's.

    Kind: feature
    Inputs: maps of both; any widths
    Equation: sum over layers, mean over the batch of mean_ij (a_i . a_j)^2 + mean_ij (b_i . b_j)^2 - 2 mean_ij (a_i . b_j)^2; a_i and b_j the
        student's and the teacher's channel maps, each scaled to length 1.
    Paper: Huang, Wang, 2017, arXiv 1707.01219, polynomial kernel with d = 2 and c = 0
    Weights: CIFAR-100 50 (CRD's repository, sum over three maps); ImageNet 50 (the authors' code, last map)
    Labels: not used
    Cost: for each sample and layer, matrices of the smaller of P x P and C x C (P places, C channels); no parameters

    The same numbers as from the kernel's matrices, but through P x P ones where a map has fewer places than channels: 20 KB instead of 20 MB for
    a picture at the end of a ResNet-50. A map of one place says nothing of places, so take earlier layers for small pictures. Of two maps of
    different sizes the larger is average-pooled to the smaller one's first, as in CRD's repository.
    """

    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, layers: list[str] = ["layer4"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        self._numbers = 0
        for ours, theirs in ((student.shapes[layer], teacher.shapes[layer]) for layer in self.layers):
            channels, places = (ours.channels, theirs.channels), math.prod(map(min, ours.size, theirs.size))
            kernels = channels[0] ** 2 + channels[0] * channels[1] + channels[1] ** 2
            self._numbers += 2 * places**2 if _by_places(*channels, places) else kernels

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = (to_one_size(student.features[layer], teacher.features[layer]) for layer in self.layers)
        return added(discrepancy(patterns(ours), patterns(theirs)).mean() for ours, theirs in pairs)

    def extra_bytes(self, batch_size: int) -> int:
        return 3 * 4 * self._numbers * batch_size  # each matrix, its square and a gradient, in float32
