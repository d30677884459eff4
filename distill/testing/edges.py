"""Checks at the edges of what training brings: half precision, huge and equal logits, dead maps, equal samples, tiny batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.errors import DistillError
from distill.testing.faults import trouble
from distill.testing.subject import Subject, answer
from distill.testing.synthetic import Case, Change, change, take

_SATURATED = 1e4  # softmax is exactly 1 and 0 in float32, whatever the temperature


def _scaled(factor: float, dtype: torch.dtype) -> Change:
    return lambda feature: (feature * factor).to(dtype)


def _filled(value: float) -> Change:
    return lambda feature: torch.full_like(feature, value)


def check_half_precision(subject: Subject) -> Iterator[str]:
    """Features come in bfloat16 or float16 under mixed precision; the value must be float32, finite, and near that of the same features in float32.
    Usual fix: upcast(feature) before any square, sum, product or fill with large numbers; float16 ends at 65504."""
    if not subject.case.student.features:
        return
    for dtype in (torch.bfloat16, torch.float16):
        for factor in (1, 100):
            what = f"{str(dtype).removeprefix('torch.')} features" + (" x100" if factor > 1 else "")
            half = change(subject.case, features=_scaled(factor, dtype))
            got, expected = subject.answer(half), subject.value(change(half, features=Tensor.float))
            if (problem := trouble(got)) and (factor == 1 or not got.value.isfinite()):  # float16 gradients of values x100 may overflow
                yield f"{what}: {problem}"
            elif got.value.dtype != torch.float32:
                yield f"{what}: the value is {got.value.dtype}, not torch.float32"
            elif subject.differ(expected, got.value.item(), 0.05):
                yield f"{what}: {got.value.item():.6g}, in float32 {expected:.6g}"


def check_extreme_logits(subject: Subject) -> Iterator[str]:
    """Value and gradient must be finite where logits are large, all equal (a head that starts at zero) or saturated (softmax exactly 1 and 0).
    Usual fix: work with log_softmax and logsumexp, never log of a probability or of a sum of them; clamp what is divided by; eps inside a sqrt."""
    if not subject.reads_logits:
        return
    yield from _troubles(subject, dict(_logit_cases(subject)))


def _logit_cases(subject: Subject) -> Iterator[tuple[str, Case]]:
    changes = _logit_changes(subject.case.batch.labels, subject.case.student.logits.shape[1])
    for ours, change_ours in changes.items():
        for theirs, change_theirs in changes.items() if subject.case.teacher is not None else [("", None)]:
            name = ", ".join([f"student's logits {ours}", *([f"teacher's {theirs}"] if theirs else [])])
            yield name, change(change(subject.case, ["student"], logits=change_ours), ["teacher"], logits=change_theirs)


def _logit_changes(labels: Tensor, num_classes: int) -> Mapping[str, Change]:
    right, wrong = (_SATURATED * F.one_hot(classes, num_classes).float() for classes in (labels, (labels + 1) % num_classes))
    return {
        "ordinary": lambda logits: logits,
        "x100": lambda logits: 100 * logits,
        "all equal": torch.zeros_like,
        "saturated on the label": lambda _: right,
        "saturated on another class": lambda _: wrong,
        "saturated against the label": lambda _: -right,
    }


def check_dead_features(subject: Subject) -> Iterator[str]:
    """Value and gradient must be finite where a map is zero or constant, as a dead layer gives it, for every sample.
    Usual fix: eps inside a sqrt and under a division; F.normalize instead of x / x.norm()."""
    if not subject.case.student.features:
        return
    cases = {}
    for whose in (["student"], ["teacher"], ["student", "teacher"]):
        for value in (0.0, 1.0):
            name = f"features of the {' and the '.join(whose)} all {value:g}"
            cases[name] = change(subject.case, whose, features=_filled(value))
    yield from _troubles(subject, cases)


def check_equal_samples(subject: Subject) -> Iterator[str]:
    """Value and gradient must be finite where two samples are equal, or the student's answer equals the teacher's: a distance is 0 there, and
    the gradient of sqrt(0) is not a number. Usual fix: (squares.sum() + eps).sqrt(), with the eps inside; or a clamp before the sqrt."""
    num = len(subject.case.student.logits)
    yield from _troubles(subject, {"two samples equal": take(subject.case, [0, *range(num - 1)]), "all samples equal": take(subject.case, [0] * num)})
    try:
        loss, twin = subject.twin_case(is_student_equal=True)
    except DistillError:  # it says that it does not take a student as wide as its teacher
        return
    if problem := trouble(answer(loss, twin)):
        yield f"student equal to the teacher: {problem}"


def check_small_batches(subject: Subject) -> Iterator[str]:
    """A batch may have one or two samples; value and gradient must be finite there. A loss that can't take one sample says so: RecipeError or
    ValueError with a message. Usual fix: no squeeze() and no [0] that drop the batch axis; a documented value for one sample."""
    for num in (1, 2):
        small = take(subject.case, range(num))
        try:
            problem = trouble(subject.answer(small))
        except (DistillError, ValueError) as error:
            if num == 1 and str(error):
                continue
            problem = f"{type(error).__name__}: {error}"
        if problem:
            yield f"batch of {num}: {problem}"


def check_hidden_nan(subject: Subject) -> Iterator[str]:
    """Where the student's answers are not numbers, the value must not be one either: a run stops there and names the term. A hidden one trains
    on with nothing to learn from. Usual fix: no nan_to_num, no `0 if isnan`; guard what makes the NaN instead."""
    broken = change(subject.case, ["student"], logits=_all_nan, features=_all_nan)
    try:
        value = subject.value(broken)
    except Exception:  # loud enough
        return
    if torch.tensor(value).isfinite():
        yield f"{value:.6g} for a student whose logits and features are all nan"


def _all_nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, torch.nan)


def _troubles(subject: Subject, cases: Mapping[str, Case]) -> Iterator[str]:
    for name, case in cases.items():
        if problem := trouble(subject.answer(case)):
            yield f"{name}: {problem}"
