"""Checks of what a loss keeps, changes and draws from: its state, its inputs, the process's random numbers."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.structures import Head, Outputs
from distill.testing.attributes import attributes
from distill.testing.subject import Subject, set_up, take_steps, tensors_of, with_leaves
from distill.testing.synthetic import STUDENT, TEACHER, Case, make_data


def check_state_dict(subject: Subject) -> Iterator[str]:
    """A loss trained for two steps, and a new one that loads its state dict, must give the same value; else a resumed run is another run.
    Usual fix: parameters and buffers instead of plain attributes; persistent=True for a buffer that is random or changes."""
    loss, other = subject.loss(), subject.make(seed=1)
    take_steps(loss, [subject.make_case(seed=seed) for seed in range(2)])
    other.load_state_dict({name: tensor.clone() for name, tensor in loss.state_dict().items()})
    for mode in ("eval", "train"):
        ours, theirs = (subject.value(loss=each.train(mode == "train")) for each in (loss, other))
        if subject.differ(ours, theirs):
            yield f"{ours:.6g} before, {theirs:.6g} after the round trip (in {mode} mode)"


def check_initial_values(subject: Subject) -> Iterator[str]:
    """Two losses that are set up from the same seed begin differently.
    Usual fix: draw initial values from torch's global generator, which is seeded for setup; no numpy, no random, no generator of one's own."""
    first, second = (dict(_state(subject.make())) for _ in range(2))
    yield from (f"{name} differs" for name in first if name not in second or not _equal(first[name], second[name]))


def check_kept(subject: Subject) -> Iterator[str]:
    """After a call something is there that was not there before. A tensor keeps its whole graph alive, and memory grows from step to step.
    Usual fix: local variables instead of self.something; what is learned from step to step goes into a buffer made in setup, in place."""
    loss = subject.loss()
    before, shapes = _inventory(loss), {name: tensor.shape for name, tensor in _state(loss)}
    arrays = _call_on_arrays(loss, subject.make_case())
    after = _inventory(loss)
    yield from (f"{path} is {what}" + (f", was {before[path]}" if path in before else "") for path, what in after.items() if before.get(path) != what)
    for name, tensor in _state(loss):
        if name not in shapes:
            yield f"{name} {list(tensor.shape)} was made by the call: no optimizer and no checkpoint knew of it"
        elif tensor.shape != shapes[name]:
            yield f"{name} was {list(shapes[name])} and is now {list(tensor.shape)}"
        elif tensor.grad_fn is not None:
            yield f"{name} has a graph behind it"
    alive = [name for name, array in arrays.items() if array() is not None]
    if alive:
        gc.collect()
        alive = [name for name in alive if arrays[name]() is not None]
    if alive:
        yield f"still in memory after the call: {', '.join(alive)}"


def check_eval_mode(subject: Subject) -> Iterator[str]:
    """A call in eval mode changes a buffer or a parameter, so looking at a loss changes the training after it.
    Usual fix: update only `if self.training`."""
    loss = subject.loss().eval()
    before = {name: tensor.detach().clone() for name, tensor in _state(loss)}
    subject.answer(loss=loss)
    yield from (f"{name} changed" for name, tensor in _state(loss) if name in before and not _equal(before[name], tensor))


def check_randomness(subject: Subject) -> Iterator[str]:
    """The same samples give another value, or the call draws from the process's random numbers and so changes everything after it.
    Usual fix: keyed_uniform of distill.losses.base, a function of sample_ids and view alone; no nn.Dropout, torch.rand or generator of one's own."""
    loss, states = subject.loss(), _random_states()
    kept = {name: tensor.detach().clone() for name, tensor in _state(loss)}
    first = loss(*subject.make_case()).item()
    yield from (f"the state of {name} changed" for name, state in _random_states().items() if not _equal(state, states[name]))
    with torch.no_grad():
        for name, tensor in _state(loss):
            if name in kept and kept[name].shape == tensor.shape:
                tensor.copy_(kept[name])
    second = loss(*subject.make_case()).item()
    if subject.differ(first, second, 1e-6):
        yield f"{first:.6g} in one call, {second:.6g} in the next with the same inputs and buffers"


def check_inputs(subject: Subject) -> Iterator[str]:
    """What the loss is given is changed by it: the next loss, or the student itself, goes on with other values.
    Usual fix: no functions that end in _ , no inplace=True, no += on what is given; a copy of the dict before anything is put into it."""
    loss, case = subject.loss(), subject.make_case()
    student, _ = with_leaves(case.student)
    given = Case(student, case.teacher, case.batch)
    before = {name: (tensor.detach().clone(), tensor._version) for name, tensor in _given(given)}
    loss(*given)
    after = dict(_given(given))
    for name, (value, version) in before.items():
        if name not in after:
            yield f"{name} is gone"
        elif not _equal(value, after[name]) or after[name]._version != version:
            yield f"{name} changed"
        elif name.startswith("teacher") and after[name].requires_grad:
            yield f"{name} now takes a gradient"
    yield from (f"{name} was added" for name in after if name not in before)
    yield from _changed_by_setup(subject)


