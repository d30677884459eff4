"""How long a network takes to answer, on this machine."""

from __future__ import annotations

import functools
import statistics

import torch

from distill.engine.network import Network
from distill.engine.timing import seconds_per_call


@torch.no_grad()
def latency(network: Network, image_size: int, batch_size: int) -> dict[str, float]:
    """Median milliseconds of one picture alone, of a batch, and how many calls were timed of each.

    Inside the clock: from uint8 pictures on the device to logits. Outside of it: reading and copying pictures, and the first call of each size.
    """
    found: dict[str, float] = {"batch_size": batch_size}
    for name, num in (("one_picture", 1), ("batch", batch_size)):
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randint(0, 256, (num, 3, image_size, image_size), dtype=torch.uint8, generator=generator).to(network.mean.device)
        durations = seconds_per_call(functools.partial(network, pictures), network.mean.device)
        found |= {f"{name}_ms": 1000 * statistics.median(durations), f"{name}_num_calls": len(durations)}
    return found
