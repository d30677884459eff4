"""The file that `distill data prepare` writes: pictures of one folder, resized once, behind each other in a safetensors file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.class_folders import PARTS
from distill.errors import DataError

FORMAT, VERSION = "distill packed pictures", "1"
FILLED, LEFT_OUT = 1, 2  # in `filled`: the row is whole; its picture could not be read. 0 is still to be done
_TABLES = {"offset": "I64", "file": "I64", "label": "I64", "crc32": "I64", "height": "I32", "width": "I32", "part": "U8", "filled": "U8"}
_TYPES = {"I64": "<i8", "I32": "<i4", "U8": "|u1"}
_GIVEN = ("offset", "file", "label", "height", "width", "part")  # known before the first picture is packed
_PAGE = 4096  # the header is filled up with spaces to whole pages
_MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_MAX_SIDE = 1 << 27  # pixels; no decoder gives a picture that has more of them


@dataclass(frozen=True)
class Settings:
    """What was done to each picture."""

    size: int  # the short side, where the picture had more
    square: bool  # whether only the central square was kept
    decoder: str
    resize: str


class Layout:
    """Where everything is in the file; all of it but `crc32`, `filled` and the pixels."""

    def __init__(self, settings: Settings, class_names: list[str], tables: dict[str, np.ndarray]):
        """tables: `file` [N] int64 (file_key of each), `label`, `part`, and `height` and `width` as packed (0 for a picture of unknown size)."""
        self.settings, self.class_names = settings, class_names
        self.tables = {name: np.ascontiguousarray(tables[name], dtype=_TYPES[_TABLES[name]]) for name in _GIVEN if name != "offset"}
        self.num_bytes_of = 3 * self.tables["height"].astype(np.int64) * self.tables["width"]
        self.tables["offset"] = np.cumsum(self.num_bytes_of, dtype="<i8") - self.num_bytes_of
        self.num_pixel_bytes = int(self.num_bytes_of.sum())

    def __len__(self) -> int:
        return len(self.tables["label"])

    @cached_property
    def metadata(self) -> dict[str, str]:
        """All as text, as safetensors wants it; "sha256" is of the rest and of the tables that don't change."""
        known = {"format": FORMAT, "version": VERSION, "class_names": json.dumps(self.class_names)}
        known |= {name: json.dumps(value) if name == "square" else str(value) for name, value in asdict(self.settings).items()}
        known["files_sha256"] = hashlib.sha256(self.tables["file"].tobytes()).hexdigest()
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        for name in _GIVEN:
            digest.update(self.tables[name].tobytes())
        return known | {"sha256": digest.hexdigest()}

    @cached_property
    def header(self) -> bytes:
        """The first bytes of the file: the length of what follows, then JSON."""
        text = json.dumps({"__metadata__": self.metadata, **_entries(len(self), self.num_pixel_bytes)}, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _PAGE)
        return len(text).to_bytes(8, "little") + text

    def place(self, name: str) -> int:
        """Where a tensor begins, in bytes from the beginning of the file."""
        return len(self.header) + _entries(len(self), self.num_pixel_bytes)[name]["data_offsets"][0]

    @property
    def num_bytes(self) -> int:
        """Of the whole file."""
        return self.place("pixels") + self.num_pixel_bytes


@dataclass(frozen=True)
class PackedFile:
    """A file that is there: its layout, and how far it is."""

    path: Path
    layout: Layout
    crc32: np.ndarray  # [N] int64, of each picture's pixels
    filled: np.ndarray  # [N] uint8


def file_key(name: str, num_bytes: int) -> int:
    """64 bits for a file's name below the folder (with /) and its size: equal only for the same file."""
    digest = hashlib.sha256(f"{name}\0{num_bytes}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def read_packed_file(path: Path) -> PackedFile:
    """All but the pixels. Raises DataError for a file that is missing, foreign, cut short, altered, or of another version."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}; distill data prepare FOLDER writes one")
        with path.open("rb") as file:
            return _read(path, file, path.stat().st_size)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error


def _read(path: Path, file: Any, file_bytes: int) -> PackedFile:
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(_MAX_HEADER, file_bytes - 8):
        raise _foreign(path)
    header = file.read(length)
    try:
        parsed = json.loads(header)
        metadata = parsed["__metadata__"]
        if metadata["format"] != FORMAT:
            raise _foreign(path)
        if metadata["version"] != VERSION:
            raise DataError(f"{path} has version {metadata['version']} of this format, and version {VERSION} is read here; pack the folder again")
        settings = Settings(int(metadata["size"]), metadata["square"] == "true", metadata["decoder"], metadata["resize"])
        class_names, count, pixel_bytes = json.loads(metadata["class_names"]), parsed["filled"]["shape"][0], parsed["pixels"]["shape"][0]
        expected = 8 + length + _entries(count, pixel_bytes)["pixels"]["data_offsets"][1]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _foreign(path) from error
    if file_bytes != expected:
        raise DataError(f"{path} has {file_bytes:,} bytes and should have {expected:,}: it was not copied whole; copy or pack it again")
    tables = {name: np.frombuffer(file.read(count * int(_TYPES[kind][-1])), dtype=_TYPES[kind]) for name, kind in _TABLES.items()}
    sides = np.stack([tables["height"], tables["width"]])
    if not count or (sides < 0).any() or (sides > _MAX_SIDE).any() or not _is_plausible(class_names, tables):
        raise _altered(path)
    layout = Layout(settings, class_names, tables)
    is_same = layout.num_pixel_bytes == pixel_bytes and layout.header[8:] == header  # sizes, order and sums are all in there
    if not is_same or not np.array_equal(layout.tables["offset"], tables["offset"]):
        raise _altered(path)
    return PackedFile(path, layout, tables["crc32"], tables["filled"])


def _entries(count: int, pixel_bytes: int) -> dict[str, dict[str, Any]]:
    """The header's line for each tensor."""
    if not (isinstance(count, int) and isinstance(pixel_bytes, int) and min(count, pixel_bytes) >= 0):
        raise ValueError("numbers of pictures and bytes")
    entries, end = {}, 0
    for name, kind in (*_TABLES.items(), ("pixels", "U8")):
        shape = pixel_bytes if name == "pixels" else count
        start, end = end, end + shape * int(_TYPES[kind][-1])
        entries[name] = {"dtype": kind, "shape": [shape], "data_offsets": [start, end]}
    return entries


def _is_plausible(class_names: Any, tables: dict[str, np.ndarray]) -> bool:
    names = isinstance(class_names, list) and all(isinstance(name, str) for name in class_names) and len(set(class_names)) == len(class_names)
    labels = names and tables["label"].min() >= -1 and tables["label"].max() < len(class_names)
    parts = tables["part"].max() < len(PARTS) and (np.diff(tables["part"].astype(np.int64)) >= 0).all()  # a source's rows go through part after part
    return bool(labels and parts and tables["filled"].max() <= LEFT_OUT)


def _foreign(path: Path) -> DataError:
    return DataError(f"{path} was not written by distill data prepare, or is damaged at its beginning")


def _altered(path: Path) -> DataError:
    return DataError(f"{path} is damaged: what it says of its pictures does not fit together; copy or pack it again")
