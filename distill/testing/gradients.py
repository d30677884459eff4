"""Checks of gradients: that they reach the student and the loss's own parameters, and that they are right."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from distill.losses.base import DistillLoss
from distill.structures import Outputs
from distill.testing.attributes import attributes, hidden_modules
from distill.testing.constants import Constants
from distill.testing.subject import Subject, answer, seeded, take_steps, tensors_of, with_leaves
from distill.testing.synthetic import Case, change, convert

_NUM_DIRECTIONS = 3


def check_student_gradient(subject: Subject) -> Iterator[str]:
    """No gradient comes to the student, or to a feature of it that the value depends on: it can't learn from that.
    Usual fix: no detach(), no torch.no_grad() and no .data around the student's tensors."""
    answer = subject.answer()
    if not any(_is_alive(gradient) for gradient in answer.student.values()):
        yield "no gradient comes to the student's logits, features or head"
        return
    others = subject.make_case(seed=1).student.features
    for name in subject.case.student.features:
        if _is_alive(answer.student[name]):
            continue
        student = subject.case.student._replace(features={**subject.case.student.features, name: others[name]})
        if subject.differ(answer.value.item(), value := subject.value(subject.case._replace(student=student))):
            yield f"the value depends on the student's {name} ({answer.value.item():.6g} became {value:.6g}), but no gradient comes to it"


def check_own_parameters(subject: Subject) -> Iterator[str]:
    """A parameter of the loss gets no gradient, or three steps of training leave it as it was: it keeps its initial value for ever, and a
    parameter without gradient stops a run on several processes. Usual fix: use it in forward, without detach(); or make it a buffer."""
    loss = subject.loss()
    before = {name: parameter.detach().clone() for name, parameter in loss.named_parameters() if parameter.requires_grad}
    without = [name for name, gradient in subject.answer().own.items() if gradient is None]
    yield from (f"{name} gets no gradient" for name in without)
    take_steps(loss, [subject.make_case(seed=seed) for seed in range(3)])
    after = dict(loss.named_parameters())
    yield from (f"{name} did not change in three steps" for name in before if name not in without and torch.equal(before[name], after[name]))


def check_hidden_parameters(subject: Subject) -> Iterator[str]:
    """Something is trained that the loss's parameters() do not name: no optimizer sees it, it is in no checkpoint and moves to no device.
    Usual fix: nn.ParameterList, nn.ModuleList or nn.ModuleDict instead of a list or dict; nn.Parameter as an attribute of its own."""
    loss = subject.loss()
    known, paths = {id(parameter) for parameter in loss.parameters()}, {id(thing): path for path, thing in attributes(loss)}
    hidden = {path: sum(parameter.numel() for parameter in module.parameters()) for path, module in hidden_modules(loss)}
    yield from (f"{path}, a module with {count} numbers, is not among the loss's modules" for path, count in hidden.items())
    inside = {id(parameter) for _, module in hidden_modules(loss) for parameter in module.parameters()}
    case = subject.make_case()
    student, leaves = with_leaves(case.student)
    given = dict(tensors_of(case.teacher)) if case.teacher is not None else {}
    known |= inside | {id(tensor) for tensor in [*leaves.values(), *given.values()]}
    found = [thing for _, thing in attributes(loss) if isinstance(thing, Tensor) and thing.requires_grad]
    for tensor in {id(tensor): tensor for tensor in [*found, *_roots(loss(student, case.teacher, case.batch))]}.values():
        if id(tensor) not in known:
            yield f"{paths.get(id(tensor), 'a tensor')} {list(tensor.shape)} is not among the loss's parameters"


def check_gradcheck(subject: Subject) -> Iterator[str]:
    """In float64 the gradient is not the slope of the value. Values made by detach() or under no_grad() count as constants.
    Usual fix: no in-place changes, no .data, no float32 in between; a correct backward where there is an autograd.Function."""
    loss, case = subject.loss().double(), change(convert(subject.case, Tensor.double), features=_away_from_kinks)
    expected = answer(copy.deepcopy(loss), case)
    if expected.value.dtype != torch.float64 or not expected.has_graph:
        return  # another check's fault
    for name, gradient in expected.student.items():
        if gradient is not None and _is_alive(gradient):
            unit = 1 / gradient.norm()  # so that tolerances fit a loss of any size
            steps = torch.zeros(_NUM_DIRECTIONS, dtype=torch.float64, requires_grad=True)
            try:
                torch.autograd.gradcheck(_along_directions(loss, case, name, unit), (steps,), nondet_tol=1e-9)
            except GradcheckError as error:
                yield f"{name}: {textwrap.shorten(str(error), 300)}"


def _away_from_kinks(features: Tensor) -> Tensor:
    """Without zeros and equal numbers, where a maximum or a length has no slope."""
    return features + 0.05 + 0.2 * torch.rand_like(features)


def _along_directions(loss: DistillLoss, case: Case, name: str, factor: Tensor) -> Callable[[Tensor], Tensor]:
    """The value times a factor, as a function of steps along random directions in one of the student's tensors."""
    constants, start = Constants(), dict(tensors_of(case.student))[name]
    directions = torch.randn(_NUM_DIRECTIONS, *start.shape, dtype=torch.float64)

    def function(steps: Tensor) -> Tensor:
        student = _with_tensor(case.student, name, start + torch.tensordot(steps, directions, dims=1))
        with constants, seeded():
            return factor * copy.deepcopy(loss)(student, case.teacher, case.batch)

    function(torch.zeros(_NUM_DIRECTIONS, dtype=torch.float64, requires_grad=True))
    return function


def _with_tensor(outputs: Outputs, name: str, tensor: Tensor) -> Outputs:
    if name == "logits":
        return outputs._replace(logits=tensor)
    if name in outputs.features:
        return outputs._replace(features={**outputs.features, name: tensor})
    assert outputs.head is not None  # the tensor is one of its two
    return outputs._replace(head=outputs.head._replace(**{name.removeprefix("head."): tensor}))


def _is_alive(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())


def _roots(value: Tensor) -> Iterator[Tensor]:
    """The tensors that a value's gradient ends in."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting.extend(before for before, _ in node.next_functions)
