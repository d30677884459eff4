"""Makes the file that pictures are packed into, with room for all of them, or finds the one that an earlier run has left."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distill.data.packing.check import damaged_rows
from distill.data.packing.file import FILLED, Layout, PackedFile, Settings, read_packed_file
from distill.data.packing.plan import Plan, Progress
from distill.data.packing.rows import write_all
from distill.errors import DataError
from distill.record import sync_folder

_COPIED_AT_ONCE = 1 << 24  # bytes


def partial_path(target: Path) -> Path:
    """Where a packed file is written until it is whole."""
    return target.with_name(target.name + ".partial")


def begin(plan: Plan, target: Path) -> int:
    """Makes FILE.partial, or makes it fit where it is there; returns how many pictures are in it. Raises DataError if it is of something else."""
    partial = partial_path(target)
    old = _read_partial(partial)
    num_done = int((old.filled == FILLED).sum()) if old else 0
    if old and old.layout.header == plan.layout.header:
        return num_done
    if num_done and (differences := differing(old.layout.settings, plan.layout.settings)):
        raise DataError(f"{partial} was begun with {differences}; go on with that, or remove it to begin again")
    _create(plan, partial, old if num_done else None)
    return num_done


def discard_damaged(target: Path, progress: Progress = lambda num: None) -> int:
    """Pictures in FILE.partial whose pixels are not what was packed, as after a fault of the disk, are marked as still to be packed; how many."""
    partial = partial_path(target)
    found = read_packed_file(partial)
    rows, filled = damaged_rows(found, progress), found.filled.copy()
    filled[rows] = 0
    try:
        number = os.open(partial, os.O_WRONLY)
        try:
            write_all(number, filled, found.layout.place("filled"))
        finally:
            os.close(number)
    except OSError as error:
        raise DataError(f"can't write {partial}: {error.strerror}") from error
    return len(rows)


def missing_bytes(plan: Plan, target: Path) -> int:
    """How many bytes more are needed on the disk than are free there; 0 where the space is taken already."""
    partial = partial_path(target)
    old = _read_partial(partial)
    if old and old.layout.header == plan.layout.header:
        return 0
    return max(0, plan.layout.num_bytes - shutil.disk_usage(target.parent).free)


def differing(old: Settings, new: Settings) -> str:
    """What is not the same, in words; empty if nothing."""
    words = {"size": "--size {}", "square": "--square: {}", "decoder": "decoder {}", "resize": "resizing by {}"}
    pairs = [(words[name], value, asdict(new)[name]) for name, value in asdict(old).items()]
    return ", ".join(f"{text.format(before)} (now {after})" for text, before, after in pairs if before != after)


def _read_partial(partial: Path) -> PackedFile | None:
    if not os.path.lexists(partial):
        return None
    try:
        return read_packed_file(partial)
    except DataError as error:
        raise DataError(f"{error}; or remove it to begin again") from error


def _create(plan: Plan, partial: Path, old: PackedFile | None) -> None:
    """The file with nothing in it but what an older one has of the same pictures; under its name only when it is a whole safetensors file."""
    layout, new = plan.layout, partial.with_name(f".{partial.name}.new")
    kept = _kept_rows(old, layout, partial) if old else {}
    try:
        number = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _take_space(number, layout.num_bytes)
            write_all(number, layout.header, 0)
            for name, table in layout.tables.items():
                write_all(number, table, layout.place(name))
            if old:
                _take_over(old, layout, number, kept)
            os.fsync(number)
        finally:
            os.close(number)
        new.replace(partial)
        sync_folder(partial.parent)
    except OSError as error:
        free = shutil.disk_usage(partial.parent).free
        raise DataError(
            f"can't make {partial} of {layout.num_bytes:,} bytes: {error.strerror} ({free:,} bytes are free); make room, or choose another place: "
            "-o FILE"
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _take_space(number: int, num_bytes: int) -> None:
    """A disk that is too small is found now. Where the file system can't say, it is found when it is full."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(number, 0, num_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
                raise
    return os.ftruncate(number, num_bytes)


def _kept_rows(old: PackedFile, layout: Layout, partial: Path) -> dict[int, int]:
    """{row of the older file: its row now} for the packed ones. Raises DataError if one of them is not among the pictures any more."""
    row_now = {key: row for row, key in enumerate(layout.tables["file"].tolist())}
    done = np.flatnonzero(old.filled == FILLED).tolist()
    keys = old.layout.tables["file"].tolist()
    kept = {row: row_now[keys[row]] for row in done if keys[row] in row_now}
    if len(kept) < len(done):
        raise DataError(
            f"{partial} was begun from other pictures: {len(done) - len(kept):,} of the {len(done):,} that are packed have changed since, or are not "
            "in the folder any more; remove it to begin again"
        )
    return {row: now for row, now in kept.items() if old.layout.num_bytes_of[row] == layout.num_bytes_of[now]}


def _take_over(old: PackedFile, layout: Layout, number: int, kept: dict[int, int]) -> None:
    """Copies pictures that are packed already: pictures were added or mended since then, so each has another place now."""
    crc32, filled = np.zeros(len(layout), dtype="<i8"), np.zeros(len(layout), dtype="u1")
    with old.path.open("rb") as file:
        for row, now in kept.items():
            file.seek(old.layout.place("pixels") + int(old.layout.tables["offset"][row]))
            place, rest = layout.place("pixels") + int(layout.tables["offset"][now]), int(old.layout.num_bytes_of[row])
            while rest:
                content = file.read(min(rest, _COPIED_AT_ONCE))
                write_all(number, content, place)
                place, rest = place + len(content), rest - len(content)
            crc32[now], filled[now] = old.crc32[row], FILLED
    write_all(number, crc32, layout.place("crc32"))
    write_all(number, filled, layout.place("filled"))
