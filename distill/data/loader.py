"""Batches of views: from memory, augmented on the device, where a part's pictures are resident; else decoded and augmented in worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from distill.data.bad_pictures import BadPictures
from distill.data.mixing import MixPlan, partners
from distill.data.random_rows import Block, ViewTables, permutation
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.views import Views, plain_view
from distill.data.workers import Key, Loaded, PlainViewsOfPart, ViewsOfPart, Workers
from distill.structures import Batch, HostKeys

NO_LABEL = -1  # of training pictures whose labels nobody may look at


class TrainingLoader:
    """The micro-batches of any epoch, from any step on. Shown are pure functions of (view_seed, view, sample); the order is of (seed, epoch)."""

    def __init__(
        self,
        part: Part,
        views: Views,
        sampler: StepSampler,
        *,
        view_seed: int,
        num_views: int,
        device: torch.device,
        workers: int = 0,
        num_classes: int = 0,
        has_labels: bool = True,
        bad_pictures: BadPictures | None = None,
    ):
        """num_views: how many views of each sample there are; epoch e shows view e modulo num_views. num_classes: needed where views mix pictures.
        has_labels: False to hide the labels. bad_pictures: None if a picture that can't be read is an error."""
        if views.mixes and has_labels and not num_classes:
            raise ValueError("mixed pictures have shares of classes as labels: how many classes are there?")
        self.part, self.views, self.sampler = part, views, sampler
        self.view_seed, self.num_views, self.device = view_seed, num_views, device
        self.num_classes, self.has_labels, self.bad_pictures = num_classes, has_labels, bad_pictures
        self._workers = self._pixels = None
        if part.pixels is not None and not views.one_by_one:
            self._pixels = part.pixels.to(device)
        else:
            self._workers = Workers(ViewsOfPart(part, views, view_seed, replaces=bad_pictures is not None), device, workers)

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def sample_ids(self, step: int) -> list[int]:
        """The ids of a step's pictures, over all processes; steps are counted from the first of the run."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self.part.sample_ids[self.sampler.global_batch(epoch, number)].tolist()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """This process's micro-batches of an epoch. Raises DataError naming the file if a picture can't be read."""
        yield from self.batches(epoch % self.num_views, self.sampler.micro_batches(epoch, first_step))

    def batches(self, view: int, micro_batches: Iterator[np.ndarray]) -> Iterator[Batch]:
        """One view of the pictures at these positions [n] of the part, a batch for each array of them."""
        ids = self.part.sample_ids
        tables = ViewTables(self.view_seed, view, int(ids.max()) + 1)
        others = partners(tables.table(Block.MIXING)[ids]) if self.views.mixes else None
        for loaded in self._loaded(micro_batches, view, tables, others):
            if self.bad_pictures is not None:
                self.bad_pictures.note(loaded.failures)
            yield self._batch(loaded, view, tables, others)

    def _loaded(self, micro_batches: Iterator[np.ndarray], view: int, tables: ViewTables, others: np.ndarray | None) -> Iterator[Loaded]:
        if self._workers is not None:
            yield from self._workers.run(self._keys(positions, view, tables, others) for positions in micro_batches)
            return
        for positions in micro_batches:
            images = self._resident(positions, tables)
            if others is not None:
                images = self._plan(positions, tables).pictures(images, self._resident(others[positions], tables))
            yield Loaded(positions, images, [])

    def _resident(self, positions: np.ndarray, tables: ViewTables) -> Tensor:
        index = torch.from_numpy(positions).to(self.device)
        return self.views.apply(self._pixels[index], tables.of(self.part.sample_ids[positions]))

    def _keys(self, positions: np.ndarray, view: int, tables: ViewTables, others: np.ndarray | None) -> list[Key]:
        """A picture that happens not to be mixed needs no partner decoded."""
        chosen = np.full(len(positions), -1)
        if others is not None:
            chosen = np.where(self._plan(positions, tables).boxes[:, 2:].all(axis=1), others[positions], -1)
        return [Key(int(position), int(partner), view) for position, partner in zip(positions, chosen, strict=True)]

    def _plan(self, positions: np.ndarray, tables: ViewTables) -> MixPlan:
        return self.views.mixing.decide(tables.of(self.part.sample_ids[positions])(Block.MIXING), self.views.size)

    def _batch(self, loaded: Loaded, view: int, tables: ViewTables, others: np.ndarray | None) -> Batch:
        labels = self.part.labels[loaded.positions]
        if not self.has_labels:
            labels = np.full_like(labels, NO_LABEL)
        elif others is not None:
            theirs = self.part.labels[others[loaded.positions]]
            labels = self._plan(loaded.positions, tables).labels(labels, theirs, self.num_classes)
        return _batch(self.part, loaded, labels, view)


class EvaluationLoader:
    """This process's share of a part, unvaried; together the processes see each sample exactly once.

    The order is mixed, always in the same way: files lie class by class, and what is measured batch by batch (CKA) needs all classes in each.
    """

    def __init__(
        self,
        part: Part,
        size: int,
        *,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        bad_pictures: BadPictures | None = None,
    ):
        """bad_pictures: None if a picture that can't be read is an error."""
        self.part, self.size, self.batch_size, self.device, self.workers = part, size, batch_size, device, workers
        self.bad_pictures = bad_pictures
        self._positions = permutation(0, 0, len(part))[rank::world_size]
        self.num_rounds = -(-len(part) // (world_size * batch_size))  # batches of the process that has most of them

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        """(positions [n] int64 in the part, batch) pairs. Raises DataError naming the file if a picture can't be read."""
        for loaded in self._loaded():
            if self.bad_pictures is not None:
                self.bad_pictures.note(loaded.failures)
            yield torch.from_numpy(loaded.positions).to(self.device), _batch(self.part, loaded, self.part.labels[loaded.positions], view=0)

    def _loaded(self) -> Iterator[Loaded]:
        chunks = [self._positions[start : start + self.batch_size] for start in range(0, len(self._positions), self.batch_size)]
        if self.part.pixels is not None:
            yield from (Loaded(chunk, plain_view(self.part.pixels[chunk].to(self.device), self.size), []) for chunk in chunks)
        else:
            shown = PlainViewsOfPart(self.part, self.size, replaces=self.bad_pictures is not None)
            yield from Workers(shown, self.device, self.workers).run([Key(int(position)) for position in chunk] for chunk in chunks)


def _batch(part: Part, loaded: Loaded, labels: np.ndarray, view: int) -> Batch:
    sample_ids, device = part.sample_ids[loaded.positions], loaded.images.device
    given, ids = (torch.from_numpy(values).to(device, non_blocking=True) for values in (labels, sample_ids))
    return Batch(loaded.images, given, ids, torch.full_like(ids, view), HostKeys(sample_ids, view, len(loaded.failures)))
