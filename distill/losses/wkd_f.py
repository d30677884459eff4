"""Wasserstein distance of feature distributions: the mean and the spread of each channel over the map, as Gaussians, come close."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses._added import added
from distill.losses.base import DistillLoss, upcast
from distill.models.projector import Projector
from distill.structures import Batch, ModelInfo, Outputs

_EPSILON = 1e-5  # the authors' code; under the root, so that a channel that is the same everywhere has a gradient


def gaussians(feature_map: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """[N, C, H, W] -> means and standard deviations [N, C, grid, grid] of the places in each cell; a cell of one place deviates by sqrt(1e-5)."""
    centre = feature_map.mean(dim=(2, 3), keepdim=True)
    centred = feature_map - centre  # mean of squares minus square of the mean is exact enough only near 0
    mean = F.adaptive_avg_pool2d(centred, grid)
    variance = F.adaptive_avg_pool2d(centred.square(), grid) - mean.square()
    return mean + centre, (variance.clamp(min=0) + _EPSILON).sqrt()


def wkd_f(student: Tensor, teacher: Tensor, mean_weight: float | Tensor, grid: int) -> Tensor:
    """[N, C, H, W] twice -> []: squared 2-Wasserstein distance of diagonal Gaussians, sum over channels, mean over cells and over the batch."""
    (our_mean, our_deviation), (their_mean, their_deviation) = gaussians(student, grid), gaussians(teacher, grid)
    means, deviations = (our_mean - their_mean).square(), (our_deviation - their_deviation).square()
    return (mean_weight * means + deviations).sum(dim=1).mean()


class WKDFeature(DistillLoss):
    """Each channel's values over the map are taken for a Gaussian, and the student's, projected, comes close to the teacher's in mean and spread.

    Kind: feature
    Inputs: maps of both
    Equation: sum over layers of 1 / N sum over samples and channels of mean_weight (m_s - m_t)^2 + (d_s - d_t)^2; m the mean and d = sqrt(var + 1e-5)
        of a channel's values over the places, of r(F_s) and F_t, r a 1x1 convolution with batch norm; the mean over grid^2 cells of the map.
    Paper: Lv, Yang, Li, 2024, arXiv 2412.08139, WKD-F with diagonal covariances; squared 2-Wasserstein distance, its mean term weighted
    Weights: CIFAR-100 0.08 with mean_weight 4 (ResNet 32x4 to 8x4); ImageNet 0.02 with mean_weight 2 (ResNet-34 to 18), 0.005 (ResNet-50 to
        MobileNet) (the authors' code, all on the last map)
    Labels: not used
    Cost: one 1x1 convolution to the teacher's width for each layer, trained

    A map of one place has no spread: both deviations are then sqrt(1e-5), and only the means are compared. The authors divide the variance by the
    number of places minus 1, which is not a number there; here it is divided by the number. They use a ReLU after the projector, on ImageNet a
    bottleneck with a 3x3 convolution and a grid of 4, and on CIFAR-100 let the weight decay by a cosine from epoch 150 of 240.
    """

    needs_all_logits = False

    def __init__(self, layers: list[str] = ["layer4"], mean_weight: float = 2.0, grid: int = 1):  # noqa: B006  never changed
        """Raises RecipeError unless mean_weight is 0 or more and grid 1 or more."""
        super().__init__(layers=layers)
        _require.not_negative(mean_weight=mean_weight)
        if grid < 1:
            raise RecipeError(f"grid must be 1 or more, got {grid}: the number of cells along each side of the map")
        self.mean_weight, self.grid = mean_weight, grid

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")
        self.projectors = nn.ModuleList(Projector(student.shapes[layer], teacher.shapes[layer]) for layer in self.layers)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        terms = []
        for layer, projector in zip(self.layers, self.projectors, strict=True):
            ours, theirs = upcast(projector(student.features[layer])), upcast(teacher.features[layer])
            terms.append(wkd_f(ours, theirs, self.mean_weight, self.grid))
        return added(terms)
