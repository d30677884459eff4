"""The global batch of all processes, for losses that relate samples to each other; gradients find their way back to where they came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distill.structures import Batch, Outputs


def is_shared() -> bool:
    """Whether there are other processes whose samples belong to the same batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def everyones_batch(batch: Batch) -> Batch:
    """The global batch's labels, ids and views, without its images."""
    return Batch(batch.images[:0], everyones(batch.labels), everyones(batch.sample_ids), everyones(batch.view))


def everyones_outputs(outputs: Outputs, layers: Iterable[str]) -> Outputs:
    """Logits and these features of the global batch. The head is the same everywhere."""
    return Outputs(everyones(outputs.logits), {layer: everyones(outputs.features[layer]) for layer in layers}, outputs.head)


def everyones(tensor: Tensor) -> Tensor:
    """[n, ...] -> [n * processes, ...], in the order in which one process would see the samples; with gradient if it has one."""
    return _Gather.apply(tensor) if tensor.requires_grad else _gathered(tensor)


def _gathered(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.stack(parts, dim=1).flatten(0, 1)  # process r holds samples r, r + processes, r + 2 processes, ... of the global batch


class _Gather(torch.autograd.Function):
    """Every process computes the same loss from the whole batch. The backward adds up what all of them want of this process's samples, and DDP then
    takes the mean over processes: the student's gradient is that of one process, and so is that of the loss's own parameters."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may have given it to another node too
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() :: dist.get_world_size()].contiguous()
