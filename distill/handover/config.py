"""config.json of an export: which network it is, how pictures are made for it, and what its classes are called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import record
from distill.errors import DataError
from distill.models.saved import is_saved

CONFIG_FILE = "config.json"
_PREPARATION = {
    "colour": "RGB, upright as EXIF says",
    "crop": "the central square",
    "resize": "to image_size, bilinear, antialiased",
    "scale": "[0, 255] to [0, 1], then minus mean, divided by std",
}


@dataclass(frozen=True)
class Config:
    """What must be known beside the weights."""

    model: str  # as in a recipe
    norm: str
    stem: str
    arguments: dict[str, Any]
    image_size: int  # pixels a side
    mean: tuple[float, ...]  # per channel, of pictures in [0, 1]
    std: tuple[float, ...]
    class_names: list[str]
    format: str = "safetensors"
    file: str = ""
    extra: dict[str, Any] = field(default_factory=dict)  # what other libraries look for

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a picture is made for the network."""
        return {"image_size": self.image_size, "mean": list(self.mean), "std": list(self.std), **_PREPARATION}

    def facts(self) -> dict[str, str]:
        """As JSON by name, for a file that may be used without config.json."""
        return {"preprocessing": json.dumps(self.preprocessing), "label_names": json.dumps(self.class_names)}

    def write(self, folder: Path) -> None:
        """Into the folder's config.json."""
        model = {"name": self.model, "norm": self.norm, "stem": self.stem, "arguments": self.arguments}
        found: dict[str, Any] = {"format": self.format, "file": self.file, "model": model, "preprocessing": self.preprocessing}
        found |= {"num_classes": self.num_classes, "label_names": self.class_names, **self.extra}
        record.write_text(folder / CONFIG_FILE, json.dumps(found, indent=2, allow_nan=False) + "\n")


def read_config(folder: Path) -> Config:
    """Nothing in the file is trusted. Raises DataError if it is not one that an export wrote."""
    found, path = record.read_json(folder / CONFIG_FILE), folder / CONFIG_FILE
    try:
        model, pictures, names = found["model"], found["preprocessing"], found["label_names"]
        config = Config(
            model=_text(model["name"]),
            norm=_text(model["norm"]),
            stem=_text(model["stem"]),
            arguments=dict(model["arguments"]),
            image_size=_pixels(pictures["image_size"]),
            mean=_three(pictures["mean"]),
            std=_three(pictures["std"], above=0.0),
            class_names=[_text(name) for name in names],
            format=_text(found["format"]),
            file=_file_name(found["file"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path} is not one that distill export wrote ({what}); export the student again") from error
    if is_saved(config.model):  # a stranger's file may not say where to fetch from; an export names such a network timm/ARCHITECTURE
        raise DataError(f"{path} is not one that distill export wrote (model.name: {config.model!r} is no network's own name)")
    if config.num_classes < 2:
        raise DataError(f"{path}: there must be at least two classes in label_names")
    return config


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text"[:100])
    return value


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or Path(value).name != value or not value:
        raise ValueError(f"file: {value!r} is no name of a file beside it"[:100])
    return value


def _pixels(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
        raise ValueError(f"image_size: {value!r} is no number of pixels"[:100])
    return value


def _three(values: Any, above: float = -math.inf) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not all(math.isfinite(value) and value > above for value in numbers):
        raise ValueError(f"mean and std are three numbers each, not {values!r}"[:100])
    return numbers


def is_export(folder: Path) -> bool:
    """Whether an export may be in it; what of it can be used is found when it's read."""
    found = record.read_json(folder / CONFIG_FILE)
    return isinstance(found.get("preprocessing"), Mapping) and isinstance(found.get("file"), str)
