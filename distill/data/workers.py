"""Pictures decoded and made into views in worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.data.bad_pictures import Failure, read_or_replace
from distill.data.random_rows import Block, Draw, draw_of
from distill.data.sources.base import Part
from distill.data.views import Views, plain_view
from distill.errors import DataError


class Key(NamedTuple):
    """What a worker is asked for."""

    position: int  # in the part
    partner: int = -1  # the position of the picture that is mixed in; -1 for none
    view: int = 0


class Loaded(NamedTuple):
    """A batch as it comes from the workers."""

    positions: np.ndarray  # [N] int64
    images: Tensor  # [N, 3, size, size] uint8
    failures: list[Failure]  # pictures that others stand in for


class _Shown(Dataset):
    """Key -> (position, picture, failures), the views made one by one, where the pictures have different sizes."""

    def __init__(self, part: Part, *, replaces: bool):
        self.part, self.replaces = part, replaces

    def __getitem__(self, key: Key) -> tuple[int, Tensor | str, list[Failure]]:
        failures: list[Failure] = []
        try:
            return key.position, self.show(key, failures), failures
        except DataError as error:  # as a value: an exception would arrive wrapped in the worker's traceback
            return key.position, str(error), failures

    def read(self, position: int, failures: list[Failure]) -> Tensor:
        """[1, 3, H, W] uint8"""
        if not self.replaces:
            return self.part.picture(position)[None]
        picture, found = read_or_replace(self.part, position)
        failures += found
        return picture[None]

    def show(self, key: Key, failures: list[Failure]) -> Tensor:
        """[3, size, size] uint8"""
        raise NotImplementedError


class ViewsOfPart(_Shown):
    """What training sees."""

    def __init__(self, part: Part, views: Views, view_seed: int, *, replaces: bool = False):
        super().__init__(part, replaces=replaces)
        self.views, self.view_seed = views, view_seed

    def show(self, key: Key, failures: list[Failure]) -> Tensor:
        picture = self._view(key.position, key.view, failures)
        if key.partner >= 0:
            plan = self.views.mixing.decide(self._draw(key.position, key.view)(Block.MIXING), self.views.size)
            picture = plan.pictures(picture, self._view(key.partner, key.view, failures))
        return picture[0]

    def _view(self, position: int, view: int, failures: list[Failure]) -> Tensor:
        return self.views.apply(self.read(position, failures), self._draw(position, view))

    def _draw(self, position: int, view: int) -> Draw:
        return draw_of(self.view_seed, view, int(self.part.sample_ids[position]))


class PlainViewsOfPart(_Shown):
    """What evaluation sees."""

    def __init__(self, part: Part, size: int, *, replaces: bool = False):
        super().__init__(part, replaces=replaces)
        self.size = size

    def show(self, key: Key, failures: list[Failure]) -> Tensor:
        return plain_view(self.read(key.position, failures), self.size)[0]


class _Batches:
    """The list of batches that a DataLoader goes through next, set anew for each epoch.

    An object of its own, because a loader that leads back to itself is freed by the garbage collector, some time later and in an order in which its
    workers never hear that they should end: torch then waits 5 seconds for each of them.
    """

    def __init__(self):
        self.next: Iterator[list[Key]] = iter(())

    def __iter__(self) -> Iterator[list[Key]]:
        return self.next


class Workers:
    """A DataLoader whose list of batches is set anew for each epoch, so that its workers live on."""

    def __init__(self, dataset: Dataset, device: torch.device, workers: int):
        self._batches = _Batches()
        self._device = device
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
            generator=torch.Generator(),  # else each epoch takes a number from the global one, and resuming within an epoch takes one more
        )

    def run(self, batches: Generator[list[Key]]) -> Iterator[Loaded]:
        """Each batch, its pictures on the device. Raises DataError naming the file if a picture can't be read."""
        self._batches.next = batches
        try:
            for positions, images, failures in self._loaded():
                if isinstance(images, str):
                    raise DataError(images)
                yield Loaded(positions.numpy(), images.to(self._device, non_blocking=True), failures)
        finally:  # of an epoch that is broken off, torch keeps the list, which leads back to its maker and so to us
            self._batches.next = iter(())
            batches.close()

    def _loaded(self) -> Iterator[tuple[Tensor, Tensor | str, list[Failure]]]:
        """torch would also raise about a dead worker from a signal's handler, in the midst of anything; that handler is taken back, and the loop here
        asks every 5 seconds at the latest whether all are alive."""
        is_main_thread = threading.current_thread() is threading.main_thread()
        try:
            before = signal.getsignal(signal.SIGCHLD)
            batches = iter(self._loader)
            if is_main_thread:
                signal.signal(signal.SIGCHLD, before)
            yield from batches
        except (RuntimeError, ConnectionError, EOFError) as error:
            if (named := _worker_failure(error)) is None:
                raise
            raise named from error


def _worker_failure(error: Exception) -> DataError | None:
    """What torch means by this about a process that reads pictures; None if it is something else."""
    if "Too many open files" in str(error):
        return DataError("too many files are open at once (ulimit -n) for the processes that read pictures: try a smaller data.workers")
    if isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error):  # or its end of the pipe is gone
        return DataError(f"a process that reads pictures has died: {error}; has memory run out? try data.workers=1, or 0 for none")
    return None


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A Ctrl-C or a cluster's SIGTERM goes to every process. Workers end with the trainer, which still needs them for its last step."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _collate(samples: list[tuple[int, Tensor | str, list[Failure]]]) -> tuple[Tensor, Tensor | str, list[Failure]]:
    positions = torch.tensor([position for position, _, _ in samples])
    unreadable = next((picture for _, picture, _ in samples if isinstance(picture, str)), None)
    pictures = unreadable if unreadable is not None else torch.stack([picture for _, picture, _ in samples if isinstance(picture, Tensor)])
    return positions, pictures, [failure for _, _, failures in samples for failure in failures]
