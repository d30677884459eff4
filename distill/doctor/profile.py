"""Where the time of a training step goes, on real batches, and how near it comes to what the device could do."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from distill.doctor.ceilings import Ceilings, Traffic, measure_ceilings
from distill.doctor.findings import Findings
from distill.doctor.marks import LOADER, OTHER, STUDENT, TEACHER, TRANSFER, Meter, marked, parts_of
from distill.engine import timing
from distill.engine.runtime import DTYPES
from distill.engine.trainer import Trainer

_SHARE = 2.0  # of the time that a measurement usually takes
_MOST_ROWS = 100
_STEPS_AHEAD = 5  # that a GPU may be behind the host; where it is waited for in each step, the host's work is not hidden


def profile(trainer: Trainer, precision: str, workers: int | None, found: Findings) -> dict[str, Any]:
    """Seconds, FLOP, bytes and floor of each part of a step and of the whole. workers: processes that read pictures, None for none.

    The trainer takes its own steps, with learning rate 0. Medians; with workers, whose batches come in bursts, of means over as many steps. With
    several processes each measures its own share, all in equally many steps.
    """
    trainer.evaluate, trainer.schedule, trainer.num_steps = lambda check: {"val_top1": 0.0}, lambda step: 0.0, 1 << 62
    device = trainer.accelerator.device
    every = max(1 if device.type == "cpu" else _STEPS_AHEAD, workers or 1)
    num_rows = _num_rows(_times(trainer, 1, 1, tells_parts=False)[-1][OTHER] * every, trainer.accelerator.num_processes)
    rows = _times(trainer, every, num_rows)
    whole = seconds = _median(rows, lambda row: sum(row.values()))
    if device.type != "cpu":  # there a part that is waited for can't overlap with the next
        seconds = _median(_times(trainer, every, num_rows, tells_parts=False), lambda row: sum(row.values()))
    counts, ceilings = _counts(trainer), measure_ceilings(device, DTYPES[precision])
    parts = _parts(parts_of(trainer), rows, whole, counts, ceilings)
    for part in parts:
        if part["part"] in (TEACHER, STUDENT) and not part["flops"]:
            found.warn(f"the {part['part']} has operators whose FLOP torch's counter does not know: its floor, and the step's, is too low")
    num_images = trainer.loader.sampler.global_batch_size // trainer.accelerator.num_processes
    report = {"device": device.type, "precision": precision, "num_processes": trainer.accelerator.num_processes}
    report |= {"images_per_step": num_images, "images_per_second": num_images / seconds}
    report |= {"seconds_per_step": seconds, "seconds_per_step_in_parts": whole, "num_steps": num_rows * every, "parts": parts}
    return report | {"ceilings": ceilings._asdict(), **_floor(parts, seconds, ceilings)}


def _num_rows(seconds: float, num_processes: int) -> int:
    """How many fit, in one process; several must take equally many steps."""
    fit = int(timing.SECONDS * _SHARE / seconds) if num_processes == 1 else 0
    return max(timing.LEAST_CALLS, min(_MOST_ROWS, fit))


def _times(trainer: Trainer, every: int, num_rows: int, *, tells_parts: bool = True) -> list[dict[str, float]]:
    """Seconds by part, of `every` steps each, after as many that are not counted."""
    device = trainer.accelerator.device

    def read() -> np.ndarray:
        timing.synchronise(device)
        return np.array([time.perf_counter()])

    meter = Meter(read, every=every, tells_parts=tells_parts)
    with marked(trainer, meter):
        trainer.train(until=trainer.step + every * (1 + num_rows))
    return [{part: float(value[0]) for part, value in row.items()} for row in meter.rows[1:]]


def _counts(trainer: Trainer) -> dict[str, tuple[int, int]]:
    """(FLOP, bytes) by part, of one step."""
    with Traffic() as traffic, FlopCounterMode(display=False) as counter:  # this one is asked first, and takes operators apart
        meter = Meter(lambda: np.array([counter.get_total_flops(), traffic.num_bytes]))
        with marked(trainer, meter):
            trainer.train(until=trainer.step + 1)
    return {part: (int(flops), int(num_bytes)) for part, (flops, num_bytes) in meter.rows[0].items()}


def _seconds_of(name: str, row: Mapping[str, float]) -> float:
    return row.get(name, 0.0)


def _parts(
    names: Sequence[str], rows: Sequence[Mapping[str, float]], whole: float, counts: Mapping[str, tuple[int, int]], ceilings: Ceilings
) -> list[dict[str, Any]]:
    """The rest of the step is what the others leave of the whole; medians don't quite add up."""
    seconds = {name: _median(rows, functools.partial(_seconds_of, name)) for name in names if name != OTHER}
    seconds[OTHER] = max(0.0, whole - sum(seconds.values()))
    parts = []
    for name, took in seconds.items():
        flops, num_bytes = (0, 0) if name in (LOADER, TRANSFER) else counts.get(name, (0, 0))  # they can be done beside the step
        floor, _ = ceilings.floor(flops, num_bytes)
        row = {"part": name, "seconds": took, "share": took / sum(seconds.values()), "flops": flops, "bytes": num_bytes}
        parts.append({**row, "floor_seconds": floor, "share_of_floor": floor / took if took and floor else None})
    return parts


def _floor(parts: Sequence[Mapping[str, Any]], seconds: float, ceilings: Ceilings) -> dict[str, Any]:
    flops, num_bytes = (sum(part[name] for part in parts) for name in ("flops", "bytes"))
    floor, limit = ceilings.floor(flops, num_bytes)
    return {"flops": flops, "bytes": num_bytes, "floor_seconds": floor, "limited_by": limit, "share_of_floor": floor / seconds}


def _median(rows: Sequence[Mapping[str, float]], value: Callable[[Mapping[str, float]], float]) -> float:
    return statistics.median(map(value, rows))
