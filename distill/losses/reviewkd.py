"""Knowledge review: the student's deep features flow back into its shallow ones, and the teacher's stages are learned from the mixture."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._added import added
from distill.losses._fusion import Fusion, as_map
from distill.losses._precision import in_own_precision
from distill.losses.base import DistillLoss, upcast
from distill.structures import Batch, ModelInfo, Outputs


def pyramid_mse(student: Tensor, teacher: Tensor, grids: Sequence[int] = (4, 2, 1)) -> Tensor:
    """[N, C, H, W] twice -> []: mean squared difference of the maps, and of the maps pooled to each smaller grid with half the weight of the one
    before, over the sum of those weights."""
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for grid in grids:
        if grid < min(student.shape[2:]):
            weight /= 2
            weights += weight
            total = total + weight * F.mse_loss(F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid))
    return total / weights


class ReviewKD(DistillLoss):
    """The student's deep features flow back into its shallow ones; each mixture comes close to the teacher's stage, as a whole and in coarse grids.

    Kind: feature
    Inputs: maps of both, shallow to deep, before the last activation of a stage; "pooled" may follow as the last
    Equation: sum over levels of H(U_l, F_t,l); U_l the fusion of the student's levels l and deeper (see _fusion.py);
        H(x, y) = sum_g w_g mean((pool_g x - pool_g y)^2) / sum_g w_g over the whole map (w = 1) and grids of 4, 2 and 1 (w = 1/2, 1/4, 1/8),
        each only where it is smaller than the map; a map of 2x2 has w = 1 and 1/2.
    Paper: Chen, Liu, Zhao, Jia, 2021, arXiv 2104.09044
    Weights: CIFAR-100 5 (WRN-40-2 to 16-2 and 40-1, ResNet-32x4 to 8x4), 8 (32x4 to ShuffleNetV2), 0.6 (ResNet-56 to 20), 1 (110 to 32), growing
        over the first 20 of 240 epochs (mdistiller); ImageNet 1 (ResNet-34 to 18), 8 (ResNet-50 to MobileNetV1) (the authors' code)
    Labels: not used
    Cost: for each level a 3x3 convolution from `mid_channels` to the teacher's width: in small networks more than the student itself

    The authors' `mid_channels` is 512 for ResNet-18, 256 for MobileNetV1, and in CIFAR nets the student's deepest width. Maps of any size and shape
    are taken; the sizes that the authors type in for each pair of networks come from the maps here. A batch of one picture has no statistics on
    1x1 maps: their batch norms then take the running ones.
    """

    needs_all_logits = False

    def __init__(
        self,
        layers: list[str] = ["layer1.pre", "layer2.pre", "layer3.pre", "layer4.pre", "pooled"],  # noqa: B006  never changed
        mid_channels: int = 512,
    ):
        """Raises RecipeError unless there are channels."""
        super().__init__(layers=layers)
        _require.positive(mid_channels=mid_channels)
        self.mid_channels = mid_channels

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        self.fusion = Fusion([student.shapes[layer] for layer in self.layers], [teacher.shapes[layer] for layer in self.layers], self.mid_channels)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        fused = in_own_precision(self.fusion, *(student.features[layer] for layer in self.layers))
        targets = (as_map(teacher.features[layer]) for layer in self.layers)
        return added(pyramid_mse(upcast(ours), upcast(theirs)) for ours, theirs in zip(fused, targets, strict=True))
