"""The optimizer, and the learning rate as a pure function of the step, so that there is no schedule to save."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

Schedule = Callable[[int], float]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices and kernels with weight decay; norms, biases and learned scalars (fewer than two axes) without."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    module: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """SGD or AdamW over every parameter of the module that is trained, in the fused form."""
    groups = parameter_groups(module, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=True)
    for group in optimizer.param_groups if momentum > 0 else ():
        for parameter in group["params"]:  # torch makes them in the first step, and leaves them unset where that one is left out (found_inf)
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def make_schedule(
    *,
    lr: float,
    num_steps: int,
    warmup_steps: int = 0,
    kind: str = "cosine",
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    final_lr_fraction: float = 0.0,
) -> Schedule:
    """step -> learning rate. A linear warm-up that reaches `lr` in its last step, then cosine, steps at shares of the run, or constant."""

    def rate(step: int) -> float:
        if step < warmup_steps:
            return lr * (step + 1) / warmup_steps
        if kind == "constant":
            return lr
        if kind == "step":
            return lr * gamma ** sum(step >= milestone * num_steps for milestone in milestones)
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return lr * (final_lr_fraction + (1 - final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * done)))

    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Writes the rate into every group; in place where it is a tensor, so that a compiled step sees it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
