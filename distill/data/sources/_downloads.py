"""Data sets that torchvision knows where to fetch: found on this disk, or downloaded so that a half of one is never taken for the whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from distill.data.sources._files import existing_folder
from distill.errors import DataError, RecipeError
from distill.places import cache_folder

Opened = TypeVar("Opened")

_TIMEOUT = 60  # seconds without an answer, after which a server is given up; torchvision would wait for ever
_PLACES = ("*", "*/*", "*/raw/*")  # where torchvision's classes look for the files that they download
_DOWNLOADED = {".gz", ".tgz", ".tar", ".zip", ".bz2", ".xz", ".mat", ".data"}


def opened(name: str, open_in: Callable[[Path, bool], Opened], root: str | None, *, download: bool, source: str) -> tuple[Opened, Path]:
    """(what `open_in(folder, download)` returns, the folder): the folder `root`, or else one in the cache, filled if the data set is not there.

    download: whether to download into `root` as well. Raises DataError if the data set is not there and can't be had.
    """
    folder = _folder(name, root, download, source)
    try:
        return open_in(folder, False), folder
    except (DataError, RecipeError):
        raise
    except Exception as error:  # torchvision's classes raise what they like for what is missing, and for what is damaged
        reason = _reason(error)
    if root is not None and not download:
        raise DataError(
            f"{folder} does not hold {name}, or not whole: {reason}; data.arguments.download=true downloads it to there, and data.root=null "
            f"to {cache_folder('data') / name}"
        )
    _download(name, open_in, folder)
    try:
        return open_in(folder, False), folder
    except Exception as error:
        raise DataError(f"{name} in {folder} can't be read: {_reason(error)}; remove that folder and start again") from error


def _folder(name: str, root: str | None, download: bool, source: str) -> Path:
    if root is None or download:
        folder = cache_folder("data") / name if root is None else Path(root).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"can't make the folder {folder} for {name}: {error.strerror}") from error
        return folder
    return existing_folder(root, source)


def _download(name: str, open_in: Callable[[Path, bool], object], folder: Path) -> None:
    """Into a folder of its own first: torchvision writes under the final names, and takes a folder that is half unpacked for a whole one."""
    unfinished = folder / ".unfinished"
    try:
        with FileLock(folder / ".download.lock"):
            with contextlib.suppress(Exception):
                open_in(folder, False)
                return  # another process has fetched it meanwhile
            try:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                _link_what_is_there(folder, unfinished)
                with _timeout():
                    open_in(unfinished, True)
                _move_into(folder, unfinished)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except Exception as error:
        raise DataError(f"{name} can't be downloaded: {_reason(error)}{_by_hand(error, folder, unfinished)}") from error


def _link_what_is_there(folder: Path, unfinished: Path) -> None:
    """Files that a person has fetched need no download; torchvision checks their sums."""
    for path in (path for pattern in _PLACES for path in folder.glob(pattern)):
        if path.suffix in _DOWNLOADED and path.is_file() and unfinished not in path.parents:
            target = unfinished / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # not every file system has links
                shutil.copyfile(path, target)


def _move_into(folder: Path, unfinished: Path) -> None:
    for path in unfinished.iterdir():
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move_into(target, path)
        else:
            path.replace(target)


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """What went wrong, without torchvision's advice on its own arguments."""
    text = " ".join(str(error).split()).partition(" You can use download=True")[0]
    return text.rstrip(".") or type(error).__name__


def _by_hand(error: Exception, folder: Path, unfinished: Path) -> str:
    """How to do without the download that failed."""
    found = _address(error)
    if found is None:
        return ""
    address, path = found
    place = folder / path.relative_to(unfinished) if path.is_relative_to(unfinished) else path
    return f"; or fetch {address} by other means, put it here as {place}, and start again"


def _address(error: Exception) -> tuple[str, Path] | None:
    """(address, file) of the download that failed: torchvision's errors do not say it, but its function that downloads knows."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        values = frame.f_locals
        if isinstance(values.get("url"), str) and values.get("fpath"):
            return values["url"], Path(values["fpath"])
        if values.get("errors"):  # MNIST and its relatives try several servers
            return _address(values["errors"][0])
    return None
