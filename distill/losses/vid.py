"""Variational information distillation: the student predicts the teacher's features, and learns how well each channel can be predicted."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs

_LEAST_VARIANCE = 1e-5  # CRD's repository


def vid(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """[N, C, ...], [C] and [N, C, ...] -> []: -log of the normal density without its constant, mean over every element."""
    variance = variance.reshape(-1, *(1,) * (target.ndim - 2))  # [C] -> [C, 1, 1] for maps
    return 0.5 * ((mean - target).square() / variance + variance.log()).mean()


class VID(DistillLoss):
    """The student's projected feature predicts the teacher's; channels that can't be predicted learn a large variance and count for little.

    Kind: feature
    Inputs: maps or vectors of both
    Equation: sum over layers of mean(((r(F_s) - F_t)^2 / v + log v) / 2), v = softplus(a) + 1e-5 for each channel of the teacher, a trained;
        r a 1x1 convolution with batch norm (a linear layer for vectors), the mean over every element. The constant log(2 pi) / 2
        is left out, so the value may be negative.
    Paper: Ahn, Hu, Damianou, Lawrence, Dai, 2019, arXiv 1904.05835
    Weights: CIFAR-100 1 (CRD's repository); ImageNet not known
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width and one number a channel for each layer, trained

    CRD's repository predicts with three 1x1 convolutions without batch norm where this has a Projector. The variances are parameters of the loss,
    so they are trained and kept in float32; in mdistiller's VID they stay at their initial values, because no optimizer gets to see them.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer1", "layer2", "layer3", "layer4"], initial_variance: float = 5.0):  # noqa: B006  never changed
        """Raises RecipeError unless the variance is above 0."""
        super().__init__(layers=layers)
        _require.positive(initial_variance=initial_variance)
        self._initial_variance = initial_variance

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)
        start = self._initial_variance + math.log(-math.expm1(-self._initial_variance))  # softplus(start) is the variance
        self.raw_variances = nn.ParameterList(torch.full((teacher.shapes[layer].channels,), start) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for layer, projector, raw in zip(self.layers, self.projectors, self.raw_variances, strict=True):
            mean = upcast(projector(student.features[layer]))
            terms.append(vid(mean, F.softplus(upcast(raw)) + _LEAST_VARIANCE, upcast(teacher.features[layer])))
        return added(terms)
