"""Checks of what a loss says that it needs: labels, sample ids, and all of the teacher's logits. A run without these refuses it by what it says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from distill.structures import Batch, DataInfo
from distill.testing.faults import describe_error
from distill.testing.subject import Answer, Subject, answer, seeded, with_leaves
from distill.testing.synthetic import Change, change, make_data

_GAP = 10.0  # the small logits over the temperature lie this far below the best one: together they have e^-10 (1 + e^-1 + ...) < 1e-4 of the answer
_TOLERANCE = 1e-3  # ten times that: the logarithms that kd multiplies shares with are of the order of 10, its value is above 1


def check_labels(subject: Subject) -> Iterator[str]:
    """The loss says that it does not look at labels, and its value or gradient changes with those of the batch or of the training pictures (`data`),
    over two calls; or it says that it does, and never touches them. Pictures without labels have -1 everywhere, and the loss would train on that.
    Usual fix: needs_labels = True, or False."""
    if subject.cls.needs_labels:
        if not subject.arguments and not _touches(
            subject, lambda batch, data: (batch.labels, data.labels)
        ):  # some arguments may leave out the part that looks at labels
            yield "needs_labels is True, but it touches neither batch.labels nor data.labels"
        return
    for what, of in {"other labels": _others, "labels of -1": _unlabelled}.items():
        if problem := _change(subject, functools.partial(_with_labels, of), of):
            yield f"needs_labels is False, but with {what}{problem}"


def _with_labels(of: Change, batch: Batch) -> Batch:
    return batch._replace(labels=of(batch.labels))


def check_sample_ids(subject: Subject) -> Iterator[str]:
    """The loss says that it does not look at the pictures' ids and views, and its value or gradient changes with those, over two calls; or it says
    that it does, and never touches them. A loop that has none gives -1 and 0, and the loss would draw the same numbers for every picture.
    Usual fix: needs_sample_ids = True, or False."""
    if subject.cls.needs_sample_ids:
        if not subject.arguments and not _touches(subject, lambda batch, data: (batch.sample_ids, batch.view)):
            yield "needs_sample_ids is True, but it touches neither batch.sample_ids nor batch.view"
    elif problem := _change(subject, lambda batch: batch._replace(sample_ids=_unlabelled(batch.sample_ids), view=batch.view + 1), Tensor.clone):
        yield f"needs_sample_ids is False, but with other sample_ids and views{problem}"


def _always(value: Tensor) -> Change:
    return lambda _: value


def check_all_logits(subject: Subject) -> Iterator[str]:
    """needs_all_logits = False: it may then get the teacher's largest logits only, with the rest of the answer in even shares for the other classes,
    where that rest is next to nothing at the loss's `temperature`. But its value depends on how classes share less than 1 / 10000 of the answer.
    Usual fix: needs_all_logits = True, in __init__ if it depends on an argument; what softens the teacher's answer is kept as `temperature`."""
    if subject.loss().needs_all_logits or subject.case.teacher is None:
        return
    tails = {name: change(subject.case, ["teacher"], logits=_always(logits)) for name, logits in _tails(subject).items()}
    values = {name: subject.value(case) for name, case in tails.items()}
    first = values.pop("in order")
    for name, value in values.items():
        if subject.differ(first, value, _TOLERANCE):
            yield f"{first:.6g} became {value:.6g} when the teacher's small logits were {name}"


def _tails(subject: Subject) -> dict[str, Tensor]:
    """name -> [N, K] logits of a teacher that is all but sure; the best class is the label, for labels of the first two classes, else class 0.

    So most classes are never the best, and have small numbers in all samples, other ones in each: seen by losses that compare a class over samples.
    """
    labels, num_classes = subject.case.batch.labels, subject.case.student.logits.shape[1]
    temperature = float(getattr(subject.loss(), "temperature", 1.0))
    falling = -_GAP - torch.arange(num_classes - 1, dtype=torch.float32)
    even = (falling.logsumexp(dim=0) - math.log(len(falling))).expand_as(falling)
    best = torch.where(labels < 2, labels, 0)
    is_small = torch.arange(num_classes) != best[:, None]  # [N, K]
    rows = {"in order": falling, "in another order": falling.flip(0), "all equal": even}
    return {
        name: temperature * torch.zeros(is_small.shape).masked_scatter(is_small, torch.cat([row.roll(sample) for sample in range(len(labels))]))
        for name, row in rows.items()
    }


def _change(subject: Subject, of_batch: Callable[[Batch], Batch], of_labels: Change) -> str | None:
    """What changes with the batches, and with the labels of the training pictures; None if nothing does."""
    usual = _answers(subject, lambda batch: batch, Tensor.clone)
    if not _are_equal(usual, _answers(subject, lambda batch: batch, Tensor.clone)):
        return None  # the fault of randomness
    try:
        others = _answers(subject, of_batch, of_labels)
    except Exception as error:
        return f": {describe_error(error)}"
    if _are_equal(usual, others):
        return None
    before, after = (", ".join(f"{each.value.item():.6g}" for each in answers) for answers in (usual, others))
    return f" the value {before} became {after}" if before != after else " the gradient changed"


def _answers(subject: Subject, of_batch: Callable[[Batch], Batch], of_labels: Change) -> list[Answer]:
    """What a new loss answers for two batches in turn: the second call sees what the first one kept."""
    data = make_data()
    loss = subject.make(data=replace(data, labels=of_labels(data.labels)))
    cases = [subject.make_case(seed=seed) for seed in range(2)]
    return [answer(loss, case._replace(batch=of_batch(case.batch))) for case in cases]


def _others(labels: Tensor) -> Tensor:
    """Every label is another one, and the classes are not as frequent as they were."""
    return (labels == 0).to(labels.dtype)


def _unlabelled(labels: Tensor) -> Tensor:
    return torch.full_like(labels, -1)


def _are_equal(first: list[Answer], second: list[Answer]) -> bool:
    """To the bit: labels that a loss does not look at change no operation."""
    return all(map(_is_equal, first, second))


def _is_equal(first: Answer, second: Answer) -> bool:
    pairs = [(first.value, second.value), *((part[name], other[name]) for part, other in zip(first[1:3], second[1:3], strict=True) for name in part)]
    return all(one is other or (one is not None and other is not None and torch.equal(one, other)) for one, other in pairs)


def _touches(subject: Subject, what: Callable[[Batch, DataInfo], tuple[Tensor, ...]]) -> bool:
    data, case = make_data(), subject.make_case()
    with seeded(), _Touched(*what(case.batch, data)) as touched:
        subject.make(data=data)(with_leaves(case.student)[0], case.teacher, case.batch)
    return touched.is_touched


class _Touched(TorchFunctionMode):
    """Whether any operation of torch is given one of some tensors."""

    def __init__(self, *tensors: Tensor):
        super().__init__()
        self._watched, self.is_touched = {id(tensor) for tensor in tensors}, False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        self.is_touched |= any(id(leaf) in self._watched for leaf in leaves)
        return func(*args, **(kwargs or {}))
