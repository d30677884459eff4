"""How long a call takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SECONDS = 1.0  # that are spent on timing one thing
LEAST_CALLS = 5


def seconds_per_call(work: Callable[[], object], device: torch.device, share: float = 1.0) -> list[float]:
    """Of each call, until SECONDS x share have passed and there are LEAST_CALLS. A first one, which chooses algorithms, is not counted."""

    work()
    durations: list[float] = []
    finished = time.perf_counter() + SECONDS * share
    while len(durations) < LEAST_CALLS or time.perf_counter() < finished:
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        durations.append(time.perf_counter() - started)
    return durations


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()
