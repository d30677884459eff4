"""What each process gathers from its own pictures: the running statistics of batch norms. Everything else is the same in all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn


def read_statistics(modules: Sequence[nn.Module]) -> Tensor:
    """[n] float64: all running means and variances of these modules, one after the other."""
    buffers = _buffers(modules)
    return torch.cat([buffer.flatten().double() for buffer in buffers]) if buffers else torch.zeros(0, dtype=torch.float64)


def write_statistics(modules: Sequence[nn.Module], values: Tensor) -> None:
    """The inverse of read_statistics."""
    buffers = _buffers(modules)
    for buffer, part in zip(buffers, values.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def average_statistics(modules: Sequence[nn.Module], accelerator: Accelerator) -> None:
    """Every process gets the mean over all. In float64, so that the mean of equal values is that value, and doing it twice changes nothing."""
    if accelerator.num_processes > 1 and _buffers(modules):
        write_statistics(modules, accelerator.reduce(read_statistics(modules), "mean"))


def _buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._NormBase)]
    return [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
