"""How long a network takes to answer, on this machine."""

from __future__ import annotations

import statistics
import time

import torch

from distill.engine.network import Network

_SECONDS_MEASURED, _LEAST_CALLS = 1.0, 5


@torch.no_grad()
def latency(network: Network, image_size: int, batch_size: int) -> dict[str, float]:
    """Median milliseconds of one picture alone, of a batch, and how many calls were timed of each.

    Inside the clock: from uint8 pictures on the device to logits. Outside of it: reading and copying pictures, and the first call of each size.
    """
    found: dict[str, float] = {"batch_size": batch_size}
    for name, num in (("one_picture", 1), ("batch", batch_size)):
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randint(0, 256, (num, 3, image_size, image_size), dtype=torch.uint8, generator=generator).to(network.mean.device)
        durations = _durations(network, pictures)
        found |= {f"{name}_ms": 1000 * statistics.median(durations), f"{name}_num_calls": len(durations)}
    return found


def _durations(network: Network, pictures: torch.Tensor) -> list[float]:
    """Seconds of each call."""
    device = pictures.device.type

    def synchronise() -> None:
        if device in ("cuda", "mps"):
            getattr(torch, device).synchronize()

    network(pictures)  # the first call chooses algorithms and allocates
    durations, finished = [], time.perf_counter() + _SECONDS_MEASURED
    while len(durations) < _LEAST_CALLS or time.perf_counter() < finished:
        synchronise()
        started = time.perf_counter()
        network(pictures)
        synchronise()
        durations.append(time.perf_counter() - started)
    return durations
