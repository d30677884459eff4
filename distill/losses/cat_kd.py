"""Class attention transfer: for every class, the student looks for it where the teacher does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill.errors import RecipeError
from distill.losses import _require
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs

_EPSILON = 1e-3  # bounds the gradient where a map is all zeros, as a classifier that starts at zero gives them; else it does not matter


def class_maps(feature_map: Tensor, classifier: Tensor, grid: int) -> Tensor:
    """[N, D, H, W] and [K, D] -> [N, K, grid, grid]: the classifier's answer at each place, averaged over the cells of a grid.

    Averaged first, which is the same, as the classifier is linear, and cheaper.
    """
    cells = F.adaptive_avg_pool2d(upcast(feature_map), grid).flatten(2)  # [N, D, cells]
    return (classifier @ cells).unflatten(2, (grid, grid))


def unit_length(maps: Tensor) -> Tensor:
    """[N, K, H, W] -> the same, each map of length 1; a map of zeros stays one."""
    return maps / (maps.square().sum(dim=(2, 3), keepdim=True) + _EPSILON**2).sqrt()


class CATKD(DistillLoss):
    """Class activation maps, the classifier applied at each place of the last map, come close to the teacher's, class by class.

    Kind: feature
    Inputs: last map and classifier of both; any widths and sizes
    Equation: mean((n(pool(A_s)) - n(pool(A_t)))^2) over batch, classes and cells; A = W F without the bias, pool the average over the cells of a
        grid x grid, n(x) = x / |x|_2 for each class's map, or nothing with `normalise: false`.
    Paper: Guo, Yan, Li, Lin, 2023, arXiv 2304.12777
    Weights: CIFAR-100 without normalising 0.7 to 15 for ResNets (15 ResNet-32x4 to 8x4), with it 15 to 600 for other students; ImageNet 0.5 without
        normalising, grid 4 (ResNet-34 to 18), 10 with it, grid 2 (ResNet-50 to MobileNetV2) (the authors' configs)
    Labels: not used
    Cost: the classifier on a few cells; no parameters of its own

    The mean over classes and cells is that of the authors' code: the weights are theirs. The student's classifier gets a gradient from this loss too.
    """

    needs_all_logits = False  # it looks at the teacher's map through its classifier, not at its logits
    zero_at_identity = True

    def __init__(self, layer: str = "layer4", grid: int = 2, normalise: bool = True):
        """Raises RecipeError unless there is a cell, and for maps of one cell that would be normalised."""
        super().__init__(layers=[layer])
        _require.positive(grid=grid)
        self.layer, self.grid, self.normalise = layer, grid, normalise
        if grid == 1:
            self._require_places("grid is 1")

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.equal_classes(student, teacher)
        for info, whose in ((student, "student"), (teacher, "teacher")):
            _require.map_that_is_pooled(info, self.layer, whose)
            if info.shapes[self.layer][1:] == (1, 1):
                self._require_places(f"the {whose}'s {self.layer!r} is a map of 1x1")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        ours, theirs = (class_maps(net.features[self.layer], _require.head_now(net).weight, self.grid) for net in (student, teacher))
        return F.mse_loss(unit_length(ours), unit_length(theirs)) if self.normalise else F.mse_loss(ours, theirs)

    def _require_places(self, reason: str) -> None:
        if self.normalise:
            raise RecipeError(f"{reason}, and a map of one place scaled to length 1 is only a sign: set normalise: false, or take larger pictures")
