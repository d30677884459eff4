"""What is where in a tar file of pictures, so that any of them can be read without the others. Nothing in it is unpacked or run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill import record
from distill.errors import DataError
from distill.places import cache_folder

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "gif", "tif", "tiff")
_LABELS = ("cls", "json")
_LONGEST_LABEL = 1 << 20  # bytes; a .json beside a picture may hold much more than the label
_BLOCK = tarfile.BLOCKSIZE
_FORMAT = 1  # of what is kept: raise it when the same shard would give another index


class Index(NamedTuple):
    """The pictures of one shard, in its order."""

    offsets: np.ndarray  # [N] int64, bytes from the start of the file
    sizes: np.ndarray  # [N] int64, bytes
    labels: np.ndarray  # [N] int64


def index_of(path: Path) -> Index:
    """Read through once, then kept in the cache folder under the shard's name, size and time. Raises DataError if it is no whole, plain tar file."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"can't read the shard {path}: {error.strerror}") from error
    key = hashlib.sha256(repr((_FORMAT, str(path.resolve()), state.st_size, state.st_mtime_ns)).encode()).hexdigest()
    kept = cache_folder("data") / "shards" / f"{key[:32]}.npz"
    index = _kept(kept, state.st_size)
    if index is None:
        index = _read(path, state.st_size)
        file = io.BytesIO()
        np.savez(file, **index._asdict())
        with contextlib.suppress(OSError):  # it only saves time
            kept.parent.mkdir(parents=True, exist_ok=True)
            record.write_bytes(kept, file.getvalue())
    return index


def _kept(path: Path, size: int) -> Index | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # np.load leaves a damaged file open
            index = Index(*(arrays[name].astype(np.int64) for name in Index._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    is_whole = index.offsets.ndim == 1 and index.offsets.shape == index.sizes.shape == index.labels.shape
    inside = is_whole and (index.offsets >= 0).all() and (index.sizes >= 0).all() and (index.offsets + index.sizes <= size).all()
    return index if inside else None


def _read(path: Path, size: int) -> Index:
    rows = []
    try:
        with tarfile.open(path, mode="r:") as tar:
            for key, members in _samples(tar, path):
                rows.append(_row(tar, path, key, members, size))
    except DataError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"can't read the shard {path}: {error}; it must be a whole tar file, not compressed; fetch or make it anew") from error
    if not rows:
        raise DataError(f"the shard {path} has no pictures in it (looked for .{', .'.join(PICTURES)})")
    offsets, sizes, labels = np.array(rows, dtype=np.int64).T
    return Index(offsets, sizes, labels)


def _samples(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, ending -> member): members in a row whose names are equal up to the first dot belong together. What is no file is passed over."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in _members(tar, path):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:
            continue
        this = f"{folder}/{stem}".lstrip("/")
        if this != key and members:
            yield key, members
            members = {}
        key = this
        members[ending.lower()] = member
    if members:
        yield key, members


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """Every member, without keeping them, as going through the TarFile itself would. Raises DataError if something else than the end mark follows."""
    reached = -1
    assert tar.fileobj is not None  # an open one has it
    while (member := tar.next()) is not None:
        if tar.offset <= reached:  # a size below zero would lead in circles
            raise tarfile.ReadError("a member has an impossible size")
        reached = tar.offset
        tar.members = []  # type: ignore[attr-defined]  # tarfile's own loop does so too, but typeshed does not know of it
        yield member
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(_BLOCK)  # tarfile takes whatever is no header for the end; the real one is a block of zeros
    if end != bytes(_BLOCK):
        raise DataError(f"the shard {path} is {'damaged' if len(end) == _BLOCK else 'cut short'} after {tar.offset:,} bytes; fetch or make it anew")


def _row(tar: tarfile.TarFile, path: Path, key: str, members: dict[str, tarfile.TarInfo], size: int) -> tuple[int, int, int]:
    """(offset, bytes, label) of a sample's picture."""
    pictures = [members[ending] for ending in PICTURES if ending in members]
    if len(pictures) != 1:
        has = ", ".join(f".{ending}" for ending in members)
        raise DataError(f"the shard {path}, sample {key!r}: it has {len(pictures)} pictures ({has}); each sample needs one")
    picture = pictures[0]
    if picture.issparse():
        raise DataError(f"the shard {path}, sample {key!r}: it is stored with holes (a sparse file); make the shard anew without --sparse")
    if picture.offset_data + picture.size > size:
        raise DataError(f"the shard {path} is cut short within the sample {key!r}; fetch or make it anew")
    return picture.offset_data, picture.size, _label(tar, path, key, members)


def _label(tar: tarfile.TarFile, path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> int:
    ending = next((ending for ending in _LABELS if ending in members), None)
    if ending is None:
        raise DataError(f'the shard {path}, sample {key!r}: it has no label (looked for .cls, a number, and .json with "label")')
    member = members[ending]
    if member.size > _LONGEST_LABEL or member.issparse():
        raise DataError(f"the shard {path}, sample {key!r}: its .{ending} is no label, but {member.size:,} bytes long")
    file = tar.extractfile(member)
    assert file is not None  # _samples has passed over what is no file
    text = file.read()
    try:
        value = int(text) if ending == "cls" else json.loads(text)["label"]
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        wanted = "a whole number" if ending == "cls" else 'an object with a whole number as "label"'
        raise DataError(f"the shard {path}, sample {key!r}: its .{ending} must be {wanted}, got {text[:40]!r}") from None
    return value
