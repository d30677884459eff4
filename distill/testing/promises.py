"""Checks of what a loss says of itself, and of the arguments and networks that it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from distill.errors import DistillError
from distill.losses.base import DistillLoss
from distill.testing.faults import describe_error, trouble
from distill.testing.places import compiled_answer, data_dependence, warnings_of
from distill.testing.subject import Subject, answer, with_leaves
from distill.testing.synthetic import STUDENT, TEACHER, Network

_FLAGS = ("needs_teacher", "batch_coupled", "needs_labels", "needs_sample_ids", "needs_all_logits", "takes_soft_labels", "zero_at_identity")


def check_construction(loss_class: type[DistillLoss], arguments: Mapping[str, Any]) -> Iterator[str]:
    """The loss can't be made with these arguments, set up for two small networks, or copied, so nothing more was looked at.
    Usual fix: what the message says; super().__init__(layers=[...]) comes first in __init__; layers are names such as "layer3" and "pooled";
    modules for several layers stand in a ModuleList, in the layers' order."""
    if not (inspect.isclass(loss_class) and issubclass(loss_class, DistillLoss)):
        yield f"{loss_class!r} is not a subclass of DistillLoss"
        return
    loss = Subject(loss_class, arguments).loss()
    if not isinstance(loss.layers, tuple) or not all(isinstance(layer, str) for layer in loss.layers):
        yield f"layers must be names, got {loss.layers!r}"


def check_forward(loss_class: type[DistillLoss], arguments: Mapping[str, Any]) -> Iterator[str]:
    """The loss does not answer a finite scalar [] for six ordinary samples, so nothing more was looked at.
    Usual fix: what the message says; .mean() at the end for a value for each sample; a KeyError means a layer that __init__ did not ask for."""
    subject = Subject(loss_class, arguments)
    loss, (student, _) = subject.loss(), with_leaves(subject.case.student)
    value = loss(student, subject.case.teacher, subject.case.batch)
    if not isinstance(value, Tensor):
        yield f"it answers a {type(value).__name__}, {value!r}, not a tensor"
    elif value.ndim or not value.is_floating_point():
        yield f"it answers {value.dtype} of shape {list(value.shape)}, not a float of shape []"
    elif not value.isfinite():
        yield f"it answers {value.item()}"


def check_declarations(subject: Subject) -> Iterator[str]:
    """What the class says of itself can't be used as it is. Usual fix: True or False for needs_teacher, batch_coupled, needs_labels,
    needs_sample_ids, needs_all_logits, takes_soft_labels and zero_at_identity; a whole number of bytes. A loss whose arguments are not the defaults
    may have another needs_all_logits than its class. Without needs_teacher, one may be there all the same."""
    loss = subject.loss()
    for flag in _FLAGS:
        in_class, in_loss = getattr(subject.cls, flag), getattr(loss, flag)
        may_differ = flag == "needs_all_logits" and bool(subject.arguments)
        if not isinstance(in_class, bool) or not isinstance(in_loss, bool) or (in_class is not in_loss and not may_differ):
            yield f"{flag} is {in_class!r} in the class and {in_loss!r} in the loss"
    size = loss.extra_bytes(256)
    if not isinstance(size, int) or size < 0:
        yield f"extra_bytes(256) is {size!r}"
    teacher = TEACHER.outputs(loss.layers, len(subject.case.student.logits))
    if not loss.needs_teacher and (problem := trouble(subject.answer(subject.case._replace(teacher=teacher)))):
        yield f"needs_teacher is False, and where there is a teacher all the same, {problem}"


def check_identity(subject: Subject) -> Iterator[str]:
    """zero_at_identity = True, but the value is not 0 where the student answers exactly what the teacher answers, or is below 0 elsewhere.
    Usual fix: look for a wrong sign, or a term that is left out; a loss that has its minimum elsewhere does not declare it."""
    if not subject.cls.zero_at_identity:
        return
    equal, other = (subject.value(case, loss) for loss, case in (subject.twin_case(is_student_equal=is_equal) for is_equal in (True, False)))
    if not abs(equal) <= 1e-6 * max(abs(other), subject.scale):
        yield f"{equal:.6g} where the student equals the teacher, {other:.6g} where it does not"
    elif other < 0:
        yield f"0 where the student equals the teacher, but {other:.6g} where it does not: training would drive it away"


