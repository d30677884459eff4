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
from distill.engine.timing import seconds_per_call

_SHARE_OF_LATENCY = 0.3  # of the time that a measurement usually takes: it is shown, and nothing is decided by it


@dataclass(frozen=True)
class Costs:
    """What a network costs to keep and to run."""

    num_parameters: int
    gmacs: float  # 1e9 multiply-accumulates for one picture, forward
    images_per_second: float  # forward, in eval mode, in this run's precision, one process
    training_images_per_second: float | None = None  # forward, backward and an optimizer's step, no loader and no teacher; None: not measured
    latency_ms: float | None = None  # from one uint8 picture on the device to its logits, in this run's precision

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_costs(network: Network, image_size: int, *, batch_size: int = 64, is_trained: bool = False) -> Costs:
    """Measures for a good second, or two if it `is_trained`. The network is left as it was: what is trained to be timed is a copy."""
    was_training, device, image_size = network.training, network.mean.device, network.image_size or image_size
    generator = torch.Generator().manual_seed(0)  # of its own, so that measuring disturbs no other random number
    pictures = torch.randint(0, 256, (batch_size, 3, image_size, image_size), dtype=torch.uint8, generator=generator).to(device)
    network.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(pictures[:1])
        speed = batch_size / statistics.median(seconds_per_call(lambda: network(pictures), device))
        latency = 1000 * statistics.median(seconds_per_call(lambda: network(pictures[:1]), device, _SHARE_OF_LATENCY))
    network.train(was_training)
    training_speed = None
    if is_trained:
        training_speed = round(batch_size / statistics.median(seconds_per_call(_training_step(network, pictures), device)), 1)
    num_parameters = sum(parameter.numel() for parameter in network.model.parameters())
    return Costs(num_parameters, round(counter.get_total_flops() / 2e9, 6), round(speed, 1), training_speed, round(latency, 4))


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
