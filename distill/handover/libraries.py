"""The libraries that files for other programs are written and read with: what they say kept from the terminal, and put into one line."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from distill.errors import DataError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning and no line of a log, from any library. What went wrong is raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises DataError if there is no such file."""
    if not path.is_file():
        raise DataError(f"{str(path)!r}: " + ("a device, a pipe or a folder, not a file" if path.exists() else "there is no such file"))
    return path.read_bytes()


def reason(error: Exception) -> str:
    """The first line of what a library says went wrong; the others are advice to programmers."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
