"""Checks of how a value is made of its samples: their mean, in any order, whatever kind of labels they have."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from distill.testing.faults import trouble
from distill.testing.subject import Subject, answer
from distill.testing.synthetic import Case, convert, take

_ORDER = (3, 0, 5, 1, 4, 2)  # not only reversed: products of neighbours stay the same then


def check_mean(subject: Subject) -> Iterator[str]:
    """The value is the mean over the batch: when every sample comes twice, it stays the same. Otherwise a loss's weight depends on the batch size.
    Usual fix: .mean() or reduction="batchmean" where there is a sum; no squeeze() or [0] that drops the batch axis of a single sample."""
    if subject.cls.batch_coupled:
        return
    num = len(subject.case.student.logits)
    once, twice = subject.value(), subject.value(take(subject.case, [*range(num), *range(num)]))
    if subject.differ(once, twice):
        yield f"{once:.6g} became {twice:.6g} when every one of {num} samples came twice"
    try:  # in eval mode, as batch norm can't train on one value
        one, two = (subject.value(take(subject.case, [0] * num), subject.loss().eval()) for num in (1, 2))
    except Exception:  # the fault of small batches, if it is one
        return
    if subject.differ(one, two):
        yield f"{one:.6g} became {two:.6g} when a single sample came twice"


def check_order(subject: Subject) -> Iterator[str]:
    """The value depends on the order of the samples, which means nothing.
    Usual fix: compare every pair of samples, or each with the batch's mean, not each with its neighbour; random numbers from keyed_uniform."""
    value, shuffled = subject.value(), subject.value(take(subject.case, _ORDER))
    if subject.differ(value, shuffled):
        yield f"{value:.6g} became {shuffled:.6g} with the same samples in another order"


def check_coupling(subject: Subject) -> Iterator[str]:
    """The value of a batch is not the mean of the values of its halves: the loss relates samples to each other, and does not say so. On several
    processes each would see its own part only. Usual fix: batch_coupled = True; it is then given the global batch."""
    if subject.cls.batch_coupled:
        return
    num = len(subject.case.student.logits)
    halves = [take(subject.case, range(num // 2)), take(subject.case, range(num // 2, num))]
    for mode in ("eval", "train"):
        loss = subject.loss().train(mode == "train")
        if mode == "train" and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in loss.modules()):
            return  # it sees the batch by design, as those of the student do
        whole, parts = subject.value(loss=loss), [subject.value(half, subject.loss().train(mode == "train")) for half in halves]
        if subject.differ(whole, sum(parts) / 2) and subject.differ(whole, sum(parts)):  # a sum is the fault of the mean
            yield f"{whole:.6g} for the batch, {parts[0]:.6g} and {parts[1]:.6g} for its halves (in {mode} mode)"
            return


def check_soft_labels(subject: Subject) -> Iterator[str]:
    """After mixup or cutmix labels are shares [N, K]. One-hot rows must give the value of the labels [N], and other shares another value: the class
    with the largest share is not what the picture shows. Usual fix: label_shares(labels, logits), or takes_soft_labels = False."""
    if not subject.cls.takes_soft_labels:
        return
    labels, num_classes = subject.case.batch.labels, subject.case.student.logits.shape[1]
    others = (labels + 1) % num_classes
    shares, other_shares = (F.one_hot(each, num_classes).float() for each in (labels, others))
    hard, one_hot = subject.value(), subject.value(_labelled(subject.case, shares))
    if subject.differ(hard, one_hot):
        yield f"{hard:.6g} for labels [N], {one_hot:.6g} for the same as one-hot rows"
    mixed = subject.answer(_labelled(subject.case, 0.6 * shares + 0.4 * other_shares))
    if problem := trouble(mixed):
        yield f"mixed labels: {problem}"
    if subject.value(_labelled(subject.case, others)) == hard:  # it does not read labels
        return
    if mixed.value.item() == one_hot:
        yield f"{one_hot:.6g} for one-hot rows and for shares of 0.6 and 0.4 alike"
    if problem := trouble(answer(subject.loss().double(), convert(_labelled(subject.case, shares), Tensor.double))):
        yield f"float32 shares in a float64 run: {problem}"


def _labelled(case: Case, labels: Tensor) -> Case:
    return case._replace(batch=case.batch._replace(labels=labels))
