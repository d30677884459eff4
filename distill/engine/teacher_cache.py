"""The teacher's answers, kept: the same call as a live teacher, which is asked only for what is not there yet.

A view is a pure function of (view_seed, view, sample), so an answer that is kept under these keys is the answer to exactly the picture that the
student sees. What is given is always what was kept, also to the run that fills the cache: runs that write and runs that read see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.engine.answer_formats import Column, LogitFormat, pack, unpack
from distill.engine.cache_files import CacheFolder, ViewFile
from distill.engine.fingerprints import hash_pictures
from distill.engine.teacher import Teacher, part_of
from distill.errors import DataError
from distill.structures import Batch, Outputs

_CHECKED = 256  # one in so many pictures is compared with the one that the kept answer is of
_WAITING = 16  # batches whose answers wait on a device before they are written, so that it is not waited for in each step


@dataclass(frozen=True)
class AnswerLayout:
    """What of an answer is kept, and how."""

    logits: LogitFormat
    features: Mapping[str, Column]  # by name, as they are kept
    dtypes: Mapping[str, torch.dtype]  # by name, as they are given

    @property
    def columns(self) -> dict[str, Column]:
        return self.logits.columns() | {f"feature.{name}": column for name, column in self.features.items()}

    def rows(self, outputs: Outputs) -> Tensor:
        """[n, bytes] uint8 on the outputs' device."""
        features = {f"feature.{name}": outputs.features[name] for name in self.features}
        return pack({**self.logits.encode(outputs.logits), **features}, self.columns)

    def outputs(self, rows: Tensor, teacher: Teacher) -> Outputs:
        """rows [n, bytes] uint8 on the network's device -> the answers"""
        kept, dtype = unpack(rows, self.columns), teacher.network.mean.dtype
        features = {name: kept[f"feature.{name}"].to(self.dtypes[name]) for name in self.features}
        logits = self.logits.decode(kept).to(dtype)
        return Outputs(logits, features, teacher.network.head(logits))


def layout_of(teacher: Teacher, logits: LogitFormat, names: Sequence[str], pictures: Tensor, half: torch.dtype | None) -> AnswerLayout:
    """Tries the teacher on `pictures` [n, 3, H, W] uint8 for the shapes of the features. half: the precision that features are kept in; None for
    theirs.

    Raises KeyError for a feature that it does not give.
    """
    ids = torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
    found = teacher(Batch(pictures, ids, ids, ids)).features
    columns = {name: Column(half or found[name].dtype, tuple(found[name].shape[1:])) for name in names}
    return AnswerLayout(logits, columns, {name: found[name].dtype for name in names})


class _Shelf:
    """One view's answers: in memory if all are there, else in the file's map; without a file, nothing."""

    def __init__(self, view: int, file: ViewFile | None, device: torch.device, *, fits: bool):
        self.view, self.file, self.in_memory, self.hashes, self.num_damaged = view, file, None, None, 0
        self.unseen, self.so_far = file is not None and not fits, "" if fits else ", and perhaps more,"  # whether damage would not be found by now
        if file is not None and fits:
            packed, hashes, is_whole = (np.concatenate(parts) for parts in zip(*map(file.read, file.chunks()), strict=True))
            if is_whole.all():
                self.in_memory, self.hashes = torch.from_numpy(packed).to(device), hashes
            else:
                self.num_damaged = file.num_damaged()


