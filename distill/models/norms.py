"""The normalisation layers a ResNet can be built with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from distill.errors import DistillError, RecipeError
from distill.models.blocks import NormLayer
from distill.suggestion import did_you_mean


def make_norm_layer(kind: str) -> NormLayer:
    """The function channels -> module behind a recipe's `norm`.

    batch: statistics of this process's batch. sync: of all processes' batches (for few pictures a GPU). group: of each picture by itself
    (Wu & He 2018, arXiv 1803.08494). frozen: those of the loaded weights, never updated; weights and bias neither.
    Raises RecipeError for another kind, DistillError for "sync" on a machine without CUDA: its layers take no CPU tensor while training.
    """
    if kind not in _NORM_LAYERS:
        raise RecipeError(f"norm {kind!r} is unknown: one of {', '.join(_NORM_LAYERS)}{did_you_mean(kind, _NORM_LAYERS)}")
    if kind == "sync" and not torch.cuda.is_available():
        raise DistillError("norm: sync needs CUDA, and this machine has none; use norm: batch (or group, where batches are small)")
    return _NORM_LAYERS[kind]


def _group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as in the paper, or the largest divisor of channels below that."""
    groups = max(count for count in range(1, 33) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


# FrozenBatchNorm2d drops num_batches_tracked while loading: checkpoints of nets with batch norm fit it.
_NORM_LAYERS: dict[str, NormLayer] = {
    "batch": nn.BatchNorm2d,
    "sync": nn.SyncBatchNorm,
    "group": _group_norm,
    "frozen": FrozenBatchNorm2d,
}


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm for projectors: where each channel has a single value, of which there is no variance, it takes its running statistics.

    torch's own raises there, which a batch of one picture on a map of 1x1 would run into.
    """

    def forward(self, feature: Tensor) -> Tensor:
        if self.training and feature.numel() == feature.shape[1]:
            return F.batch_norm(feature, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(feature)
