"""The loss under test: copies of it that no check spoils for the next one, and what it answers."""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from distill.losses.base import DistillLoss
from distill.structures import DataInfo, Head, ModelInfo, Outputs
from distill.testing.synthetic import BATCH_SIZE, STUDENT, TEACHER, Case, Network, change, convert, convert_batch, make_batch, make_data


class Answer(NamedTuple):
    """What a loss gave for a case. Gradients are None where the value does not depend on a tensor."""

    value: Tensor  # [] detached
    student: dict[str, Tensor | None]  # gradient of "logits", of the features by name, of "head.weight" and "head.bias"
    own: dict[str, Tensor | None]  # gradient of the loss's parameters
    has_graph: bool  # False for a value without any gradient


class Subject:
    """A loss class with its arguments, set up for a student that is narrower than its teacher."""

    def __init__(self, cls: type[DistillLoss], arguments: Mapping[str, Any]):
        """Raises what the class raises while it is made or set up."""
        self.cls, self.arguments = cls, {name: _as_typed(cls, name, value) for name, value in arguments.items()}
        self._template = self.make()
        self.case = self.make_case()

    def make(
        self, student: Network = STUDENT, teacher: Network = TEACHER, seed: int = 0, data: DataInfo | None = None, **arguments: Any
    ) -> DistillLoss:
        """A new one, set up as a run sets it up."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            loss = self.cls(**{**self.arguments, **arguments})
            loss.data = data or make_data()
            set_up(loss, student.info(loss.layers), teacher.info(loss.layers))
        return loss.train()

    def loss(self) -> DistillLoss:
        """A copy in its initial state, in train mode."""
        return copy.deepcopy(self._template)

    def make_case(self, student: Network = STUDENT, teacher: Network = TEACHER, num_samples: int = BATCH_SIZE, seed: int = 0) -> Case:
        """Random values. A loss that relates samples gets no images, as in a run."""
        layers, batch = self._template.layers, make_batch(num_samples, seed)
        theirs = teacher.outputs(layers, num_samples, seed) if self._template.needs_teacher else None
        return Case(
            student.outputs(layers, num_samples, seed), theirs, batch._replace(images=batch.images[:0]) if self._template.batch_coupled else batch
        )

    def twin_case(self, *, is_student_equal: bool) -> tuple[DistillLoss, Case]:
        """A loss and a case for a student with its teacher's shapes and head: with the teacher's answers, or with others."""
        case = self.make_case(student=TEACHER)
        if not is_student_equal:
            case = case._replace(student=self.make_case(student=TEACHER, seed=1).student)
        return self.make(student=TEACHER), case

    def answer(self, case: Case | None = None, loss: DistillLoss | None = None) -> Answer:
        """Of a fresh copy to the case that was made with it, unless others are given."""
        return answer(loss or self.loss(), case or self.case)

    def value(self, case: Case | None = None, loss: DistillLoss | None = None) -> float:
        """As `answer`, without gradients."""
        with torch.no_grad(), seeded():
            return float((loss or self.loss())(*_copy(case or self.case)).item())

    @cached_property
    def scale(self) -> float:
        """How large differences between values are: the largest value of some batches, or the distance between them."""
        values = [self.value(self.make_case(seed=seed)) for seed in range(3)]
        return max(map(abs, values))

    def differ(self, first: float, second: float, tolerance: float = 1e-4) -> bool:
        """Whether two values differ by more than this share of the loss's scale; true for what is not a number."""
        return not abs(first - second) <= tolerance * max(self.scale, abs(first))

    @cached_property
    def reads_logits(self) -> bool:
        """Whether the value changes with the logits of the two networks."""
        others = self.make_case(seed=1)
        changed = change(self.case, ["student"], logits=lambda _: others.student.logits)
        if (theirs := others.teacher) is not None:
            logits = theirs.logits
            changed = change(changed, ["teacher"], logits=lambda _: logits)
        return self.value(changed) != self.value()


def set_up(loss: DistillLoss, student: ModelInfo, teacher: ModelInfo) -> None:
    """Calls `setup` as a run does: without a teacher where the loss needs none, whose setup takes that."""
    loss.setup(student, teacher if loss.needs_teacher else cast("ModelInfo", None))


def answer(loss: Callable[..., Tensor], case: Case, parameters: Mapping[str, nn.Parameter] | None = None) -> Answer:
    """Value and gradients. parameters: the loss's, where it is not a module that can be asked."""
    if parameters is None:
        assert isinstance(loss, nn.Module)
        parameters = dict(loss.named_parameters())
    with torch.enable_grad(), seeded():  # enabled also where the loss itself leaves it switched off
        student, leaves = with_leaves(case.student)
        value = loss(*_copy(case)._replace(student=student))
        inputs = {**leaves, **{f"own {name}": parameter for name, parameter in parameters.items() if parameter.requires_grad}}
        gradients: Sequence[Tensor | None] = [None] * len(inputs)
        if value.requires_grad and inputs:
            gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    by_name = dict(zip(inputs, gradients, strict=True))
    own = {name.removeprefix("own "): gradient for name, gradient in by_name.items() if name.startswith("own ")}
    return Answer(value.detach(), {name: by_name[name] for name in leaves}, own, value.requires_grad)


def _copy(case: Case) -> Case:
    """So that a loss which writes into what it is given spoils no other check."""
    copied = convert(case, Tensor.clone)
    return copied._replace(batch=convert_batch(case.batch, Tensor.clone))


@contextmanager
def seeded() -> Iterator[None]:
    """So that a loss which draws from torch's generator gives other values for other cases alone, and is found by the check for that."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def with_leaves(student: Outputs) -> tuple[Outputs, dict[str, Tensor]]:
    """(outputs as a network in training gives them: results of something, but the head; the tensors that they come from, by name)."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors_of(student)}
    head = student.head and Head(leaves["head.weight"], leaves.get("head.bias"))
    return Outputs(leaves["logits"].clone(), {name: leaves[name].clone() for name in student.features}, head), leaves


def tensors_of(outputs: Outputs) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of logits, features and head."""
    yield "logits", outputs.logits
    yield from outputs.features.items()
    if outputs.head is not None:
        yield from ((f"head.{name}", tensor) for name, tensor in outputs.head._asdict().items() if tensor is not None)


def take_steps(loss: DistillLoss, cases: list[Case]) -> None:
    """Trains the loss's own parameters, one step a case, each by about the same amount however small its gradient."""
    parameters = {name: parameter for name, parameter in loss.named_parameters() if parameter.requires_grad}
    if not parameters:
        for case in cases:
            answer(loss, case)
        return
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2, eps=1e-20)
    for case in cases:
        gradients = answer(loss, case).own
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()


def _as_typed(cls: type[DistillLoss], name: str, value: Any) -> Any:
    """1 -> 1.0 for an argument that is a float, as a recipe has it."""
    annotation = inspect.signature(cls.__init__).parameters.get(name)
    try:
        hint = typing.get_type_hints(cls.__init__).get(name)
    except NameError:  # a name that only a type checker imports
        hint = None
    return float(value) if annotation is not None and hint is float and type(value) is int else value
