"""Batches to try things on before training."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from distill.data.sources.base import DataSource
from distill.structures import Batch


def made_up_batch(source: DataSource, count: int, device: torch.device, *, soft_labels: bool = False) -> Batch:
    """Random pictures, the same ones each time, with the labels and ids of the first training samples: also where those pictures can't be read.

    soft_labels: labels [count, K] with equal shares of all classes in the batch, as mixed pictures have shares of several.
    """
    size = source.image_size
    images = torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).to(device)
    positions = torch.arange(count) % len(source.train)
    labels, sample_ids = (torch.from_numpy(values)[positions].to(device) for values in (source.train.labels, source.train.sample_ids))
    if soft_labels:
        labels = one_hot(labels, len(source.class_names)).to(torch.float32).mean(dim=0, keepdim=True).expand(count, -1)
    return Batch(images, labels, sample_ids, torch.zeros_like(sample_ids))
