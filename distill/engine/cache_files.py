"""The files of a teacher cache: a manifest, and for each view one safetensors file that has its full size from the beginning and is filled in place.

A view file is valid at every moment. Its rows are written by any number of processes without locks: the bytes of an answer and the hash of its
picture first, then a seal over both. A row that was never written, half written, written by two at once, or damaged since, has no seal that fits, and
counts as not there; so neither kill -9 nor a power cut can make a wrong row.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from distill.engine.answer_formats import Column
from distill.engine.fingerprints import seal
from distill.errors import DataError
from distill.record import read_json, write_text

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when the same answers would be written as other bytes
_CHUNK = 1 << 16
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int32: "I32",
    torch.uint16: "U16",
    torch.uint8: "U8",
}


def row_bytes(columns: Mapping[str, Column]) -> int:
    """Of one answer on disk, the hash of its picture and its seal included."""
    return sum(column.num_bytes for column in columns.values()) + 8 + 3


class CacheFolder:
    """One teacher's answers to the views of one training part."""

    def __init__(self, path: Path, identity: Mapping[str, Any], columns: Mapping[str, Column], num_rows: int):
        """identity: everything that decides an answer, by names that a person understands; JSON values."""
        self.path, self.columns, self.num_rows = path, dict(columns), num_rows
        self.identity = json.loads(json.dumps(dict(identity)))

    @property
    def row_bytes(self) -> int:
        """Of one answer on disk, the hash of its picture and its seal included."""
        return row_bytes(self.columns)

    def open(self) -> None:
        """Makes the folder, or sees that it is of the same teacher and views. Raises DataError that says what differs; OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / MANIFEST).exists():
            with FileLock(self.path / ".lock"):
                if not (self.path / MANIFEST).exists():
                    manifest = {"format": FORMAT, "num_rows": self.num_rows, "row_bytes": self.row_bytes, "identity": self.identity}
                    write_text(self.path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        manifest = read_json(self.path / MANIFEST)
        there = manifest.get("identity")
        if manifest.get("format") != FORMAT or not isinstance(there, dict):
            raise DataError(f"{self.path / MANIFEST} is not what a teacher cache writes; remove the folder, or name another teacher.cache.folder")
        names = [name for name in {**there, **self.identity} if there.get(name) != self.identity.get(name)]
        if names or manifest.get("num_rows") != self.num_rows:
            listed = "".join(f"\n  {name}: {_short(there.get(name))} there, {_short(self.identity.get(name))} here" for name in names)
            raise DataError(
                f"the teacher cache {self.path} holds other answers than this run needs:{listed or ' another number of pictures'}\n"
                "leave out teacher.cache.folder to have one of its own, or name another"
            )

    def view_path(self, view: int) -> Path:
        return self.path / f"view_{view:05}.safetensors"

    def view(self, view: int, *, writes: bool = True) -> ViewFile | None:
        """The file of a view, made first if it is not there and may be written; None if it is not there. Raises OSError, and DataError for a file
        that is cut short or foreign."""
        path = self.view_path(view)
        if not path.exists():
            if not writes:
                return None
            self._create(path, view)
        return ViewFile(path, self.columns, self.num_rows, self._metadata(view), writes=writes)

    def _metadata(self, view: int) -> dict[str, str]:
        """By which a view file is told from one of another view or of another cache, also where its columns are the same."""
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return {"format": f"distill teacher cache {FORMAT}", "cache": key, "view": str(view)}

    def _create(self, path: Path, view: int) -> None:
        temporary, header = path.with_name(f".{path.name}.tmp"), _header(self.columns, self.num_rows, self._metadata(view))
        with FileLock(self.path / ".lock"):
            if path.exists():  # another run has made it since
                return
            try:
                with temporary.open("wb") as file:  # over what a process that was killed has left
                    file.write(header)
                    file.flush()
                    _reserve(file.fileno(), len(header) + self.num_rows * self.row_bytes)
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def num_written(self, view: int) -> int:
        """How many answers a view's file has, sound or not; 0 without a usable file."""
        try:
            file = self.view(view, writes=False)
        except (OSError, DataError):
            return 0
        return 0 if file is None else file.num_written()

    def views(self) -> list[int]:
        """Which views have files."""
        found = (re.fullmatch(r"view_([0-9]{5,})\.safetensors", path.name) for path in self.path.glob("view_*.safetensors"))
        return sorted(int(match[1]) for match in found if match)