class CachedTeacher:
    """Answers from the folder, and from the live teacher, whose answers are then kept, where the folder has none."""

    def __init__(
        self,
        teacher: Teacher,
        folder: CacheFolder,
        layout: AnswerLayout,
        sample_ids: np.ndarray,
        *,
        say: Callable[[str], None],
        most_in_memory: int = 4 << 30,
    ):
        """folder: open. sample_ids [rows] int64: those of the training part, sorted. say: told once of whatever keeps answers from being kept.
        most_in_memory: bytes of a view that are held where the network is, once all of it is there; a larger one is read from its file's map."""
        self.teacher, self.folder, self.layout, self.sample_ids, self._say = teacher, folder, layout, sample_ids, say
        self.device, self.writes, self.most_in_memory = teacher.network.mean.device, True, most_in_memory
        self.num_asked = self.num_read = 0  # pictures, in this process
        self._shelf: _Shelf | None = None
        self._waiting: list[tuple[np.ndarray, Tensor, Tensor]] = []
        self._to_compare: list[tuple[np.ndarray, np.ndarray, Tensor]] = []

    def __call__(self, batch: Batch) -> Outputs:
        """Raises DataError if a picture is not the one that its kept answer is of."""
        rows, shelf = np.searchsorted(self.sample_ids, batch.host.sample_ids), self._open(batch.host.view)
        if shelf.in_memory is not None:
            answers, hashes, is_there = shelf.in_memory[torch.from_numpy(rows).to(self.device)], shelf.hashes[rows], np.ones(len(rows), dtype=bool)
        elif shelf.file is None:
            answers, hashes, is_there = None, np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=bool)
        else:
            found, hashes, is_there = shelf.file.read(rows)
            if shelf.unseen:
                self._say_damaged(shelf, int(shelf.file.damaged(rows[~is_there]).sum()))
            answers = torch.from_numpy(found).to(self.device) if is_there.any() else None
        self.num_read += int(is_there.sum())
        if not is_there.all():
            answers = self._ask(batch, rows, answers, np.flatnonzero(~is_there))
        self._compare(batch, hashes, is_there)
        if len(self._waiting) + len(self._to_compare) >= (1 if self.device.type == "cpu" else _WAITING):
            self.flush()
        return self.layout.outputs(answers, self.teacher)

    def flush(self) -> None:
        """Writes what waits, and compares what is to be compared; waits for the device."""
        waiting, self._waiting = self._waiting, []
        for rows, answers, hashes in waiting:
            self._shelf.file.write(rows, answers.cpu().numpy(), hashes.cpu().numpy())
        to_compare, self._to_compare = self._to_compare, []
        for ids, expected, found in to_compare:
            differing = ids[expected != found.cpu().numpy()]
            if len(differing):
                raise DataError(
                    f"the picture of sample {differing[0]} (view {self._shelf.view}) is not the one that the teacher's kept answer is of: has its "
                    f"file changed, or what decodes it? Clear the cache (distill cache clear {self.folder.path}), or set teacher.cache.use=off"
                )

    def _ask(self, batch: Batch, rows: np.ndarray, answers: Tensor | None, missing: np.ndarray) -> Tensor:
        """The live teacher's answers for the missing ones, among the others."""
        index = torch.from_numpy(missing).to(self.device)
        part = batch if len(missing) == len(rows) else part_of(batch, index, missing)
        self.num_asked += len(missing)
        asked = self.layout.rows(self.teacher(part))
        if self._shelf.file is not None and self.writes:
            self._waiting.append((rows[missing], asked, hash_pictures(part.images)))
        if answers is None or len(missing) == len(rows):
            return asked
        return answers.index_copy(0, index, asked)

    def _compare(self, batch: Batch, hashes: np.ndarray, is_there: np.ndarray) -> None:
        chosen = np.flatnonzero(is_there & is_compared(batch.host.sample_ids, batch.host.view))
        if len(chosen):
            found = hash_pictures(batch.images[torch.from_numpy(chosen).to(self.device)])
            self._to_compare.append((batch.host.sample_ids[chosen], hashes[chosen], found))

    def _open(self, view: int) -> _Shelf:
        if self._shelf is None or self._shelf.view != view:
            if self._shelf is not None:
                self.flush()
            fits = self.folder.num_rows * self.folder.row_bytes <= self.most_in_memory
            self._shelf = _Shelf(view, self._file(view), self.device, fits=fits)
            self._say_damaged(self._shelf, self._shelf.num_damaged)
        return self._shelf

    def _say_damaged(self, shelf: _Shelf, num: int) -> None:
        if num:
            shelf.unseen = False
            path = self.folder.view_path(shelf.view)
            self._say(f"teacher cache: {num} answers in {path}{shelf.so_far} are damaged; the teacher is asked for them again")

    def _file(self, view: int) -> ViewFile | None:
        """The view's file, or None, and why is said, where there is none and none can be made."""
        if self.writes:
            try:
                return self.folder.view(view)
            except OSError as error:
                self.writes = False
                what = f"{self.folder.path} can't be written: {error.strerror or error}"
                self._say(f"teacher cache: {what}; what is there is used, and the teacher is asked for the rest")
        try:
            return self.folder.view(view, writes=False)
        except OSError as error:
            self._say(f"teacher cache: {self.folder.path} can't be read: {error.strerror or error}; the teacher is asked")
            return None


def is_compared(sample_ids: np.ndarray, view: int) -> np.ndarray:
    """[n] bool: the pictures of this view whose hashes are compared, one in 256, others in each view."""
    keys = sample_ids.astype(np.uint64) + np.uint64(view * 0xD1B54A32D192ED03 % (1 << 64))
    mixed = keys * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: neighbours are spread evenly
    return (mixed >> np.uint64(40)) % np.uint64(_CHECKED) == 0
