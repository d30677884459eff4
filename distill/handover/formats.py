"""Which formats a student can be exported in, what each needs, and how near it must be to the run. No torch: the command line reads the names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distill.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.models.zoo import Builders


class FormatModule(Protocol):
    """What the module of a format has."""

    def write(self, model: nn.Module, folder: Path, image_size: int, calibration: Tensor | None) -> Path:
        """The written file. model: in eval mode, float32, on the CPU, [N, 3, H, W] normalised -> [N, K]. calibration: such pictures."""

    def load(self, path: Path, plugins: Builders = ...) -> Callable[[Tensor], Tensor]:
        """What computes the logits [N, K] float32 of normalised float32 pictures [N, 3, H, W] by this file. Its config.json is beside it.
        plugins: what builds the networks that only plug-ins know."""


@dataclass(frozen=True)
class Format:
    """One format. The limits are those of the check before a file is put in place."""

    name: str
    module: str  # in distill.handover
    words: str
    packages: tuple[str, ...] = ()  # that must be importable, beyond what distill always needs
    extra: str = ""  # of distill, which installs them
    loader: str = ""  # the module that reads it in `distill predict`; empty for its own
    min_agreement: float = 1.0  # share of val pictures for which run and export name the same class
    max_difference: float | None = 1e-4  # of a logit, as a share of the largest; None for no limit
    max_lost: float = 0.0  # val top-1
    needs_calibration: bool = False
    travels_alone: bool = False  # its module can write into the file what config.json says

    def open(self) -> FormatModule:
        """Raises RecipeError that says what to install."""
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise RecipeError(f'{self.name} needs {" and ".join(missing)}, which is not installed here: pip install "distill[{self.extra}]"')
        return _module(self.module)

    @property
    def reader(self) -> FormatModule:
        """What `distill predict` reads it with."""
        return _module(self.loader) if self.loader else self.open()


def _module(name: str) -> FormatModule:
    return importlib.import_module(f"distill.handover.{name}")


_ALL = (
    Format("safetensors", "safetensors_file", "weights alone, with torchvision's names (timm's for timm's networks)"),
    # timm takes options of the network from config.json, which a stranger may have written: predict takes those that a recipe may have
    Format("timm", "timm_folder", "a folder that timm.create_model('local-dir:FOLDER', pretrained=True) loads", loader="safetensors_file"),
    Format("torch-export", "torch_export", "a program that torch.export.load reads without the network's class"),
    Format("onnx", "onnx", "for ONNX Runtime and others", packages=("onnx", "onnxscript", "onnxruntime"), extra="onnx", travels_alone=True),
    Format(
        "int8",
        "int8",
        "a program of torch with 8-bit weights and activations, for CPUs",
        packages=("torchao",),
        extra="int8",
        min_agreement=0.98,
        max_difference=None,
        max_lost=0.005,
        needs_calibration=True,
    ),
)
FORMATS = {one.name: one for one in _ALL}
PROGRAMS = (".pt2",)  # endings of files that can do anything when torch loads them
