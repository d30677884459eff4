"""A model together with what it needs to answer for raw pictures: its normalisation, its precision, and the hooks on its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.data.resizing import plain_view
from distill.errors import RecipeError
from distill.models.hooks import FeatureHooks
from distill.models.zoo import head_path
from distill.structures import Head, Outputs


class Network(nn.Module):
    """Teacher and student alike: uint8 pictures in, float32 logits and the features that were asked for out.

    The normalisation lives here and not in the loader, because teacher and student may each expect their own. Its buffers are not part of the
    state dict, and `model` keeps its plain keys.
    """

    mean: Tensor  # [1, 3, 1, 1], of values 0 .. 255
    scale: Tensor  # [1, 3, 1, 1], what is multiplied by after the mean is taken off

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        layers: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        autocast_dtype: torch.dtype | None = None,
        channels_last: bool = True,
        image_size: int | None = None,
    ):
        """mean, std: [3] of the pictures in [0, 1]; None for both where pictures come as normalised floats. autocast_dtype: None for
        the model's own precision. image_size: pixels a side that the model is shown, whatever size the view has; None for the view's.
        Raises RecipeError for an unknown layer."""
        super().__init__()
        self.model, self.autocast_dtype, self.image_size = model, autocast_dtype, image_size
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.takes_normalised = mean is None
        if mean is None:
            mean, std = (0.0,) * 3, (1.0,) * 3
        assert std is not None  # they come together
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(1, 3, 1, 1)), persistent=False)
        self.aliases = dict(aliases or {})
        self.hooks = FeatureHooks(model, layers, self.aliases)
        path = head_path(model)
        self.fixed_head: Head | None = None  # what a frozen network says its classifier is, where its own weights are held in another precision
        # in a tuple, so that it is not a second name in the state dict
        self._head: tuple[Any, ...] = () if path is None else (model.get_submodule(path),)
        self._frozen: list[nn.Module] = []
        self._next: list[Network] = []  # who is given the normalised pictures; in a list, so that it is no part of this network
        self._given: tuple[Tensor, Tensor, int] | None = None  # pictures, the same normalised, and the version that these had then

    def freeze(self, paths: Sequence[str]) -> None:
        """Parts of the model that training leaves as they are: no gradient, and batch statistics that don't move. Raises RecipeError if unknown."""
        for path in paths:
            try:
                part = self.model.get_submodule(path)
            except AttributeError:
                known = ", ".join(name for name, _ in self.model.named_children())
                raise RecipeError(f"student.frozen: the model has no part {path!r}; it has {known}, and what is inside of them") from None
            part.requires_grad_(False)
            self._frozen.append(part)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def like(self, model: nn.Module, *, with_hooks: bool = False) -> Network:
        """Another model of the same kind, such as a moving average, seen through the same normalisation. with_hooks: it gives the same features."""
        copy = Network(
            model,
            mean=None if self.takes_normalised else (0.0,) * 3,
            std=None if self.takes_normalised else (1.0,) * 3,
            layers=self.hooks.names if with_hooks else (),
            aliases=self.aliases,
            autocast_dtype=self.autocast_dtype,
            channels_last=self.memory_format == torch.channels_last,
            image_size=self.image_size,
        )
        copy.mean, copy.scale = self.mean, self.scale
        return copy

    def hand_pixels_to(self, other: Network | None) -> None:
        """From now on `other` is given each batch as this network has normalised it, and need not do it again if it is shown the same pictures next.
        Nothing happens where it would normalise them otherwise. None ends it."""
        for network in self._next:
            network._given = None
        self._next = [other] if other is not None and self._normalises_like(other) else []

    def _normalises_like(self, other: Network) -> bool:
        settings = [(network.image_size, network.memory_format, network.mean.dtype, network.mean.device) for network in (self, other)]
        return settings[0] == settings[1] and torch.equal(self.mean, other.mean) and torch.equal(self.scale, other.scale)

    def _normalised(self, images: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a compiler fuses it with what follows
            return self._normalise(images)
        given, self._given = self._given, None
        if given is not None and given[0] is images and given[1]._version == given[2]:  # a network may write into what it is shown
            return given[1]
        pixels = self._normalise(images)
        for network in self._next:
            network._given = None if pixels.is_inference() else (images, pixels, pixels._version)  # inference tensors have no version
        return pixels

    def _normalise(self, images: Tensor) -> Tensor:
        if self.takes_normalised:
            return images.to(self.mean.dtype)
        if self.image_size is not None:
            images = plain_view(images, self.image_size)
        mean = self.mean
        return images.to(mean.dtype, memory_format=self.memory_format).sub_(mean).mul_(self.scale)

    def forward(self, images: Tensor) -> Outputs:
        """[N, 3, H, W] uint8, or normalised floats -> logits [N, K] float32 (float64 in a float64 network) and the features by name."""
        pixels = self._normalised(images)
        if self.autocast_dtype is None:
            logits = self.model(pixels)
        else:
            with torch.autocast(images.device.type, dtype=self.autocast_dtype):
                logits = self.model(pixels)
        logits = logits.to(self.mean.dtype)
        return Outputs(logits, self.hooks.pop(), self.head(logits))

    def head(self, logits: Tensor) -> Head | None:
        """The classifier's own tensors, so that a loss which uses the student's trains it too."""
        head = self.fixed_head
        if head is None and self._head:
            module = self._head[0]
            head = Head(module.weight, module.bias)
        return head if head is not None and len(head.weight) == logits.shape[1] else None
