"""A folder that timm loads: model.safetensors and the part of config.json that timm reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.errors import RecipeError
from distill.handover.config import Config
from distill.handover.safetensors_file import write
from distill.models.cifar_resnet import CIFAR_RESNETS
from distill.models.zoo import NO_PLUGINS, OWN, Builders

__all__ = ["load", "timm_config", "why_not", "write"]

_INSTEAD = "take --to safetensors (with distill's or torchvision's network), torch-export or onnx"
_WITHOUT_EFFECT = {"zero_init_residual"}  # arguments of ours that decide initial weights only
_KEPT = ("first_conv", "classifier", "fixed_input_size")  # of what timm says of its own network


def load(path: Path, plugins: Builders = NO_PLUGINS) -> Callable[[Tensor], Tensor]:
    """As anybody loads it."""
    import timm

    return timm.create_model(f"local-dir:{path.parent.resolve()}", pretrained=True).eval().requires_grad_(False)


def why_not(config: Config) -> str | None:
    """Why timm can't build this network, with what to do instead; None if it can."""
    family = config.model.rpartition("/")[0]
    if family == "torchvision":
        return f"{config.model} is a network of torchvision, which timm does not have under these names: {_INSTEAD}"
    if family == "timm":
        return _not_json(config.arguments)
    if config.model in CIFAR_RESNETS:
        return f"{config.model} is a network of distill for pictures of 32 px, which timm does not have: {_INSTEAD}"
    if config.model not in OWN:
        return f"{config.model} is a plug-in's network, which timm does not have: take --to safetensors (with the plug-in), torch-export or onnx"
    if config.stem != "imagenet":
        return f"timm's {config.model} has no stem {config.stem!r} (its first layers are stem: imagenet): {_INSTEAD}"
    if config.norm == "group":
        return f"timm's {config.model} has batch norms, and this student has norm: {config.norm}: {_INSTEAD}"
    if unknown := sorted(config.arguments.keys() - _WITHOUT_EFFECT):
        return f"timm's {config.model} is not told student.arguments {', '.join(unknown)} in the same way: {_INSTEAD}"
    return None


def _not_json(arguments: dict[str, Any]) -> str | None:
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"student.arguments can't be written as JSON ({error}): {_INSTEAD}"
    return None


def timm_config(model: nn.Module, config: Config) -> dict[str, Any]:
    """What timm reads in config.json, beside num_classes and label_names. Raises RecipeError if timm can't build the network."""
    if problem := why_not(config):
        raise RecipeError(problem)
    own = getattr(model, "pretrained_cfg", None) or {"first_conv": "conv1", "classifier": "fc"}
    pictures = {"mean": list(config.mean), "std": list(config.std), "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    described = {key: own[key] for key in _KEPT if own.get(key) is not None} | pictures
    described |= {"input_size": [3, config.image_size, config.image_size], "num_classes": config.num_classes}
    found = {"architecture": config.model.rpartition("/")[2].partition(".")[0], "pretrained_cfg": described}
    if config.model not in OWN and config.arguments:
        found["model_args"] = config.arguments
    return found
