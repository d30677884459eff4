"""Marks in the trainer's own loop, where one part of a step ends and the next begins, and a meter that is read at each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from distill.engine.trainer import Trainer
from distill.structures import Batch

LOADER, TRANSFER, TEACHER, STUDENT, BACKWARD, CHECK = "loader", "transfer", "teacher", "student", "backward", "gradient check"
OPTIMIZER, AVERAGE, OTHER = "optimizer", "moving average", "other"


def parts_of(trainer: Trainer) -> list[str]:
    """The names of a step's parts, in their order."""
    losses = [_loss(label) for label in trainer.trained.distiller.losses]
    teacher, average = [TEACHER] if trainer.teacher else [], [AVERAGE] if trainer.averaged is not None else []
    return [LOADER, TRANSFER, *teacher, STUDENT, *losses, BACKWARD, CHECK, OPTIMIZER, *average, OTHER]


class Meter:
    """Something that only goes up, such as the time; how far it goes from one mark to the next is the share of a part."""

    def __init__(self, read: Callable[[], np.ndarray], *, every: int = 1, tells_parts: bool = True):
        """read: [M] numbers. every: steps that are taken together. tells_parts: False to read it at the end of the steps alone."""
        self._read, self._every, self.tells_parts = read, every, tells_parts
        self._taken: dict[str, np.ndarray] = {}
        self._num_steps = 0
        self.rows: list[dict[str, np.ndarray]] = []  # of a step each, by part; the mean, where several are taken together

    def mark(self, part: str) -> None:
        """From here on it is this part's."""
        if self.tells_parts:
            self._turn_to(part)

    def start(self) -> None:
        """What came since `pause` is no part of a step."""
        self._part, self._last = OTHER, self._read()

    def pause(self) -> None:
        self._turn_to(OTHER)

    def end_step(self) -> None:
        self._num_steps += 1
        if self._num_steps % self._every == 0:
            self._turn_to(OTHER)
            self.rows.append({part: value / self._every for part, value in self._taken.items()})
            self._taken = {}

    def _turn_to(self, part: str) -> None:
        now = self._read()
        self._taken[self._part] = self._taken.get(self._part, 0) + now - self._last
        self._part, self._last = part, now


@contextlib.contextmanager
def marked(trainer: Trainer, meter: Meter) -> Iterator[None]:
    """Inside, `trainer.train` takes its steps as ever, and the meter is told of each part."""
    distiller = trainer.trained.distiller
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(trainer.loader, "epoch", _epochs(trainer, meter)))
        stack.enter_context(_replaced(trainer.recent, "add", _around(meter, OTHER, trainer.recent.add, CHECK)))  # between backward and update
        if trainer.teacher:
            stack.enter_context(_replaced(trainer, "teacher", _around(meter, TEACHER, trainer.teacher)))
        if trainer.averaged is not None:
            stack.enter_context(_replaced(trainer.averaged, "update_parameters", _around(meter, AVERAGE, trainer.averaged.update_parameters)))
        for module, part in [(distiller.student, STUDENT), *((loss, _loss(label)) for label, loss in distiller.losses.items())]:
            stack.callback(module.register_forward_pre_hook(_to(meter, part)).remove)
            stack.callback(module.register_forward_hook(_to(meter, OTHER)).remove)
        stack.callback(trainer.distiller.register_forward_hook(_to(meter, BACKWARD)).remove)
        stack.callback(trainer.trained.optimizer.register_step_pre_hook(_to(meter, OPTIMIZER)).remove)
        stack.callback(trainer.trained.optimizer.register_step_post_hook(_to(meter, OTHER)).remove)
        yield


def _loss(label: str) -> str:
    return f"loss {label}"


def _to(meter: Meter, part: str) -> Callable[..., None]:
    return lambda *_: meter.mark(part)


def _around(meter: Meter, part: str, work: Callable[..., Any], then: str = OTHER) -> Callable[..., Any]:
    def marked_work(*arguments: Any) -> Any:
        meter.mark(part)
        result = work(*arguments)
        meter.mark(then)
        return result

    return marked_work


def _epochs(trainer: Trainer, meter: Meter) -> Callable[..., Iterator[Batch]]:
    """The loader's epochs; a step lasts from its first batch until the trainer asks for the next step's, or for none."""
    epochs = trainer.loader.epoch

    def epoch(*arguments: int) -> Iterator[Batch]:
        batches: Any = epochs(*arguments)  # a generator, which can be closed
        done = trainer.step
        meter.start()
        try:
            while (batch := _next(batches, meter)) is not None:
                yield batch
                if trainer.step != done:
                    meter.end_step()
                    done = trainer.step
        finally:  # the last step of all breaks off the epoch
            if trainer.step != done:
                meter.end_step()
            meter.pause()
            batches.close()

    return epoch


def _next(batches: Iterator[Batch], meter: Meter) -> Batch | None:
    with _Transfers(meter) if meter.tells_parts else contextlib.nullcontext():
        meter.mark(LOADER)
        batch = next(batches, None)
        meter.mark(OTHER)
    return batch


class _Transfers(TorchFunctionMode):
    """Tells copies to another device from the rest of the loader's work."""

    def __init__(self, meter: Meter):
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.device)]
        if func.__name__ != "to" or not devices or devices[0].type == args[0].device.type:
            return func(*args, **kwargs)
        self.meter.mark(TRANSFER)
        result = func(*args, **kwargs)
        self.meter.mark(LOADER)
        return result


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of one object, which hides that of its class."""
    kept = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if kept is None:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)
