"""What the device can do at most: arithmetic and copies by themselves, and the least time that a part of a step could take by that."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.engine.timing import seconds_per_call

# large enough to reach the ceiling, small enough for a slow core: side of the matrices; N, channels and side of the convolution; bytes to copy
_ON_CPU = (1536, (32, 256, 14), 128 << 20)
_ON_GPU = (8192, (256, 256, 28), 256 << 20)
_SHARE = 0.3  # of the time that a measurement usually takes
_ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Ceilings(NamedTuple):
    """The highest speeds that were measured; the fastest call counts."""

    flops_per_second: float  # 2 for each multiply-accumulate
    flops_of: str  # what reached it
    bytes_per_second: float  # of a copy, reading and writing counted

    def floor(self, flops: float, num_bytes: float) -> tuple[float, str]:
        """(seconds that so much takes at least, what sets them): max(FLOP / F, bytes / B)."""
        seconds = {"arithmetic": flops / self.flops_per_second, "memory": num_bytes / self.bytes_per_second}
        limit = max(seconds, key=seconds.__getitem__)
        return seconds[limit], limit


@torch.no_grad()
def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Of random numbers: where all are zero, a GPU needs less power and is faster than it can be."""
    side, (num, channels, pixels), num_bytes = _ON_CPU if device.type == "cpu" else _ON_GPU
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    left, right = random(side, side), random(side, side)
    flops = {"matrix product": 2 * side**3 / min(seconds_per_call(lambda: left @ right, device, _SHARE))}
    maps, kernel = (random(*shape).to(memory_format=torch.channels_last) for shape in ((num, channels, pixels, pixels), (channels, channels, 3, 3)))
    work = 2 * 9 * num * (channels * pixels) ** 2
    flops["3x3 convolution"] = work / min(seconds_per_call(lambda: F.conv2d(maps, kernel, padding=1), device, _SHARE))
    source = torch.rand(num_bytes // 4, device=device, generator=generator)
    target = torch.empty_like(source)
    speed = 2 * num_bytes / min(seconds_per_call(lambda: target.copy_(source), device, _SHARE))
    best = max(flops, key=flops.__getitem__)
    return Ceilings(flops[best], best, speed)


class Traffic(TorchDispatchMode):
    """Inside, adds up the sizes of the tensors that each operator takes and gives: what passes through memory if each works by itself."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.num_bytes += _moved(func, _tensors((args, kwargs)), _tensors(result))
        return result


def _moved(func: Any, taken: list[Tensor], given: list[Tensor]) -> int:
    """Nothing for views and for memory that is only set aside."""
    places = set(map(_place, taken))
    is_view = not func._schema.is_mutable and all(_place(tensor) in places for tensor in given)
    if is_view or func._schema.name.rpartition("::")[2] in _ALLOCATES:
        return 0
    return sum(map(_size, taken)) + sum(map(_size, given))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)  # also of tensors without memory (meta)


def _size(tensor: Tensor) -> int:
    """In memory: an expanded tensor has many names for one number."""
    strides = tensor.stride() if tensor.layout == torch.strided else tensor.shape
    return tensor.element_size() * math.prod(length for length, stride in zip(tensor.shape, strides, strict=True) if stride)
