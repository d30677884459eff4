"""The values that travel through one training step, and what a loss may know of networks and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor


class HostKeys(NamedTuple):
    """Which pictures a batch has, in the memory of the host: to look something up by them, without waiting for the device."""

    sample_ids: np.ndarray  # [N] int64
    view: int
    num_replaced: int = 0  # pictures that could not be read, and that others stand in for


class Batch(NamedTuple):
    """What the loader yields. A NamedTuple because accelerate's device walk skips dataclasses."""

    images: Tensor  # [N, 3, H, W] uint8: not normalised, each network normalises its own copy
    labels: Tensor  # [N] int64, or [N, K] float rows that sum to 1 after mixup or cutmix; -1 where training has no labels
    sample_ids: Tensor  # [N] int64, row in the source
    view: Tensor  # [N] int64, which view of the sample this is
    host: HostKeys | None = None  # absent in a batch that was gathered from several processes, or cut

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """images, labels, sample_ids and view: what is moved to a device, or gathered."""
        return self.images, self.labels, self.sample_ids, self.view


class Head(NamedTuple):
    """The classifier as it is now: logits = pooled @ weight.T + bias. The student's is trained, the teacher's comes without gradient."""

    weight: Tensor  # [K, D]
    bias: Tensor | None  # [K]


class Outputs(NamedTuple):
    """What one network answers for a batch."""

    logits: Tensor  # [N, K] float32 (float64 in precision fp64)
    features: dict[str, Tensor]  # only what a loss asked for: "layer1".."layer4" [N, C, H, W], "layer1.pre".., "pooled" [N, D]
    head: Head | None = None  # None for a network that does not end in a linear layer


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
        """Whether it is a map [N, C, H, W], not a vector [N, D]."""
        return self.height is not None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a map. Raises ValueError for a vector, which has none."""
        if self.height is None or self.width is None:
            raise ValueError(f"a vector of {self.channels} values has no height and width")
        return self.height, self.width


class Norm(NamedTuple):
    """What the last batch norm before a feature multiplies by and adds: the feature's values there are about N(bias, weight^2) by channel."""

    weight: Tensor  # [C]
    bias: Tensor  # [C]


@dataclass(frozen=True)
class ModelInfo:
    """What a loss may know of a network before training: tensors and shapes, never the module itself."""

    name: str
    num_classes: int
    shapes: dict[str, FeatureShape] = field(default_factory=dict)
    head_weight: Tensor | None = None  # [K, D], a detached copy of the classifier's weight
    head_bias: Tensor | None = None  # [K]
    norms: dict[str, Norm] = field(default_factory=dict)  # by feature, detached copies; absent where no batch norm leads to it
    not_pooled: frozenset[str] = frozenset()  # the maps whose mean over places is not what the classifier takes


@dataclass(frozen=True)
class DataInfo:
    """What a loss may know of the training pictures."""

    sample_ids: Tensor  # [M] int64, each picture's row in the source: what a batch's sample_ids are taken from
    labels: Tensor  # [M] int64
