"""Batches of views: from memory, augmented on the device, where a part's pictures are resident; else decoded and augmented in worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.data.random_rows import view_row, view_table
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.views import Views, plain_view
from distill.errors import DataError
from distill.structures import Batch


class TrainingLoader:
    """The micro-batches of any epoch, from any step on. Shown are pure functions of (view_seed, view, sample); the order is of (seed, epoch)."""

    def __init__(self, part: Part, views: Views, sampler: StepSampler, *, view_seed: int, num_views: int, device: torch.device, workers: int = 0):
        """num_views: how many views of each sample there are; epoch e shows view e modulo num_views."""
        self.part, self.views, self.sampler = part, views, sampler
        self.view_seed, self.num_views, self.device = view_seed, num_views, device
        self._decoding = None
        if part.pixels is not None:
            self._pixels = part.pixels.to(device)
        else:
            self._decoding = _Decoding(_ViewsOfPart(part, views, view_seed), device, workers)

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def sample_ids(self, step: int) -> list[int]:
        """The ids of a step's pictures, over all processes; steps are counted from the first of the run."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self.part.sample_ids[self.sampler.global_batch(epoch, number)].tolist()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This process's micro-batches of an epoch. Raises DataError naming the file if a picture can't be read."""
        view, micro_batches = epoch % self.num_views, self.sampler.micro_batches(epoch, first_step)
        if self._decoding is None:
            table = view_table(self.view_seed, view, int(self.part.sample_ids.max()) + 1)
            for positions in micro_batches:
                index = torch.from_numpy(positions).to(self.device)
                images = self.views.apply(self._pixels[index], table[self.part.sample_ids[positions]])
                yield _batch(self.part, positions, images, view)
        else:
            for positions, images in self._decoding.run(micro_batches, view):
                yield _batch(self.part, positions, images, view)


class EvaluationLoader:
    """This process's share of a part, unvaried and in order; together the processes see each sample exactly once."""

    def __init__(self, part: Part, size: int, *, batch_size: int, device: torch.device, rank: int = 0, world_size: int = 1, workers: int = 0):
        self.part, self.size, self.batch_size, self.device, self.workers = part, size, batch_size, device, workers
        self._positions = np.arange(len(part))[rank::world_size]
        self.num_rounds = -(-len(part) // (world_size * batch_size))  # batches of the process that has most of them

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        """(positions [n] int64 in the part, batch) pairs. Raises DataError naming the file if a picture can't be read."""
        chunks = [self._positions[start : start + self.batch_size] for start in range(0, len(self._positions), self.batch_size)]
        if self.part.pixels is not None:
            decoded = ((positions, plain_view(self.part.pixels[positions].to(self.device), self.size)) for positions in chunks)
        else:
            decoded = _Decoding(_PlainViewsOfPart(self.part, self.size), self.device, self.workers).run(iter(chunks), view=0)
        for positions, images in decoded:
            yield torch.from_numpy(positions).to(self.device), _batch(self.part, positions, images, view=0)


def _batch(part: Part, positions: np.ndarray, images: Tensor, view: int) -> Batch:
    labels, sample_ids = (torch.from_numpy(values[positions]).to(images.device, non_blocking=True) for values in (part.labels, part.sample_ids))
    return Batch(images, labels, sample_ids, torch.full_like(labels, view))


class _ViewsOfPart(Dataset):
    """(position, view) -> (position, picture), the views made one by one, where the pictures have different sizes."""

    def __init__(self, part: Part, views: Views, view_seed: int):
        self.part, self.views, self.view_seed = part, views, view_seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor | str]:
        position, view = key
        try:
            picture = self.part.picture(position)
        except DataError as error:  # as a value: an exception would arrive wrapped in the worker's traceback
            return position, str(error)
        return position, self.view_of(picture, position, view)

    def view_of(self, picture: Tensor, position: int, view: int) -> Tensor:
        row = view_row(self.view_seed, view, int(self.part.sample_ids[position]))
        return self.views.apply(picture[None], row[None])[0]


class _PlainViewsOfPart(_ViewsOfPart):
    def __init__(self, part: Part, size: int):
        self.part, self.size = part, size

    def view_of(self, picture: Tensor, position: int, view: int) -> Tensor:
        return plain_view(picture[None], self.size)[0]


class _Batches:
    """The list of batches that a DataLoader goes through next, set anew for each epoch.

    An object of its own, because a loader that leads back to itself is freed by the garbage collector, some time later and in an order in which its
    workers never hear that they should end: torch then waits 5 seconds for each of them.
    """

    def __init__(self):
        self.next: Iterator[list[tuple[int, int]]] = iter(())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.next


class _Decoding:
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

    def run(self, micro_batches: Iterator[np.ndarray], view: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """(positions, pictures [n, 3, size, size] uint8 on the device) of each micro-batch."""
        self._batches.next = ([(int(position), view) for position in positions] for positions in micro_batches)
        for positions, pictures in self._loaded():
            if isinstance(pictures, str):
                raise DataError(pictures)
            yield positions.numpy(), pictures.to(self._device, non_blocking=True)

    def _loaded(self) -> Iterator[tuple[Tensor, Tensor | str]]:
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


def _collate(samples: list[tuple[int, Tensor | str]]) -> tuple[Tensor, Tensor | str]:
    positions = torch.tensor([position for position, _ in samples])
    failure = next((picture for _, picture in samples if isinstance(picture, str)), None)
    return positions, failure if failure is not None else torch.stack([picture for _, picture in samples])
