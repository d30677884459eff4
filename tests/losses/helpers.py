"""Small values for the tests of losses."""

from __future__ import annotations

import torch

from distill.structures import Batch, FeatureShape, Head, ModelInfo, Outputs

STUDENT = torch.tensor([[0.25, 0.5, 0.25], [0.6, 0.3, 0.1]]).log()  # logits whose softmax is what stands here
TEACHER = torch.tensor([[0.5, 0.25, 0.25], [0.6, 0.3, 0.1]]).log()


def batch(labels, view: int = 0) -> Batch:
    """Labels [N] or [N, K]; sample ids 0 .. N - 1."""
    labels = torch.as_tensor(labels)
    ids = torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels, ids, torch.full_like(ids, view))


def outputs(logits: torch.Tensor | None = None, head: Head | None = None, **features: torch.Tensor) -> Outputs:
    return Outputs(torch.zeros(2, 3) if logits is None else logits, features, head)


def info(num_classes: int = 3, **shapes: FeatureShape) -> ModelInfo:
    return ModelInfo("net", num_classes, shapes)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
