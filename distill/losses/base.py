"""The contract of a loss: what every loss is given, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.errors import RecipeError
from distill.structures import Batch, FeatureShape, ModelInfo, Outputs


class DistillLoss(nn.Module):
    """Base of every loss.

    A subclass says in `super().__init__(layers=[...])` which features it wants; in `setup` it makes projectors and other parameters from the shapes;
    in `forward` it answers a scalar, the mean over the batch. Its parameters are trained, moved, synchronised and averaged like the student's. It
    does not weigh itself, detach the teacher (its tensors come without gradient), or read the epoch. Its typed `__init__` is its part of a recipe.
    """

    needs_teacher = True  # False: works on labels alone; `teacher` may then be None
    batch_coupled = False  # True: relates samples to each other

    def __init__(self, layers: Sequence[str] = ()):
        super().__init__()
        self.layers = tuple(layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo | None) -> None:
        """Called once before the optimizer is made, with the shapes of the layers asked for."""

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """[] scalar with gradient, mean over the batch. Runs with autocast off."""
        raise NotImplementedError


def upcast(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is half-precision, else as it is: sums of squares overflow in float16, and float64 runs stay float64."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def require_equal_classes(student: ModelInfo, teacher: ModelInfo) -> None:
    """Raises RecipeError if the two networks' logits can't be compared class by class."""
    if student.num_classes != teacher.num_classes:
        raise RecipeError(f"the student has {student.num_classes} classes and the teacher {teacher.num_classes}; this loss compares their logits")


def require_maps(shapes: dict[str, FeatureShape], layers: Sequence[str], whose: str) -> None:
    """Raises RecipeError if one of the layers gives a vector where this loss needs a feature map [N, C, H, W]."""
    for layer in layers:
        if not shapes[layer].is_map:
            raise RecipeError(f"the {whose}'s {layer!r} is a vector, and this loss needs a feature map such as 'layer3'")
