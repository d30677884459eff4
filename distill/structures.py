"""The values that travel through one training step, and what a loss may know of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """What the loader yields. A NamedTuple because accelerate's device walk skips dataclasses."""

    images: Tensor  # [N, 3, H, W] uint8: not normalised, each network normalises its own copy
    labels: Tensor  # [N] int64
    sample_ids: Tensor  # [N] int64, row in the source
    view: Tensor  # [N] int64, which view of the sample this is


class Outputs(NamedTuple):
    """What one network answers for a batch."""

    logits: Tensor  # [N, K] float32 (float64 in precision fp64)
    features: dict[str, Tensor]  # only what a loss asked for: "layer1".."layer4" [N, C, H, W], "pooled" [N, D]


class StepOutput(NamedTuple):
    """What the Distiller answers for a batch."""

    loss: Tensor  # [] the weighted sum that is minimised, with gradient
    terms: dict[str, Tensor]  # [] each, detached, before its weight: what is logged
    logits: Tensor  # [N, K] detached


class FeatureShape(NamedTuple):
    """Shape of one feature without the batch axis; height and width are None for a vector."""

    channels: int
    height: int | None = None
    width: int | None = None

    @property
    def is_map(self) -> bool:
        return self.height is not None


@dataclass(frozen=True)
class ModelInfo:
    """What a loss may know of a network before training: tensors and shapes, never the module itself."""

    name: str
    num_classes: int
    shapes: dict[str, FeatureShape] = field(default_factory=dict)
    head_weight: Tensor | None = None  # [K, D], a detached copy of the classifier's weight
    head_bias: Tensor | None = None  # [K]
