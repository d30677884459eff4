"""torch.compile for the teacher, and for student and losses: tried on a batch before training, measured, and dropped where it does not work."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.engine.distiller import Distiller
from distill.engine.gather import is_shared
from distill.engine.teacher import Teacher
from distill.engine.timing import seconds_per_call
from distill.structures import Batch, Outputs


@dataclass(frozen=True)
class Compiled:
    """What compiling took and brought, in seconds."""

    seconds_to_compile: float
    eager: float  # for one picture
    compiled: float

    @property
    def break_even(self) -> float:
        return pictures_to_pay(self.seconds_to_compile, self.eager, self.compiled)


def pictures_to_pay(seconds_to_compile: float, eager: float, compiled: float) -> float:
    """The number of pictures from which on compiling has paid; infinite for never. eager, compiled: seconds for one."""
    return seconds_to_compile / (eager - compiled) if eager > compiled else float("inf")


def compile_teacher(teacher: Teacher, batch: Batch) -> Compiled:
    """The teacher answers by a compiled form of its network from here on; whoever else uses the network does not. batch: of training's size.

    Raises whatever torch.compile raises where it can't; the teacher is then as it was.
    """
    device = teacher.network.mean.device
    options: Any = {"freezing": True} if device.type == "cpu" else None  # on CPUs only frozen weights are packed, and fused with what follows them
    compiled: Callable[[Tensor], Outputs] = torch.compile(teacher.network, dynamic=False, options=options)

    def use(is_compiled: bool) -> None:
        teacher.answer = compiled if is_compiled else teacher.network

    return _measured(use, lambda: teacher(batch), device, len(batch.images))


def compile_distiller(distiller: Distiller, batch: Batch, teacher: Outputs | None) -> Compiled:
    """Student and losses run as one compiled graph from here on, wherever the distiller is called. Weights and statistics stay as they are.

    Raises whatever torch.compile raises where it can't; the distiller is then as it was.
    """
    device = batch.images.device
    distiller.compile(dynamic=False)
    compiled = distiller._compiled_call_impl

    def use(is_compiled: bool) -> None:
        distiller._compiled_call_impl = compiled if is_compiled else None

    def step() -> None:
        distiller(batch, teacher).loss.backward()

    with _unchanged(distiller):
        return _measured(use, step, device, len(batch.images))


def _measured(use: Callable[[bool], None], work: Callable[[], object], device: torch.device, num_images: int) -> Compiled:
    share = 0.0 if is_shared() else 1.0  # several processes must take equally many steps: losses may wait for each other in them
    use(False)
    eager = statistics.median(seconds_per_call(work, device, share))
    try:
        use(True)
        started = time.perf_counter()
        work()
        seconds_to_compile = time.perf_counter() - started
        return Compiled(seconds_to_compile, eager / num_images, statistics.median(seconds_per_call(work, device, share)) / num_images)
    except BaseException:
        use(False)
        raise


@contextlib.contextmanager
def _unchanged(distiller: nn.Module) -> Iterator[None]:
    """In train mode inside; afterwards buffers, such as batch statistics and banks of a loss, are as before, and there are no gradients."""
    buffers, was_training = [(buffer, buffer.clone()) for buffer in distiller.buffers()], distiller.training
    distiller.train()
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        distiller.zero_grad(set_to_none=True)
        distiller.train(was_training)
