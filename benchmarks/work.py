"""How much a training step has to compute and to move, counted without computing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.doctor.ceilings import Traffic
from distill.models.zoo import create_model


class Work(NamedTuple):
    """Of one step."""

    flop: int  # two for each multiply-accumulate, of convolutions and matrix products
    moved_bytes: int  # what every operation of an eager step reads and writes, as if nothing stayed in a cache and nothing were fused

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.moved_bytes + other.moved_bytes)


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
    with FlopCounterMode(display=False) as flop, Traffic() as moved:
        run()
    return Work(flop.get_total_flops(), moved.num_bytes)
