"""A folder that appears whole or not at all, in place of an earlier export or of nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from distill import record
from distill.errors import DataError

RECORD_FILE = "export.json"  # of an export: what it is, and which files are its own


def refuse_other_folder(folder: Path) -> None:
    """Raises DataError unless it is new, empty, or an earlier export with nothing else in it."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder with -o")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not files:
        return
    own = record.read_json(folder / RECORD_FILE).get("files")
    if not isinstance(own, dict):
        raise DataError(f"{folder} is not empty, and is no earlier export: name another folder with -o, or empty it")
    if others := sorted(files - own.keys() - {RECORD_FILE}):
        some = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise DataError(f"{folder} is an earlier export, but has other files in it ({some}), which would be lost: name another folder with -o")


@contextlib.contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A new folder beside it to work in, which takes its place at the end; if that does not come, nothing is left. Raises DataError if the disk
    refuses. A process that is killed leaves the hidden folder behind."""
    folder = folder.resolve()
    refuse_other_folder(folder)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        yield work
        _sync(work)
        _swap(work, folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}; free some room or name another folder with -o") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, folder: Path) -> None:
    if not folder.exists():
        work.rename(folder)
    else:
        refuse_other_folder(folder)  # somebody may have put something there meanwhile
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
        folder.rename(old)
        try:
            work.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    record.sync_folder(folder.parent)


def _sync(work: Path) -> None:
    """All of it is on the disk before it gets its name."""
    for path in (*(path for path in work.rglob("*")), work):
        record.sync_folder(path)  # opens and syncs, files too
