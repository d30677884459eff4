"""Some pictures on which student and teacher name different classes, picked while both are scored: for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from distill.data.resizing import plain_view
from distill.structures import Batch

NUM_OF_A_KIND = 8
_SIDE = 64  # pixels; larger pictures are shrunk


class Differing(NamedTuple):
    """Kinds: 0 only the teacher is right, 1 only the student is, 2 neither is. The student's surest answers of each kind come first."""

    kind: int
    confidence: float  # the student's, in its answer
    position: int  # in the part
    label: int
    student: int
    teacher: int
    picture: np.ndarray  # [3, S, S] uint8, as the networks saw it but for its size


class DifferingPictures:
    """A watch for `score`, of the networks "student" and "teacher"."""

    def __init__(self) -> None:
        self._found: list[Differing] = []

    def __call__(self, positions: Tensor, batch: Batch, logits: Mapping[str, Tensor]) -> None:
        student, teacher = (logits[name].argmax(dim=1) for name in ("student", "teacher"))
        confidence = logits["student"].softmax(dim=1).amax(dim=1)
        kinds = 2 - 2 * (teacher == batch.labels).int() - (student == batch.labels).int()
        for row in (student != teacher).nonzero()[:, 0].tolist():
            position, label, ours, theirs = (int(values[row]) for values in (positions, batch.labels, student, teacher))
            picture = batch.images[row].cpu().numpy()
            self._found.append(Differing(int(kinds[row]), float(confidence[row]), position, label, ours, theirs, picture))
        self._found = _surest(self._found)

    def result(self) -> list[Differing]:
        """Those of all processes, which all call this."""
        return [entry._replace(picture=_shrunk(entry.picture)) for entry in _surest(gather_object(self._found))]


def _surest(found: list[Differing]) -> list[Differing]:
    ordered = sorted(found, key=lambda entry: (entry.kind, -entry.confidence, entry.position))
    return [entry for kind in range(3) for entry in [one for one in ordered if one.kind == kind][:NUM_OF_A_KIND]]


def _shrunk(picture: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(picture)
    return picture if min(picture.shape[1:]) <= _SIDE else plain_view(pixels[None], _SIDE)[0].numpy()
