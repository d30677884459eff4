"""Relational knowledge distillation: distances between samples, and angles between three of them, are those that the teacher sees."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._added import added
from distill.losses._unit import unit
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs

_EPSILON = 1e-6  # bounds the gradient of the distance of two equal samples, which is a root of 0


def differences(features: Tensor) -> Tensor:
    """[N, ...] -> [N, N, D]: from every sample to every sample."""
    rows = upcast(features).flatten(1)
    return rows[None] - rows[:, None]


def distances(differences: Tensor) -> Tensor:
    """[N, N, D] -> [N, N]: lengths, in units of their mean over pairs of two samples."""
    lengths = (differences.square().sum(dim=2) + _EPSILON**2).sqrt() - _EPSILON
    num_pairs = max(len(lengths) * (len(lengths) - 1), 1)
    return lengths / (lengths.sum() / num_pairs).clamp_min(_EPSILON)


def angles(differences: Tensor) -> Tensor:
    """[N, N, D] -> [N, N, N]: entry j, i, k is the cosine of the angle at sample j between samples i and k; 0 where i or k is j."""
    directions = unit(differences)
    return torch.bmm(directions, directions.transpose(1, 2))


class RelationalKD(DistillLoss):
    """Distances between samples, and angles between three of them, are those that the teacher sees; where the samples lie is left free.

    Kind: relation
    Inputs: vectors (or maps, flattened) of both, of the whole batch; any widths
    Equation: distances mean_ij h(d_ij^t - d_ij^s) + angles mean_ijk h(a_ijk^t - a_ijk^s), summed over layers; d_ij = |x_i - x_j| over its mean
        for i != j, a_ijk = cos of the angle at j between i and k, h(x) = x^2 / 2 up to |x| = 1, then |x| - 1/2; means over N^2 and N^3.
    Paper: Park, Kim, Lu, Cho, 2019, arXiv 1904.05068, section 3.2
    Weights: CIFAR-100 1 with distances 25 and angles 50 (CRD's repository, mdistiller); ImageNet not known
    Labels: not used
    Cost: N^2 differences of the full width and N^3 angles: see extra_bytes

    The means count pairs of a sample with itself, whose error is 0, as the authors' code does. Two equal samples have a finite gradient.
    """

    batch_coupled = True
    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, layers: list[str] = ["pooled"], distances: float = 25.0, angles: float = 50.0):  # noqa: B006  never changed
        """Raises RecipeError unless both factors are 0 or more."""
        super().__init__(layers=layers)
        _require.not_negative(distances=distances, angles=angles)
        self.distances, self.angles = distances, angles

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        shapes = [info.shapes[layer] for info in (student, teacher) for layer in self.layers]
        self._num_values = sum(math.prod(size for size in shape if size is not None) for shape in shapes)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return added(self._of_layer(student.features[layer], teacher.features[layer]) for layer in self.layers)

    def _of_layer(self, ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = differences(ours), differences(theirs)
        return self.distances * F.smooth_l1_loss(distances(ours), distances(theirs)) + self.angles * F.smooth_l1_loss(angles(ours), angles(theirs))

    def extra_bytes(self, batch_size: int) -> int:
        return 4 * (2 * batch_size**2 * self._num_values + 4 * len(self.layers) * batch_size**3)  # differences and directions; angles and errors
