"""Mutual learning: two students are trained together, and each is the other's teacher."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from distill.engine.distiller import Distiller
from distill.engine.network import Network
from distill.engine.schedules import Schedule
from distill.losses.base import DistillLoss
from distill.structures import Batch, Head, Outputs

PEER = "peer."  # before the labels of the peer's terms


class MutualDistiller(Distiller):
    """Two Distillers as one module: optimised, wrapped, saved and averaged over processes together. `student` is the run's own, `peer` the other.

    Each is asked once a step, and has its own losses, whose teacher is what the other has just answered, without gradient. Both learn from the same
    answers, at the same time; in the paper they take turns within a step. Source: Zhang et al., 2018, arXiv 1706.00384.
    """

    def __init__(
        self,
        student: Network,
        losses: Mapping[str, DistillLoss],
        weights: Mapping[str, float],
        schedules: Mapping[tuple[str, str], Schedule] = MappingProxyType({}),
        *,
        peer: Distiller,
    ):
        super().__init__(student, losses, weights, schedules)
        self.peer = peer

    @property
    def labels(self) -> list[str]:
        return [*super().labels, *(PEER + label for label in self.peer.labels)]

    def set_step(self, step: int) -> None:
        super().set_step(step)
        if "peer" in self._modules:  # it is not there yet when this is made
            self.peer.set_step(step)

    def weight(self, label: str) -> float | Tensor:
        return self.peer.weight(label.removeprefix(PEER)) if label.startswith(PEER) else super().weight(label)

    def sides(self, batch: Batch, teacher: Outputs | None) -> list[tuple[Distiller, Outputs, Outputs | None]]:
        ours, theirs = self.student(batch.images), self.peer.student(batch.images)
        return [(self, ours, _detached(theirs)), (self.peer, theirs, _detached(ours))]

    def terms(self, batch: Batch, teacher: Outputs | None) -> tuple[Tensor, dict[str, Tensor]]:
        if batch.labels.ndim == 2:
            self.require_soft_labels()
        (_, ours, _), _ = sides = self.sides(batch, teacher)
        own, peers = (side.terms_of(outputs, answers, batch) for side, outputs, answers in sides)
        return ours.logits, own | {PEER + label: term for label, term in peers.items()}


def _detached(outputs: Outputs) -> Outputs:
    head = outputs.head
    if head is not None:
        head = Head(head.weight.detach(), None if head.bias is None else head.bias.detach())
    return Outputs(outputs.logits.detach(), {name: feature.detach() for name, feature in outputs.features.items()}, head)
