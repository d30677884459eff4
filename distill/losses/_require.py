"""What losses ask of their arguments and of the two networks; each function raises RecipeError with the value and what would do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill.errors import RecipeError
from distill.structures import FeatureShape, Head, ModelInfo, Outputs


def positive(**values: float) -> None:
    """Raises RecipeError, with the argument's name, unless each value is above 0."""
    for name, value in values.items():
        if not value > 0:  # so that not-a-number is refused too
            raise RecipeError(f"{name} must be above 0, got {value}")


def not_negative(**values: float) -> None:
    """Raises RecipeError, with the argument's name, unless each value is 0 or more."""
    for name, value in values.items():
        if not value >= 0:
            raise RecipeError(f"{name} must be 0 or more, got {value}")


def equal_classes(student: ModelInfo, teacher: ModelInfo) -> None:
    """Raises RecipeError if the two networks' logits can't be compared class by class."""
    if student.num_classes != teacher.num_classes:
        raise RecipeError(f"the student has {student.num_classes} classes and the teacher {teacher.num_classes}; this loss compares their logits")


def head(info: ModelInfo, whose: str) -> Tensor:
    """The classifier's weight [K, D]. Raises RecipeError if the network does not end in a linear layer that this loss could use."""
    if info.head_weight is None:
        raise RecipeError(f"this loss needs the {whose}'s classifier as a linear layer, and {info.name} has none")
    return info.head_weight


def head_now(outputs: Outputs) -> Head:
    """The classifier as it is in this step, of a network that `head` has let pass at setup."""
    assert outputs.head is not None
    return outputs.head


def map_that_is_pooled(info: ModelInfo, layer: str, whose: str) -> None:
    """Raises RecipeError unless the classifier takes the mean of this map over its places, so that it can be asked about each place too."""
    width = head(info, whose).shape[1]
    maps(info.shapes, [layer], whose)
    channels = info.shapes[layer].channels
    if channels != width:
        raise RecipeError(f"the {whose}'s {layer!r} has {channels} channels and its classifier takes {width}: take the last map, such as 'layer4'")
    if layer in info.not_pooled:
        raise RecipeError(f"the {whose}'s classifier does not take the mean of {layer!r} as it is: something stands between them in {info.name}")


def values_before_activation(layers: Sequence[str]) -> None:
    """Raises RecipeError for a stage's own name, which stands for its values after the last activation."""
    for layer in layers:
        if layer in ("layer1", "layer2", "layer3", "layer4", "last"):
            raise RecipeError(f"{layer!r} is after the last activation, and this loss is about the values before it: take '{layer}.pre'")


def maps(shapes: dict[str, FeatureShape], layers: Sequence[str], whose: str) -> None:
    """Raises RecipeError if one of the layers gives a vector where this loss needs a feature map [N, C, H, W]."""
    for layer in layers:
        if not shapes[layer].is_map:
            raise RecipeError(f"the {whose}'s {layer!r} is a vector, and this loss needs a feature map such as 'layer3'")
