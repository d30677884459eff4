"""Packs a folder's pictures into one file, each resized once. Killed at any moment it goes on from there, and ends with the same bytes."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout

from distill.data.class_folders import PARTS
from distill.data.packing.file import FILLED, Settings, read_packed_file
from distill.data.packing.marks import Marks
from distill.data.packing.plan import Listing, Plan, Progress
from distill.data.packing.rows import Job, Row, pack_rows
from distill.data.packing.start import differing, partial_path
from distill.data.processes import in_processes
from distill.errors import DataError
from distill.record import sync_folder

_PICTURES_AT_ONCE = 16


@contextlib.contextmanager
def only_packer(target: Path) -> Iterator[None]:
    """Raises DataError if another process packs into this file, or the folder can't be written to. The lock's file stays: were it removed, a third
    process could lock a new one while a second still holds the old."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"another process is packing pictures into {target}; wait for it, or choose another file: -o FILE") from None
    except OSError as error:
        raise DataError(f"can't write to {target.parent}: {error.strerror}; choose another place: -o FILE") from error
    try:
        yield
    finally:
        lock.release()


def is_packed_already(listing: Listing, settings: Settings, target: Path) -> bool:
    """Whether the file is there, of these pictures as they should be. Raises DataError if something else is there."""
    if not os.path.lexists(target):
        return False
    found = read_packed_file(target)
    if (differences := differing(found.layout.settings, settings)) or not np.array_equal(found.layout.tables["file"], listing.tables["file"]):
        raise DataError(f"{target} is there already, and has {differences or 'other pictures'}; remove it, or choose another file: -o FILE")
    return True


def pack(
    plan: Plan, target: Path, *, workers: int = 0, on_bad_image: Literal["error", "skip"] = "error", progress: Progress = lambda num: None
) -> dict[int, str]:
    """Packs what is not in the file yet, which `begin` has made. Returns {row: why its picture can't be read}.

    With "error" such pictures keep the file from being finished: it stays FILE.partial, and the next run goes on with it.
    """
    partial = partial_path(target)
    try:
        with Marks(plan.layout, partial) as marks:
            bad = plan.bad | _pack_missing(plan, partial, marks, workers, progress)
            if bad and on_bad_image == "error":
                return bad
            _refuse_empty_classes(plan, bad)
            marks.leave_out(list(bad))
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise DataError(f"can't write {partial}: {error.strerror}; what was packed is kept, and the same command goes on") from error
    return bad


def _pack_missing(plan: Plan, partial: Path, marks: Marks, workers: int, progress: Progress) -> dict[int, str]:
    job = Job(partial, plan.layout.place("pixels"), plan.decoder, plan.layout.settings.square)
    bad: dict[int, str] = {}
    for results in in_processes(functools.partial(pack_rows, job), _chunks(plan, marks.filled), workers):
        bad |= {row: found for row, found in results if isinstance(found, str)}
        marks.add({row: found for row, found in results if not isinstance(found, str)})
        progress(len(results))
    return bad


def _chunks(plan: Plan, filled: np.ndarray) -> Iterator[list[Row]]:
    tables = plan.layout.tables
    rows = [row for row in np.flatnonzero(filled != FILLED).tolist() if row not in plan.bad]
    for start in range(0, len(rows), _PICTURES_AT_ONCE):
        yield [
            Row(row, plan.listing.paths[row], *(int(tables[name][row]) for name in ("offset", "height", "width")), *plan.full_sizes[row].tolist())
            for row in rows[start : start + _PICTURES_AT_ONCE]
        ]


def _refuse_empty_classes(plan: Plan, bad: dict[int, str]) -> None:
    rows = np.array([row for row in range(len(plan.layout)) if row not in bad], dtype=np.int64)
    tables = plan.layout.tables
    pairs = np.stack([tables["part"], tables["label"]], axis=1)  # [N, 2]
    for part, label in sorted(set(map(tuple, pairs.tolist())) - set(map(tuple, pairs[rows].tolist()))):
        name = plan.layout.class_names[label] if label >= 0 else "(no label)"
        raise DataError(f"none of the pictures of class {name!r} in {PARTS[part]} can be read; mend some of them, or remove the class")
