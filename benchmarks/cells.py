"""One cell of benchmarks.matrix: the framework's training step of one pair, size, batch, precision and teacher, timed and weighed."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo

from benchmarks.known import Known
from benchmarks.peak_memory import peak_bytes
from benchmarks.ready import make_pieces, make_trainer
from benchmarks.work import work_of_step
from distill.data.sources.base import DataSource, Part
from distill.recipe_files import load_recipe

NUM_CLASSES = 1000
OVERRIDES = {"eager": (), "compiled": ("fast=compile",)}  # what a recipe is told for each kind of step
LEAST_BLOCKS = 3


class Cell(NamedTuple):
    teacher: str
    student: str
    size: int  # pixels
    batch: int
    precision: str  # fp32, tf32 or bf16
    step: str  # eager or compiled
    answers: str  # online, or cached: known before the step

    @property
    def name(self) -> str:
        return f"{self.teacher}->{self.student} {self.size}px b{self.batch} {self.precision} {self.step} {self.answers}"


class Noise(DataSource):
    """Pictures of random bytes, which are there at once."""

    def __init__(self, image_size: int, num_train: int):
        self.image_size, self.class_names = image_size, [str(label) for label in range(NUM_CLASSES)]
        generator, first = torch.Generator().manual_seed(0), 0
        for name, num in (("train", num_train), ("val", 2), ("test", 2)):
            ids = np.arange(first, first + num)
            pixels = torch.randint(0, 256, (num, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
            setattr(self, name, Part(ids % NUM_CLASSES, ids, pixels=pixels))
            first += num


def measure(cell: Cell, steps: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """What a cell holds; {"failed": why} where there is too little memory for it."""
    try:
        return _measure(cell, steps, seconds, device)
    except (MemoryError, torch.OutOfMemoryError):
        failed = "out of memory"
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # as the CPU's allocator says it
            raise
        failed = "out of memory"
    gc.collect()  # the error held the step's tensors
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {"failed": failed}


def _measure(cell: Cell, steps: int, seconds: float, device: torch.device) -> dict[str, Any]:
    with allow_tf32(cell.precision == "tf32"):
        run = make_run(cell, steps, device)
        run()  # chooses algorithms, compiles
        peak = _peak(run, cell, device)
        durations = np.array(_time(run, seconds))
    dtype = torch.bfloat16 if cell.precision == "bf16" else torch.float32
    teacher = cell.teacher if cell.answers == "online" else None
    work = work_of_step(cell.student, teacher, batch_size=cell.batch, image_size=cell.size, num_classes=NUM_CLASSES, dtype=dtype)
    middle = float(np.median(durations)) / steps
    speeds = {"images_per_second": cell.batch / middle, "flop_per_second": work.flop / middle, "moved_bytes_per_second": work.moved_bytes / middle}
    spread = {"slowest_block": float(durations.max()), "fastest_block": float(durations.min()), "num_blocks": len(durations)}
    return {**speeds, **peak, **work._asdict(), **spread}


def _peak(run: Callable[[], None], cell: Cell, device: torch.device) -> dict[str, int | None]:
    """Bytes of an epoch beyond what was there before, and on CUDA with it."""
    if device.type == "cuda":
        return {"peak_bytes": peak_bytes(run, device), "highest_bytes": torch.cuda.max_memory_allocated(device)}
    return {"peak_bytes": peak_bytes(run, device) if cell.step == "eager" else None}  # what is compiled can't be watched there


def make_run(cell: Cell, steps: int, device: torch.device) -> Callable[[], None]:
    """Runs one epoch of so many steps."""
    torch._dynamo.reset()  # it would give up compiling after the eighth cell
    source, precision = Noise(cell.size, cell.batch * steps), "bf16" if cell.precision == "bf16" else "fp32"
    overrides = [f"student.model={cell.student}", f"teacher.model={cell.teacher}", "teacher.weights=random", "teacher.cache.use=off"]
    overrides += [f"data.global_batch_size={cell.batch}", "data.augment.padding=4", "data.augment.flip=0.5", "train.epochs=1"]
    overrides += ["train.warmup_epochs=0", "train.log_every=1000000", "train.lr=0.001", *OVERRIDES[cell.step]]
    recipe = load_recipe("r50_to_r18", overrides)
    pieces = make_pieces(recipe, source, device, precision)
    trainer = make_trainer(recipe, source, pieces, precision)
    if cell.answers == "cached":
        trainer.teacher = Known([pieces.teacher(batch) for batch in trainer.loader.epoch(0)])
        del pieces  # and with it the teacher's weights, which a run with kept answers does not need

    def run() -> None:
        trainer.step = trainer.epoch = 0
        trainer.train()

    return run


def _time(run: Callable[[], None], seconds: float) -> list[float]:
    """Of each block: the epoch's report waits for the device, so that a clock of the host sees all of it."""
    durations, finished = [], time.perf_counter() + seconds
    while len(durations) < LEAST_BLOCKS or time.perf_counter() < finished:
        started = time.perf_counter()
        run()
        durations.append(time.perf_counter() - started)
    return durations


@contextlib.contextmanager
def allow_tf32(is_allowed: bool) -> Iterator[None]:
    """Inside, products of float32 may be rounded to TF32, or may not. By torch's older flags: they must not be mixed with its newer ones."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = is_allowed
        yield
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value
