"""The contract of a loss: what every loss is given, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.losses._keyed import keyed_bits, keyed_uniform
from distill.structures import Batch, DataInfo, ModelInfo, Outputs

__all__ = ["DistillLoss", "keyed_bits", "keyed_uniform", "label_shares", "upcast"]


class DistillLoss(nn.Module):
    """Base of every loss.

    A subclass says in `super().__init__(layers=[...])` which features it wants; in `setup` it makes projectors and other parameters from the shapes;
    in `forward` it answers a scalar, the mean over the batch. Its parameters are trained, moved, synchronised and averaged like the student's. It
    does not weigh itself, detach the teacher (its tensors come without gradient), or read the epoch. Its typed `__init__` is its part of a recipe;
    a float argument that it keeps under the argument's own name can follow a schedule: it is then a 0-dim tensor that is rewritten each step.
    Randomness comes from `keyed_uniform`, so that it depends on the samples alone.

    `needs_all_logits = False` is for a loss that looks at none of the teacher's logits, or at nothing but their softmax at the temperature that it
    keeps as `temperature`, 1 if it has none. Where it depends on an argument, `__init__` sets it for this loss; the class has that of the defaults.
    """

    needs_teacher = True  # False: works on labels alone; `teacher` may then be None
    batch_coupled = False  # True: relates samples to each other, and gets the global batch of all processes, without its images
    needs_labels = False  # True: looks at batch.labels or data.labels, and is refused where pictures have none, so that all of these are -1
    needs_sample_ids = False  # True: looks at batch.sample_ids or batch.view, as keyed_uniform does; where a loop has none they are -1 and 0
    needs_all_logits = True  # False: classes with next to no share of the teacher's answer may share that evenly; see above
    takes_soft_labels = True  # False: refuses labels [N, K]; a loss that does not look at labels takes any
    zero_at_identity = False  # True: 0 where the student answers exactly what the teacher answers

    data: DataInfo | None = None  # the training pictures; there before `setup` is called

    def __init__(self, layers: Sequence[str] = ()):
        super().__init__()
        self.layers = tuple(layers)

    def setup(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Called once before the optimizer is made, with the shapes of the layers asked for; a refusal of these is a RecipeError.

        A loss with `needs_teacher = False` takes `teacher: ModelInfo | None`.
        """

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """[] scalar with gradient, mean over the batch. Runs with autocast off.

        A loss with `needs_teacher = False` takes `teacher: Outputs | None`.
        """
        raise NotImplementedError

    def extra_bytes(self, batch_size: int) -> int:
        """Memory that this loss needs at its peak for a global batch, beyond a few copies of what it is given; after `setup`."""
        return 0


def upcast(tensor: Tensor) -> Tensor:
    """[...] -> [...]: in float32 if it is half-precision, else as it is: sums of squares overflow in float16, and float64 runs stay float64."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def label_shares(labels: Tensor, logits: Tensor) -> Tensor:
    """[N] or [N, K] labels -> [N, K] in the logits' dtype: one-hot rows, or the soft labels as they are."""
    if labels.ndim == 2:
        return labels.to(logits.dtype)
    return torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