def check_grad_mode(subject: Subject) -> Iterator[str]:
    """The call leaves gradients, or torch's default precision, switched to something else for the whole process.
    Usual fix: `with torch.no_grad():` instead of torch.set_grad_enabled()."""
    settings = (torch.is_grad_enabled, torch.get_default_dtype, torch.is_autocast_enabled, torch.are_deterministic_algorithms_enabled)
    for is_enabled in (True, False):
        with torch.set_grad_enabled(is_enabled):
            before = [setting() for setting in settings]
            subject.loss()(*subject.make_case())
            after = [setting() for setting in settings]
        torch.set_default_dtype(torch.float32)
        yield from (f"{setting.__name__}() was {old} and is {new}" for setting, old, new in zip(settings, before, after, strict=True) if old != new)


def _state(loss: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from loss.named_parameters()
    yield from loss.named_buffers()


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first, second) if isinstance(first, Tensor) else first == second


def _inventory(loss: nn.Module) -> dict[str, str]:
    """path -> a word on what is there, which changes where the thing changes."""
    found = {}
    for path, thing in attributes(loss):
        if isinstance(thing, Tensor):
            found[path] = f"a tensor {list(thing.shape)}" + (" with a graph" if thing.grad_fn is not None else "")
        elif isinstance(thing, bool | int | float | str | None):
            found[path] = repr(thing)
        else:
            found[path] = f"a {type(thing).__name__}" + (f" of {len(thing)}" if hasattr(thing, "__len__") else "")
    return found


class _Backed(torch.autograd.Function):
    """A result, like a network's, in a given array's memory."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _call_on_arrays(loss: nn.Module, case: Case) -> dict[str, weakref.ref[Any]]:
    """Calls the loss and forgets everything; the answers are references to the memory that it was given, dead if nothing holds on to it."""
    networks = {whose: outputs for whose, outputs in (("student", case.student), ("teacher", case.teacher)) if outputs is not None}
    arrays = {f"{whose} {name}": np.array(tensor) for whose, outputs in networks.items() for name, tensor in tensors_of(outputs)}

    def rebuilt(whose: str) -> Outputs | None:
        outputs = networks.get(whose)
        if outputs is None:
            return None
        named = {name: arrays[f"{whose} {name}"] for name, _ in tensors_of(outputs)}
        if whose == "student":
            tensors = {name: _Backed.apply(torch.zeros(array.shape, requires_grad=True), array) for name, array in named.items()}
        else:
            tensors = {name: torch.from_numpy(array) for name, array in named.items()}
        head = outputs.head and Head(tensors["head.weight"], tensors.get("head.bias"))
        return Outputs(tensors["logits"], {name: tensors[name] for name in outputs.features}, head)

    loss(rebuilt("student"), rebuilt("teacher"), case.batch)
    return {name: weakref.ref(array) for name, array in arrays.items()}


def _random_states() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's generator": torch.get_rng_state(),
        "Python's generator": random.getstate(),
        "numpy's generator": (kind, np.asarray(keys).tolist(), *rest),
    }


def _given(case: Case) -> Iterator[tuple[str, Tensor]]:
    for whose in ("student", "teacher"):
        if getattr(case, whose) is not None:
            yield from ((f"{whose}'s {name}", tensor) for name, tensor in tensors_of(getattr(case, whose)))
    yield from ((name, value) for name, value in case.batch._asdict().items() if isinstance(value, Tensor))


def _changed_by_setup(subject: Subject) -> Iterator[str]:
    loss = subject.cls(**subject.arguments)
    data, student, teacher = make_data(), STUDENT.info(loss.layers), TEACHER.info(loss.layers)
    loss.data = data
    with torch.random.fork_rng(devices=[]):
        set_up(loss, student, teacher)
    loss(*subject.make_case())
    for whose, info, network in (("student", student, STUDENT), ("teacher", teacher, TEACHER)):
        fresh = network.info(loss.layers)
        heads = [(info.head_weight, fresh.head_weight), (info.head_bias, fresh.head_bias)]
        if info.shapes != fresh.shapes or any(now is None or then is None or not torch.equal(now, then) for now, then in heads):
            yield f"the {whose}'s ModelInfo changed"
    if not all(map(torch.equal, (data.labels, data.sample_ids), (make_data().labels, make_data().sample_ids))):
        yield "the DataInfo changed"
