"""What would be packed, and where each picture would lie in the file: known before the first picture is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.class_folders import survey
from distill.data.decoding import Decoder
from distill.data.packing.file import Layout, Settings, file_key
from distill.data.packing.rows import header_sizes, packed_size, resize_name
from distill.data.processes import in_processes
from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError

_HEADERS_AT_ONCE = 200

Progress = Callable[[int], None]  # told how many more pictures are done


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, in the order of ImageFolder's rows."""

    class_names: list[str]
    paths: list[Path]
    tables: dict[str, np.ndarray]  # file [N] int64, label [N] int64, part [N] uint8

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Plan:
    """Where everything goes. `full_sizes` is (height, width) of each picture's file; (0, 0) where it can't be read."""

    listing: Listing
    layout: Layout
    full_sizes: np.ndarray  # [N, 2] int64
    bad: dict[int, str]  # row: why its picture can't be read
    decoder: Decoder


def list_pictures(root: Path) -> Listing:
    """Raises DataError where data.source=imagefolder would."""
    folder = ImageFolder(str(root))
    folder.check()
    paths, labels, parts = survey(root).rows()
    if not _is_same(folder, labels):
        raise DataError(f"the files in {root} change while they are listed; try again when nothing is written there")
    try:
        keys = [file_key(path.relative_to(root).as_posix(), path.stat().st_size) for path in paths]
    except OSError as error:
        raise DataError(f"can't look at the picture {error.filename}: {error.strerror}") from error
    return Listing(list(folder.class_names), paths, {"file": np.array(keys, dtype=np.int64), "label": labels, "part": parts})


def _is_same(folder: ImageFolder, labels: np.ndarray) -> bool:
    """Whether the folder's parts are made of these rows."""
    parts = (folder.train, folder.val, folder.test)
    ids = np.concatenate([part.sample_ids for part in parts])
    return np.array_equal(np.sort(ids), np.arange(len(labels))) and np.array_equal(labels[ids], np.concatenate([part.labels for part in parts]))


def settings_for(size: int, square: bool, decoder: Decoder) -> Settings:
    """What decides the pixels of a packed file: size [pixels], shape, decoder and way of resizing."""
    return Settings(size, square, decoder.version, resize_name(square))


def make_plan(listing: Listing, size: int, *, square: bool, decoder: Decoder, workers: int = 0, progress: Progress = lambda num: None) -> Plan:
    """Reads the header of each picture."""
    full = np.zeros((len(listing), 2), dtype=np.int64)
    bad: dict[int, str] = {}
    rows = list(enumerate(listing.paths))
    chunks = (rows[start : start + _HEADERS_AT_ONCE] for start in range(0, len(rows), _HEADERS_AT_ONCE))
    for sizes in in_processes(header_sizes, chunks, workers):
        progress(len(sizes))
        for row, found in sizes:
            if isinstance(found, str):
                bad[row] = found
            else:
                full[row] = found
    packed = np.array([packed_size(height, width, size, square) if height else (0, 0) for height, width in full.tolist()])
    tables = listing.tables | {"height": packed[:, 0], "width": packed[:, 1]}
    return Plan(listing, Layout(settings_for(size, square, decoder), listing.class_names, tables), full, bad, decoder)
