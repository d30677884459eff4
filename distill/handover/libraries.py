"""The libraries that files for other programs are written and read with: whether they are here, and what they say kept from the terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.errors import DataError


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the packages that can't be imported; none is."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


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
