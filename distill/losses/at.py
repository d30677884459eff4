"""Attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.losses import _require
from distill.losses._added import added
from distill.losses._sizes import to_one_size
from distill.losses.base import DistillLoss
from distill.structures import Batch, ModelInfo, Outputs


def attention(feature_map: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W]: sum over the channels of the squares, scaled to length 1 for each sample.

    The norm sums in float32 without a copy of the map in float32, which is most of what this loss would cost.
    """
    dtype = torch.float32 if feature_map.dtype in (torch.float16, torch.bfloat16) else None
    return F.normalize(torch.linalg.vector_norm(feature_map, dim=1, dtype=dtype).square().flatten(1), dim=1)


class AttentionTransfer(DistillLoss):
    """The student looks where the teacher looks: maps of squared activations, one for each layer, come close to each other.

    Kind: feature
    Inputs: maps of both; any widths
    Equation: sum over layers of mean((A_s - A_t)^2), A = a / |a|_2, a = sum over channels of F^2, at each place.
    Paper: Zagoruyko, Komodakis, 2017, arXiv 1612.03928, equation 2 with p = 2
    Weights: CIFAR-100 and ImageNet 1000 for the sum over the layers (the authors' code)
    Labels: not used
    Cost: a pass over each map; no parameters

    As in the authors' code, the mean over places stands in place of equation 2's norm: the weight is theirs. Of two maps of different sizes the
    larger is average-pooled to the smaller one's first, as in CRD's repository.
    A map of one place has one attention whatever is in it, and adds nothing: layer4 of pictures of 32 px.
    """

    needs_all_logits = False
    zero_at_identity = True

    def __init__(self, layers: list[str] = ["layer1", "layer2", "layer3", "layer4"]):  # noqa: B006  never changed
        super().__init__(layers=layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        _require.maps(student.shapes, self.layers, "student")
        _require.maps(teacher.shapes, self.layers, "teacher")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = (to_one_size(student.features[layer], teacher.features[layer]) for layer in self.layers)
        return added((attention(ours) - attention(theirs)).square().mean() for ours, theirs in pairs)
