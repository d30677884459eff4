"""model.pt2: the network as a program of torch.export, for any number of pictures at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.errors import DistillError
from distill.models.zoo import NO_PLUGINS, Builders

FILE = "model.pt2"


def write(model: nn.Module, folder: Path, image_size: int, calibration: Tensor | None) -> Path:
    """The written file. Raises DistillError for a network that torch.export can't follow."""
    pictures = torch.zeros(2, 3, image_size, image_size)  # two: a single one would become part of the program
    try:
        program = torch.export.export(model, (pictures,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch.export has its own for each thing that it can't follow
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DistillError(f"torch.export can't follow {type(model).__name__}: {reason}; take --to safetensors or timm") from error
    torch.export.save(program, folder / FILE)
    return folder / FILE


def load(path: Path, plugins: Builders = NO_PLUGINS) -> Callable[[Tensor], Tensor]:
    """The program; plugins are not used. It can do anything when it is loaded: only for files of people whom one trusts."""
    return torch.export.load(path).module()
