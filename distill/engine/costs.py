"""What a network costs to use: parameters, multiply-accumulates, and pictures per second on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.engine.network import Network

_SECONDS_MEASURED = 1.0


@dataclass(frozen=True)
class Costs:
    num_parameters: int
    gmacs: float  # 1e9 multiply-accumulates for one picture, forward
    images_per_second: float  # forward, in eval mode, in this run's precision, one process

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    def training_seconds(self, num_images: int) -> float:
        """About how long training on so many pictures takes: the backward pass costs twice the forward pass."""
        return 3 * num_images / self.images_per_second


@torch.no_grad()
def measure_costs(network: Network, image_size: int, batch_size: int = 64) -> Costs:
    """Measures for about a second. The network's mode is left as it was, and eval mode leaves its statistics alone."""
    was_training, device = network.training, network.mean.device
    network.eval()
    pictures = torch.randint(0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        network(pictures[:1])
    seconds = _median_seconds(network, pictures)
    network.train(was_training)
    num_parameters = sum(parameter.numel() for parameter in network.model.parameters())
    return Costs(num_parameters, round(counter.get_total_flops() / 2e9, 6), round(batch_size / seconds, 1))


def _median_seconds(network: Network, pictures: torch.Tensor) -> float:
    def synchronise() -> None:
        if pictures.device.type in ("cuda", "mps"):
            getattr(torch, pictures.device.type).synchronize()

    network(pictures)  # the first call chooses algorithms and allocates
    durations, finished = [], time.perf_counter() + _SECONDS_MEASURED
    while not durations or time.perf_counter() < finished:
        synchronise()
        started = time.perf_counter()
        network(pictures)
        synchronise()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)
