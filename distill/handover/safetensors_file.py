"""model.safetensors: the weights alone, under the network's own names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.handover.config import read_config
from distill.models.weight_files import save_weights
from distill.models.weights import load_weights
from distill.models.zoo import NO_PLUGINS, Builders, create_model

FILE = "model.safetensors"


def write(model: nn.Module, folder: Path, image_size: int, calibration: Tensor | None) -> Path:
    """The written file."""
    save_weights(model.state_dict(), folder / FILE, {"format": "pt"})
    return folder / FILE


def load(path: Path, plugins: Builders = NO_PLUGINS) -> Callable[[Tensor], Tensor]:
    """The network that config.json beside the file names, with its weights. Raises DataError or RecipeError; runs no code of theirs."""
    config = read_config(path.parent)
    options: dict[str, Any] = {"norm": config.norm, "stem": config.stem, "arguments": config.arguments, "plugins": plugins}
    with torch.random.fork_rng(devices=[]):
        model = create_model(config.model, num_classes=config.num_classes, **options)
    load_weights(model, config.model, str(path), num_classes=config.num_classes, role="student")
    return model.float().eval().requires_grad_(False)
