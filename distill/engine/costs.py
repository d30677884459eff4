"""What a network costs to use: parameters, multiply-accumulates, and pictures per second on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill.engine.network import Network

_SECONDS_MEASURED = 1.0


@dataclass(frozen=True)
class Costs:
    num_parameters: int
    gmacs: float  # 1e9 multiply-accumulates for one picture, forward
    images_per_second: float  # forward, in eval mode, in this run's precision, one process
    training_images_per_second: float | None = None  # forward, backward and an optimizer's step, no loader and no teacher; None: not measured

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_costs(network: Network, image_size: int, *, batch_size: int = 64, is_trained: bool = False) -> Costs:
    """Measures for about a second, or two if it `is_trained`. The network is left as it was: what is trained to be timed is a copy."""
    was_training, device, image_size = network.training, network.mean.device, network.image_size or image_size
    generator = torch.Generator().manual_seed(0)  # of its own, so that measuring disturbs no other random number
    pictures = torch.randint(0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8, generator=generator).to(device)
    network.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(pictures[:1])
        speed = batch_size / _median_seconds(lambda: network(pictures), device)
    network.train(was_training)
    training_speed = round(batch_size / _median_seconds(_training_step(network, pictures), device), 1) if is_trained else None
    num_parameters = sum(parameter.numel() for parameter in network.model.parameters())
    return Costs(num_parameters, round(counter.get_total_flops() / 2e9, 6), round(speed, 1), training_speed)


def seconds_to_read(num_bytes: int) -> float:
    """For one row of so many bytes, of batches that are gathered from memory, as from a file's map whose pages are there."""
    num_rows = max(128, min(1 << 16, (256 << 20) // num_bytes))
    table, generator, durations = np.ones((num_rows, num_bytes), dtype=np.uint8), np.random.default_rng(0), []
    for batch in generator.integers(0, num_rows, (20, 64)):
        started = time.perf_counter()
        table[batch]
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) / 64


def _training_step(network: Network, pictures: torch.Tensor) -> Callable[[], None]:
    model = copy.deepcopy(network.model).requires_grad_(True)
    learner = network.like(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, fused=True)

    def step() -> None:
        learner(pictures).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    def synchronise() -> None:
        if device.type in ("cuda", "mps"):
            getattr(torch, device.type).synchronize()

    work()  # the first call chooses algorithms and allocates
    durations, finished = [], time.perf_counter() + _SECONDS_MEASURED
    while not durations or time.perf_counter() < finished:
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)
