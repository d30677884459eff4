"""Checks of where a loss may run: in other precisions, memory formats and devices, compiled, under autocast, without warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from distill.losses.base import DistillLoss
from distill.testing.attributes import attributes
from distill.testing.faults import describe_error, trouble
from distill.testing.subject import Answer, Subject, answer, with_leaves
from distill.testing.synthetic import change, convert, convert_batch

_NEEDS_VALUES = ("called on meta tensors", "data-independent", "Meta kernel registered")  # in messages of torch


def check_float64(subject: Subject) -> Iterator[str]:
    """A float64 run (precision: fp64) must get a float64 value, equal to the float32 one up to rounding.
    Usual fix: upcast() instead of .float(); new tensors with dtype=x.dtype."""
    got = answer(subject.loss().double(), convert(subject.case, Tensor.double))
    if problem := trouble(got):
        yield problem
    elif got.value.dtype != torch.float64:
        yield f"the value is {got.value.dtype}"
    elif subject.differ(subject.value(), got.value.item()):
        yield f"{got.value.item():.6g}, in float32 {subject.value():.6g}"


def check_channels_last(subject: Subject) -> Iterator[str]:
    """Maps come with their channels last in memory (train.channels_last); value and gradient must be the same.
    Usual fix: flatten or reshape instead of view."""
    layout = change(subject.case, features=lambda feature: feature.to(memory_format=torch.channels_last) if feature.ndim == 4 else feature)
    if subject.case.student.features:
        yield from _differences(subject, subject.answer(), subject.answer(layout))


def check_autocast(subject: Subject) -> Iterator[str]:
    """Called under autocast with bfloat16 features, the loss must work and give about the same value.
    Usual fix: upcast() the features; don't rely on a tensor's precision; `with torch.autocast(device, enabled=False)` around sensitive sums."""
    half = change(subject.case, features=Tensor.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = subject.answer(half)
    if problem := trouble(got):
        yield problem
    elif subject.differ(subject.value(), got.value.item(), 0.1):
        yield f"{got.value.item():.6g}, without autocast {subject.value():.6g}"


def check_compile(subject: Subject) -> Iterator[str]:
    """torch.compile(backend="aot_eager", fullgraph=True) must take the loss, and give the same value and gradient.
    Usual fix: no `if` on a tensor's value (torch.where instead), no Python objects that change, nothing but torch inside forward."""
    yield from _differences(subject, subject.answer(), compiled_answer(subject, subject.loss()))


def compiled_answer(subject: Subject, loss: torch.nn.Module) -> Answer:
    """The same as answer(), compiled for this call alone."""
    torch._dynamo.reset()
    log = logging.getLogger("torch.__trace")
    was_disabled, log.disabled = log.disabled, True  # pytest shows its hundreds of lines beside a failure
    try:
        return answer(torch.compile(loss, backend="aot_eager", fullgraph=True), subject.case, dict(loss.named_parameters()))
    finally:
        log.disabled = was_disabled
        torch._dynamo.reset()


def check_device(subject: Subject) -> Iterator[str]:
    """After loss.to(device) with inputs on that device, tensors of two devices meet (tried on torch's "meta" device, which needs no GPU), or a
    tensor is kept that .to() does not move. Usual fix: register_buffer(name, tensor) in setup; device=x.device for new tensors; no .cpu()."""
    loss = subject.loss()
    plain = {path: thing for path, thing in attributes(loss) if isinstance(thing, Tensor) and not thing.requires_grad}
    yield from (f"{path} {list(tensor.shape)} is a plain tensor" for path, tensor in plain.items())
    try:
        value = _call_on_meta(subject, loss)
    except RuntimeError as error:  # NotImplementedError is one
        if not _is_data_dependence(error):
            raise
        return  # the next check's fault
    if value.device.type != "meta":
        yield f"the value is on {value.device}, the inputs are on another device"


def check_data_dependence(subject: Subject) -> Iterator[str]:
    """The call looks at a tensor's values from Python, or makes a tensor whose size depends on them: the program waits for the GPU in each step,
    and many versions of torch.compile can't take it. Usual fix: no .item(), float(tensor) or `if` on a tensor; torch.where, gather or a product
    with one-hot rows instead of boolean indices and nonzero()."""
    if problem := data_dependence(subject, subject.loss()):
        yield problem


def data_dependence(subject: Subject, loss: DistillLoss) -> str | None:
    """What torch says where a call looks at a value; None if it does not, or fails for another reason."""
    try:
        _call_on_meta(subject, loss)
    except RuntimeError as error:
        return describe_error(error) if _is_data_dependence(error) else None
    return None


def _call_on_meta(subject: Subject, loss: DistillLoss) -> Tensor:
    """On a device that knows shapes and no values."""
    case = convert(subject.case, lambda tensor: tensor.to("meta"))
    batch = convert_batch(case.batch, lambda tensor: tensor.to("meta"))
    return loss.to("meta")(with_leaves(case.student)[0], case.teacher, batch)


def _is_data_dependence(error: RuntimeError) -> bool:
    return any(words in str(error) for words in _NEEDS_VALUES)


def check_warnings(subject: Subject) -> Iterator[str]:
    """The call warns: usually of a shape that is broadcast, a reduction that is not what it seems, or something that torch will remove.
    Usual fix: what the warning says."""
    yield from warnings_of(lambda: answer(subject.make(), subject.case))


def warnings_of(call: Callable[[], object]) -> list[str]:
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return list(dict.fromkeys(describe_error(cast("Warning", warning.message)) for warning in caught))


def _differences(subject: Subject, expected: Answer, got: Answer) -> Iterator[str]:
    if subject.differ(expected.value.item(), got.value.item()):
        yield f"the value is {got.value.item():.6g}, was {expected.value.item():.6g}"
    theirs = {**got.student, **got.own}
    for name, gradient in {**expected.student, **expected.own}.items():
        other = theirs[name]
        if gradient is None or other is None:
            if (gradient is None or not gradient.any()) and (other is None or not other.any()):
                continue
            yield f"the gradient of {name} is there in one of the two only"
        elif not (difference := (gradient - other).abs().max()) <= 1e-3 * gradient.abs().max() + 1e-6 * subject.scale:
            yield f"the gradient of {name} differs by {difference:.3g}, its largest number is {gradient.abs().max():.3g}"
