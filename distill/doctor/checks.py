"""What can be wrong around a run: its pictures, the folders that it writes to, and the room on their disks. Nothing is left behind by looking."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill import record
from distill.data.sources.base import DataSource
from distill.doctor.findings import Findings, size
from distill.errors import DataError
from distill.recipe import Recipe
from distill.run_folders import is_unfinished
from distill.teacher_store import TeacherStore

_NUM_READ = 64  # pictures, over all parts
_NUM_NAMED = 5  # of those that can't be read


def check_labels(source: DataSource, found: Findings) -> None:
    """Every label must be a class; torch would stop with a message about memory addresses, or on a GPU not at all where it went wrong.

    Wrong ones are then replaced, in this source of the doctor's own, so that all else can still be looked at.
    """
    num_classes = len(source.class_names)
    for name in ("train", "val", "test"):
        part = getattr(source, name)
        bad = np.flatnonzero((part.labels < 0) | (part.labels >= num_classes))
        if len(bad):
            found.problem(
                f"the {name} part: {len(bad):,} of {len(part):,} labels are out of range: the picture with sample id {part.sample_ids[bad[0]]} has "
                f"label {part.labels[bad[0]]}, and there are {num_classes} classes (0 to {num_classes - 1}); mend the source's labels or class_names",
                DataError.exit_code,
            )
            part.labels = part.labels.clip(0, num_classes - 1)
    missing = np.setdiff1d(np.arange(num_classes), source.train.labels)
    if len(missing):
        some = ", ".join(repr(source.class_names[label]) for label in missing[:_NUM_NAMED])
        found.warn(f"{len(missing)} of {num_classes} classes have no training picture ({some}): the student can't learn them")


def check_pictures(source: DataSource, found: Findings) -> int:
    """Reads some pictures, spread evenly over each part; returns how many."""
    num_read, failures = 0, []
    for name in ("train", "val", "test"):
        part = getattr(source, name)
        positions = np.unique(np.linspace(0, len(part) - 1, min(len(part), -(-_NUM_READ // 3))).astype(int))
        num_read += len(positions)
        for position in positions:
            try:
                part.picture(position)
            except DataError as error:
                failures.append(str(error))
            except Exception as error:
                failures.append(f"can't read picture {position} of the {name} part: {type(error).__name__}: {error}")
    for failure in failures[:_NUM_NAMED]:
        found.problem(failure, DataError.exit_code)
    if len(failures) > _NUM_NAMED:
        found.problem(f"{len(failures)} of {num_read} pictures that were tried can't be read; the first are named above", DataError.exit_code)
    return num_read


def check_folders(runs_dir: str, trains_teacher: bool, found: Findings) -> None:
    """Whether runs_dir, and the teacher cache if it is needed, can be written to."""
    places = [(Path(runs_dir), f"runs_dir={runs_dir}", "set runs_dir=FOLDER to one that you may write to")]
    if trains_teacher:
        store = TeacherStore().folder
        places.append((store, f"the folder for trained teachers, {store},", "set DISTILL_CACHE=FOLDER in the environment"))
    for path, name, fix in places:
        try:
            with tempfile.TemporaryFile(dir=existing(path), prefix=".distill-"):
                pass
        except OSError as error:
            found.problem(f"{name} can't be written ({error.strerror or error}); {fix}", DataError.exit_code)


def check_name(recipe: Recipe, path: Path, found: Findings) -> None:
    """Whether `distill train` would take this folder for a new run."""
    if is_unfinished(path):
        message = f"{path} is not finished: distill train --resume {path} goes on with it; for a new run set run_name=OTHER, or remove the folder"
        if record.read_json(path / record.STATUS_FILE).get("state") == "running" and recipe.run_name is None:
            found.warn(f"{message} (unless a job is at work there: then the new run gets a name of its own)")
        else:
            found.problem(message, DataError.exit_code)
    elif recipe.run_name is not None and (path / record.SUMMARY_FILE).exists():
        found.problem(f"{path} holds a run already; set run_name=OTHER, or remove the folder", DataError.exit_code)


class Stage(NamedTuple):
    """One run of a job, in bytes."""

    name: str
    folder: Path
    written: int  # at most, while it trains
    left: int  # when it has finished: its best checkpoint, the student and its answers


def check_disk(stages: Iterable[Stage], found: Findings) -> list[dict[str, Any]]:
    """For each run what it writes and what is free then: the runs come one after another, and a finished one keeps less than it wrote."""
    rows: list[dict[str, Any]] = []
    used: dict[int, int] = {}
    for stage in stages:
        place = existing(stage.folder)
        disk = os.stat(place).st_dev  # noqa: PTH116 - the number of the disk, of a folder that may be a mount
        free = shutil.disk_usage(place).free - used.get(disk, 0)
        rows.append({"run": stage.name, "folder": str(stage.folder), "written_bytes": stage.written, "free_bytes": free})
        if free < stage.written:
            found.problem(
                f"{stage.folder} has {size(max(0, free))} free for {stage.name}, which writes up to {size(stage.written)}; free some, or set "
                f"{'DISTILL_CACHE' if 'teacher' in stage.name else 'runs_dir'}=FOLDER on another disk, or train.keep_checkpoints=1",
                DataError.exit_code,
            )
        used[disk] = used.get(disk, 0) + stage.left
    return rows


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there. A file in the way is returned too: nothing can be written into it."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
