"""How much a training step has to compute and to move, counted without computing it, and what this machine reaches of each at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from distill.models.zoo import create_model

_SIDES = {"cuda": (4096, 8192, 12288), "cpu": (1024, 2048)}  # of the matrices
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}  # bytes: more than any cache holds
_SECONDS = {"cuda": 0.5, "cpu": 1.0}  # for each of them


class Work(NamedTuple):
    """Of one step."""

    flop: int  # two for each multiply-accumulate, of convolutions and matrix products
    moved_bytes: int  # what every operation of an eager step reads and writes, as if nothing stayed in a cache and nothing were fused

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.moved_bytes + other.moved_bytes)


class Ceilings(NamedTuple):
    flop_per_second: float  # of the fastest matrix product
    bytes_per_second: float  # of a copy, what it reads and what it writes together


class _Moved(TorchDispatchMode):
    """Adds what operations read and write; a view moves nothing."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
            self.num_bytes += sum(one.numel() * one.element_size() for one in tensors)
        return result


def work_of_step(student: str, teacher: str | None, *, batch_size: int, image_size: int, num_classes: int, dtype: torch.dtype) -> Work:
    """Of forward and backward of the student and, unless it is None, forward of the teacher; without loss and optimizer, which are small."""
    pictures = torch.empty(batch_size, 3, image_size, image_size, dtype=dtype, device="meta")
    with torch.device("meta"):
        models = [create_model(name, num_classes=num_classes).to(dtype) for name in (student, teacher) if name is not None]
    work = _count(lambda: models[0].train()(pictures).sum().backward())
    if teacher is not None:
        with torch.no_grad():
            work += _count(lambda: models[1].eval()(pictures))
    return work


def _count(run: Callable[[], object]) -> Work:
    with FlopCounterMode(display=False) as flop, _Moved() as moved:
        run()
    return Work(flop.get_total_flops(), moved.num_bytes)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of several; for tf32, with torch's flags set as for what is compared with it."""
    speeds = []
    for side in _SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))  # zeros would be multiplied faster
        speeds.append(2 * side**3 / _fastest(lambda left=left, right=right: left @ right, device))
    source = torch.randint(0, 256, (_COPIED[device.type],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceilings(max(speeds), 2 * source.nbytes / _fastest(lambda: target.copy_(source), device))


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest call but the first."""
    durations, finished = [], None
    while finished is None or len(durations) < 3 or time.perf_counter() < finished:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if finished is None:
            finished = time.perf_counter() + _SECONDS[device.type]
        else:
            durations.append(time.perf_counter() - started)
    return min(durations)