def check_schedule(subject: Subject) -> Iterator[str]:
    """A float argument kept under its own name may follow a schedule: a tensor [] then takes its place, is rewritten each step, and must act as
    the number does, in eager mode and compiled. Usual fix: use it in forward only, without `if`, math.*, float() or torch functions that want a
    plain number there; else keep it under another name."""
    numbers = {name: value for name in _argument_names(subject.cls) if isinstance(value := getattr(subject.loss(), name, None), float)}
    expected = subject.answer()
    for name, value in numbers.items():
        for problem in _difference(subject, expected.value.item(), _scheduled(subject.loss(), **{name: value})):
            yield f"{name} = tensor({value:g}): {problem}"
        if (other := _other_number(subject, name, value)) is not None:
            number, loss = other
            for problem in _difference(subject, subject.value(loss=loss), _scheduled(subject.loss(), **{name: number})):
                yield f"{name} from {value:g} to {number:g}, as against {number:g} from the beginning: {problem}"
    if numbers:
        yield from _elsewhere(subject, numbers, expected.value.item())


def _elsewhere(subject: Subject, numbers: Mapping[str, float], expected: float) -> Iterator[str]:
    """With tensors where values can't be looked at, and compiled."""
    problem = data_dependence(subject, _scheduled(subject.loss(), **numbers))
    if problem:
        if data_dependence(subject, subject.loss()) is None:  # else another check's fault
            yield f"forward makes a plain number of {' or '.join(numbers)}: {problem}"
        return
    compiled = compiled_answer(subject, _scheduled(subject.loss(), **numbers)).value.item()
    if subject.differ(expected, compiled):
        yield f"compiled: {compiled:.6g} with tensors, {expected:.6g} with numbers"


def _argument_names(cls: type[DistillLoss]) -> list[str]:
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _scheduled(loss: DistillLoss, **numbers: float) -> DistillLoss:
    """As a run does it."""
    for name, value in numbers.items():
        loss.__dict__.pop(name, None)
        loss.register_buffer(name, torch.tensor(0.0), persistent=False)
        getattr(loss, name).fill_(value)
    return loss


def _difference(subject: Subject, expected: float, loss: DistillLoss) -> Iterator[str]:
    try:
        value = subject.answer(loss=loss).value.item()
    except Exception as error:
        yield describe_error(error)
        return
    if subject.differ(expected, value):
        yield f"{value:.6g} instead of {expected:.6g}"


def _other_number(subject: Subject, name: str, value: float) -> tuple[float, DistillLoss] | None:
    """Another value that the class takes for the argument, and a loss made with it."""
    for number in (0.5 * value, 1.5 * value, value + 0.25):
        if number != value:
            try:
                return number, subject.make(**cast("dict[str, Any]", {name: number}))
            except (DistillError, ValueError):
                continue
    return None


def _doubled(widths: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = widths
    return 2 * first, 2 * second, 2 * third, 2 * fourth


_NETWORKS: dict[str, tuple[Network, Network]] = {
    "a student as wide as its teacher": (replace(STUDENT, widths=TEACHER.widths), TEACHER),
    "a student wider than its teacher": (replace(STUDENT, widths=_doubled(TEACHER.widths)), TEACHER),
    "a teacher of other classes": (STUDENT, replace(TEACHER, num_classes=7)),
    "a teacher with smaller maps": (STUDENT, replace(TEACHER, sides=(4, 2, 2, 1))),
    "a teacher with larger maps": (STUDENT, replace(TEACHER, sides=(16, 8, 5, 4))),
    "maps of 1x1": (replace(STUDENT, sides=(4, 2, 1, 1)), replace(TEACHER, sides=(4, 2, 1, 1))),
    "networks without batch norm": (replace(STUDENT, has_norms=False), replace(TEACHER, has_norms=False)),
    "networks without a linear classifier": (replace(STUDENT, has_head=False), replace(TEACHER, has_head=False)),
}


def check_other_networks(subject: Subject) -> Iterator[str]:
    """Two networks of other shapes must be refused by a RecipeError in setup, or work: finite, without a warning such as that of broadcasting.
    Usual fix: in setup, a RecipeError that says what does not fit, after a look at shapes and num_classes; a Projector for maps of other sizes."""
    usual = warnings_of(subject.answer)
    for name, networks in _NETWORKS.items():
        seen: list[str] = []
        warned = warnings_of(functools.partial(_note_trouble, seen, subject, *networks))
        yield from (f"{name}: {what}" for what in seen + [warning for warning in warned if warning not in usual])


def _note_trouble(seen: list[str], subject: Subject, student: Network, teacher: Network) -> None:
    seen.extend(_trouble_with(subject, student, teacher))


def _trouble_with(subject: Subject, student: Network, teacher: Network) -> Iterator[str]:
    try:
        if problem := trouble(answer(subject.make(student, teacher), subject.make_case(student, teacher))):
            yield problem
    except DistillError:
        return
    except Exception as error:
        yield describe_error(error)