class ViewFile:
    """The answers for one view; rows are the training samples in the order of their ids."""

    def __init__(self, path: Path, columns: Mapping[str, Column], num_rows: int, metadata: dict[str, str], *, writes: bool):
        """metadata: what the file says of itself. Raises DataError if the file is not one of such rows, OSError if it can't be opened."""
        self.path, self.num_rows = path, num_rows
        with path.open("r+b" if writes else "rb") as file:
            header = _header(columns, num_rows, metadata)
            start = 8 + struct.unpack("<Q", (file.read(8) + bytes(8))[:8])[0]
            size, expected = os.fstat(file.fileno()).st_size, start + num_rows * row_bytes(columns)
            if start != len(header) or file.read(start - 8) != header[8:]:
                what = "its beginning is damaged, or it is of another view or another teacher"
                raise DataError(f"{path} is not this view of this teacher cache: {what}; remove the file, and it is made anew")
            if size != expected:
                raise DataError(f"{path} has {size:,} bytes and should have {expected:,}: it is cut short; remove the file, and it is made anew")
            self._map = np.memmap(file, dtype=np.uint8, mode="r+" if writes else "r")
        self._parts, offset = [], start
        for num_bytes in (*(column.num_bytes for column in columns.values()), 8, 3):
            self._parts.append(self._map[offset : offset + num_rows * num_bytes].reshape(num_rows, num_bytes))
            offset += num_rows * num_bytes

    def read(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(answers [n, bytes] uint8, hashes of their pictures [n] int64, whether each is there and whole [n] bool)"""
        *answers, hash_bytes, seals = (np.ascontiguousarray(part[rows]) for part in self._parts)
        packed, hashes = np.concatenate(answers, axis=1), hash_bytes.view(np.int64)[:, 0]
        return packed, hashes, (seals == seal(packed, hashes)).all(axis=1)

    def chunks(self) -> Iterator[slice]:
        """All rows, some at a time: looking at seals takes a few times the rows' bytes."""
        return (slice(start, start + _CHUNK) for start in range(0, self.num_rows, _CHUNK))

    def whole(self) -> np.ndarray:
        """[num_rows] bool: which answers are there and whole."""
        return np.concatenate([self.read(chunk)[2] for chunk in self.chunks()])

    def num_damaged(self) -> int:
        return sum(int(self.damaged(chunk).sum()) for chunk in self.chunks())

    def damaged(self, rows: np.ndarray | slice) -> np.ndarray:
        """[n] bool: rows that were written once and are not whole."""
        _, _, is_whole = self.read(rows)
        return ~is_whole & self._parts[-1][rows].any(axis=1)

    def num_written(self) -> int:
        return int(self._parts[-1].any(axis=1).sum())

    def write(self, rows: np.ndarray, packed: np.ndarray, hashes: np.ndarray) -> None:
        """packed [n, bytes] uint8, hashes [n] int64"""
        offset = 0
        for part in self._parts[:-2]:
            part[rows] = packed[:, offset : offset + part.shape[1]]
            offset += part.shape[1]
        self._parts[-2][rows] = hashes[:, None].view(np.uint8)
        self._parts[-1][rows] = seal(packed, hashes)  # last: it says that the others are there


def _header(columns: Mapping[str, Column], num_rows: int, metadata: dict[str, str]) -> bytes:
    """The head of a safetensors file (huggingface.co/docs/safetensors): 8 bytes of length, and JSON padded with spaces."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    listed = [(name, _DTYPES[column.dtype], column.shape, column.num_bytes) for name, column in columns.items()]
    for name, dtype, shape, num_bytes in (*listed, ("hash", "I64", (), 8), ("seal", "U8", (3,), 3)):
        entries[name] = {"dtype": dtype, "shape": [num_rows, *shape], "data_offsets": [offset, offset + num_rows * num_bytes]}
        offset += num_rows * num_bytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _reserve(number: int, size: int) -> None:
    """Gives a file its size and the blocks for it: without, a full disk would end the process when a page of the map is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(number, 0, size)
        return
    os.lseek(number, 0, os.SEEK_END)
    while (left := size - os.lseek(number, 0, os.SEEK_CUR)) > 0:
        if os.write(number, bytes(min(left, 1 << 20))) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
