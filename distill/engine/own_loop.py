"""A Distiller for somebody's own training loop: it is called with pictures and labels, and asks the teacher by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from distill.engine.distiller import Distiller
from distill.engine.network import Network
from distill.engine.teacher import Teacher
from distill.errors import DataError
from distill.losses.base import DistillLoss
from distill.structures import Batch, StepOutput

_NOT_GIVEN = -1  # labels and ids that no loss looks at
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class LoopDistiller(Distiller):
    """Student and losses as one module: `parameters()` are the student's and the losses' own, such as projectors; `state_dict()` has these too.

    It can be trained with any optimizer, moved by `.to`, wrapped in DDP or prepared by Accelerate, under autocast or not. The teacher is no part of
    it: frozen, in eval mode, in neither parameters() nor state_dict(); `.to` alone takes it along. `weights` may be changed between steps. The
    student that was given is the one that is trained; a copy of it, such as a moving average, is an ordinary network. Made by `make_distiller`.
    """

    def __init__(
        self,
        student: Network,
        teacher: Teacher | None,
        losses: Mapping[str, DistillLoss],
        weights: Mapping[str, float],
        *,
        image_size: int,
    ):
        """teacher: None where no loss needs one. losses, weights: by label. image_size: pixels a side that the losses were set up for."""
        super().__init__(student, losses, weights)
        self.teacher, self.image_size = teacher, image_size  # a Teacher is no Module, so that nothing here can train or save it

    # a Distiller of a run is given the teacher's answers too; this one asks for them, and nothing calls both by one name
    def forward(  # type: ignore[override]
        self, images: Tensor, labels: Tensor | None = None, *, sample_ids: Tensor | None = None, view: int | Tensor = 0
    ) -> StepOutput:
        """One batch -> .loss, with gradient, .terms by label (before their weights, detached) and .logits [N, K] (detached).

        images: [N, 3, H, W], as make_distiller was told: normalised floats, or uint8. labels: [N] whole numbers, or [N, K] shares of mixed pictures;
        may be left out where no loss needs them. sample_ids: [N] int64, each picture's place in the data set; for losses that remember pictures or
        draw random numbers for them, which are other ones for each `view` (a number, or one for each picture, [N] int64), such as the epoch.
        Raises DataError for pictures, labels or ids that can't be meant, or that a loss needs and that are not given.
        """
        batch = self._batch(images, labels, sample_ids, view)
        return super().forward(batch, None if self.teacher is None else self.teacher(batch))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LoopDistiller:
        super()._apply(fn, recurse)
        if self.teacher is not None:
            self.teacher.network._apply(fn, recurse)
        return self

    def _batch(self, images: Tensor, labels: Tensor | None, sample_ids: Tensor | None, view: int | Tensor) -> Batch:
        self._require_images(images)
        num, device = len(images), images.device
        if labels is None:
            self._require("needs_labels", "looks at labels: distiller(images, labels)")
            labels = torch.full((num,), _NOT_GIVEN, device=device)
        else:
            _require_rows("labels", labels, images)
            if labels.ndim > 2 or (labels.ndim == 1) is not (labels.dtype in _WHOLE):
                raise DataError(f"labels must be [N] whole numbers or [N, K] floats, got {_shown(labels)}")
            labels = labels.long() if labels.ndim == 1 else labels
        if sample_ids is None:
            hint = "each picture's place in your data set, and view=epoch for other random numbers in each epoch"
            self._require("needs_sample_ids", f"looks at sample_ids: distiller(images, labels, sample_ids=...), {hint}")
            sample_ids = torch.full((num,), _NOT_GIVEN, device=device)
        else:
            _require_ids("sample_ids", sample_ids, images)
        if isinstance(view, Tensor):
            _require_ids("view", view, images)
        else:
            view = torch.full((num,), view, device=device)
        return Batch(images, labels, sample_ids, view)

    def _require(self, need: str, what: str) -> None:
        for label, loss in self.each_loss():
            if getattr(loss, need):
                raise DataError(f"losses.{label}: {type(loss).__name__} {what}")

    def _require_images(self, images: Tensor) -> None:
        size, network = self.image_size, self.student
        if not isinstance(images, Tensor) or images.shape[1:] != (3, size, size) or not len(images):
            hint = f"this distiller was made for image_size={size}"
            raise DataError(f"images must be a tensor [N, 3, {size}, {size}], got {_shown(images)}; {hint}")
        if network.takes_normalised and not images.is_floating_point():
            hint = "this distiller takes normalised floats, as it was made without mean and std; make_distiller(..., mean=, std=) takes uint8"
            raise DataError(f"images are {_dtype(images)}, and {hint}")
        if not network.takes_normalised and images.dtype != torch.uint8:
            hint = "this distiller normalises uint8 pictures itself; for pictures that are normalised already leave out mean and std"
            raise DataError(f"images are {_dtype(images)}, and {hint}")
        if network.mean.dtype not in (torch.float32, torch.float64):
            raise DataError(f"this distiller was moved to {_dtype(network.mean)}: keep its weights in float32, and call it under torch.autocast")
        if images.device != network.mean.device:
            raise DataError(f"images are on {images.device} and the distiller is on {network.mean.device}: move one of them with .to")


def _require_rows(name: str, tensor: Tensor, images: Tensor) -> None:
    if not isinstance(tensor, Tensor) or tensor.ndim == 0 or len(tensor) != len(images):
        raise DataError(f"{name} must be a tensor with one row for each of the {len(images)} images, got {_shown(tensor)}")
    if tensor.device != images.device:
        raise DataError(f"{name} are on {tensor.device} and images on {images.device}: move them to the same device with .to")


def _require_ids(name: str, tensor: Tensor, images: Tensor) -> None:
    _require_rows(name, tensor, images)
    if tensor.ndim != 1 or tensor.dtype != torch.int64:
        raise DataError(f"{name} must be [N] int64, got {_shown(tensor)}")


def _shown(value: object) -> str:
    return f"{list(value.shape)} {_dtype(value)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
