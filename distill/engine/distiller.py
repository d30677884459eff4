"""The whole method in one forward: the student and every loss, as the one module that is optimised and wrapped for several processes."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, nn

from distill.engine.gather import everyones_batch, everyones_outputs, is_shared
from distill.engine.network import Network
from distill.engine.schedules import Schedule
from distill.errors import RecipeError
from distill.losses.base import DistillLoss
from distill.structures import Batch, Outputs, StepOutput


class Distiller(nn.Module):
    """Student and losses together, so that the optimizer, DDP and `.to` find projectors and learned temperatures without being told."""

    student: Network
    is_balanced: Tensor  # [] bool, whether the weights that were to be found out have been

    def __init__(
        self,
        student: Network,
        losses: Mapping[str, DistillLoss],
        weights: Mapping[str, float],
        schedules: Mapping[tuple[str, str], Schedule] = MappingProxyType({}),
        auto: Mapping[str, float] = MappingProxyType({}),
    ):
        """losses and weights by label. schedules: (label, argument or "weight") -> its value by step. auto: label -> the share of cross-entropy's
        gradient norm that the term is scaled to before the first step; until then its weight is 1."""
        super().__init__()
        self.student, self.losses = student, nn.ModuleDict(losses)
        self.weights, self.schedules, self.auto = dict(weights), dict(schedules), dict(auto)
        for label in auto:
            self.register_buffer(_buffer(label), torch.tensor(1.0))  # in checkpoints: it can't be found out again later
        self.register_buffer("is_balanced", torch.tensor(not auto), persistent=bool(auto))
        for label, name in schedules:  # a tensor that is rewritten, so that neither a compiler nor the loss need know of it
            owner, name = (self, _buffer(label)) if name == "weight" else (losses[label], name)
            owner.__dict__.pop(name, None)
            owner.register_buffer(name, torch.tensor(0.0), persistent=False)
        self.set_step(0)

    @property
    def labels(self) -> list[str]:
        """Of all terms."""
        return list(self.losses)

    def each_loss(self) -> Iterator[tuple[str, DistillLoss]]:
        """(label, loss) of all terms."""
        return ((label, cast("DistillLoss", loss)) for label, loss in self.losses.items())

    def set_step(self, step: int) -> None:
        """Writes what every schedule says for this step."""
        for (label, name), schedule in self.schedules.items():
            buffer = getattr(self, _buffer(label)) if name == "weight" else getattr(self.losses[label], name)
            buffer.fill_(schedule(step))

    def weight(self, label: str) -> float | Tensor:
        """The factor of a term now."""
        found_out = self._buffers.get(_buffer(label))  # getattr of what a Module lacks takes 15 times longer
        return self.weights.get(label, 1.0) if found_out is None else found_out

    def balance(self, weights: Mapping[str, float]) -> None:
        """Sets the weights that were to be found out."""
        for label, weight in weights.items():
            getattr(self, _buffer(label)).fill_(weight)
        self.is_balanced.fill_(True)

    def forward(self, batch: Batch, teacher: Outputs | None) -> StepOutput:
        """A batch and the teacher's answers to it -> the loss [] with gradient, the terms and the student's logits [N, K] without."""
        logits, terms = self.terms(batch, teacher)
        total = functools.reduce(operator.add, (self.weight(label) * term for label, term in terms.items()))  # sum() would add the first to 0
        return StepOutput(total, {label: term.detach() for label, term in terms.items()}, logits.detach())

    def terms(self, batch: Batch, teacher: Outputs | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits [N, K], and every term [] before its weight; with gradient."""
        if batch.labels.ndim == 2:
            self.require_soft_labels()
        student = self.student(batch.images)
        return student.logits, self.terms_of(student, teacher, batch)

    def terms_of(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """Every term [] of these answers, before its weight."""
        with _no_autocast(batch.images.device.type):
            return {label: self.losses[label](*inputs) for label, inputs in self.inputs(student, teacher, batch).items()}

    def sides(self, batch: Batch, teacher: Outputs | None) -> list[tuple[Distiller, Outputs, Outputs | None]]:
        """(a Distiller, its student's answers, its teacher's) for each student that is trained."""
        return [(self, self.student(batch.images), teacher)]

    def inputs(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, tuple[Outputs, Outputs | None, Batch]]:
        """What each loss is called with."""
        mine, everyones = (student, teacher, batch), self._everyones(student, teacher, batch)
        return {label: everyones if loss.batch_coupled else mine for label, loss in self.each_loss()}

    def _everyones(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> tuple[Outputs, Outputs | None, Batch]:
        """What losses see that relate samples to each other: the global batch, gathered once for all of them."""
        coupled = [loss for _, loss in self.each_loss() if loss.batch_coupled]
        if not coupled or not is_shared():
            return student, teacher, batch
        layers = list(dict.fromkeys(layer for loss in coupled for layer in loss.layers))
        ours = everyones_outputs(student, layers)
        theirs = None if teacher is None else everyones_outputs(teacher, layers)
        return ours, theirs, everyones_batch(batch)

    def require_soft_labels(self) -> None:
        """Raises RecipeError that names a loss which can't take [N, K] labels."""
        for label, loss in self.each_loss():
            if not loss.takes_soft_labels:
                raise RecipeError(
                    f"losses.{label}: {type(loss).__name__} needs one class for each picture, and mixed pictures have shares of several; "
                    f"remove the loss (losses.{label}=null) or the mixing"
                )


def _no_autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Turns it off where a caller has it on; to do so where it is off takes as long as some operators."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def _buffer(label: str) -> str:
    return f"weight_{label}"
