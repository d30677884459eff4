"""Pictures from the one file that `distill data prepare` makes of a folder: nothing is decoded, and only what a view shows is read."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data.class_folders import PARTS
from distill.data.packing.file import FILLED, LEFT_OUT, PackedFile, read_packed_file
from distill.data.packing.rows import as_picture
from distill.data.sources._parts import parts_without_train_labels, three_parts
from distill.data.sources.base import DataSource, Part
from distill.errors import DataError

_USUAL_SIZE = 224
_SHARE_OF_MEMORY = 0.5  # pictures that need less of it are held there
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # Python knows its name since 3.13


class Packed(DataSource):
    """Reads FILE.safetensors: the parts, classes, sample ids and pictures that `data.source=imagefolder` has in the folder that was packed.

    Val and test are set aside in the same way. Pictures that could not be read when it was packed are in no part.
    """

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1):
        """image_size: by default the size of packed squares, else 224, or what was packed if that is less. Raises DataError if the file can't be
        used."""
        if root is None:
            raise DataError("data.source=packed needs data.root=FILE, a file that distill data prepare FOLDER has written")
        packed = read_packed_file(Path(root).expanduser())
        if missing := int(((packed.filled != FILLED) & (packed.filled != LEFT_OUT)).sum()):
            raise DataError(
                f"{root} is not whole: {missing:,} of its {len(packed.filled):,} pictures are still to be packed; distill data prepare goes on"
            )
        self._packed, layout = packed, packed.layout
        settings, labels, part = layout.settings, layout.tables["label"], layout.tables["part"]
        self.class_names, self.decoder = layout.class_names, settings.decoder
        self.image_size = image_size or (settings.size if settings.square else min(_USUAL_SIZE, settings.size))
        by_part = {name: labels[part == number] for number, name in enumerate(PARTS) if (part == number).any()}
        if "train" not in by_part:
            raise DataError(f"{root} has no training pictures")
        self.has_labels = bool((by_part["train"] >= 0).all())
        split = three_parts if self.has_labels else parts_without_train_labels
        rows, self.note = split(by_part, val_fraction, self.class_names, is_folders=True)
        self._set_parts(rows, labels)

    def _set_parts(self, rows: dict[str, np.ndarray], labels: np.ndarray) -> None:
        kept = {name: part[self._packed.filled[part] == FILLED] for name, part in rows.items()}
        if left_out := int((self._packed.filled == LEFT_OUT).sum()):
            self.note = "; ".join(filter(None, [self.note, f"{left_out:,} pictures could not be read when they were packed, and are left out"]))
        pixels = _Pixels(self._packed)
        one = _one_size(self._packed)
        if one is not None and self._packed.layout.num_pixel_bytes <= _SHARE_OF_MEMORY * _memory():
            pictures = {name: pixels.together(part, *one) for name, part in kept.items()}
            self.train, self.val, self.test = (Part(labels[kept[name]], kept[name], pixels=pictures[name]) for name in PARTS)
        else:
            self.train, self.val, self.test = (Part(labels[kept[name]], kept[name], read=_Rows(pixels, kept[name])) for name in PARTS)

    def fingerprint(self) -> str:
        """Of the file's own sums, without reading the pixels: which files (by name and size) were packed, how, and what is in each part."""
        digest = hashlib.sha256(self._packed.layout.metadata["sha256"].encode() + self._packed.filled.tobytes())
        for part in (self.train, self.val, self.test):
            digest.update(part.labels.tobytes() + part.sample_ids.tobytes())
        return digest.hexdigest()


class _Pixels:
    """The file's pixels in a map of the process's own: what is written to it stays there. Goes to worker processes by its path."""

    def __init__(self, packed: PackedFile):
        layout = packed.layout
        self._path, self._num_bytes, self._start = packed.path.resolve(), layout.num_bytes, layout.place("pixels")
        self._offset, self._height, self._width = (layout.tables[name] for name in ("offset", "height", "width"))
        self._open()

    def _open(self) -> None:
        try:
            number = os.open(self._path, os.O_RDONLY)
            try:
                self._check(os.fstat(number).st_size)
                # without reserving memory for pages that nobody writes to: the file may be larger than the memory
                self._map = mmap.mmap(number, self._num_bytes, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            finally:
                os.close(number)
        except (OSError, ValueError) as error:
            raise DataError(f"can't map {self._path} into memory: {error}") from error
        self._flat = torch.frombuffer(self._map, dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_map", "_flat")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def picture(self, row: int) -> Tensor:
        """[3, H, W] uint8, a view: pages that nobody looks at are not read. Raises DataError if the file has been cut short since it was opened."""
        self._check(self._map.size())  # the file's size as it is now: touching a page that is gone would end the process
        height, width, start = int(self._height[row]), int(self._width[row]), self._start + int(self._offset[row])
        return as_picture(self._flat[start : start + 3 * height * width], height, width)

    def together(self, rows: np.ndarray, height: int, width: int) -> Tensor:
        """[N, 3, height, width] uint8 of pictures that all have one size; a view where they lie behind each other, else a copy."""
        num_bytes = 3 * height * width
        every = self._flat[self._start :].view(-1, height, width, 3).permute(0, 3, 1, 2)
        places = self._offset[rows] // num_bytes  # a picture whose size was never known takes no place
        if len(places) and (np.diff(places) == 1).all():
            return every[int(places[0]) : int(places[0]) + len(places)]
        return every[torch.from_numpy(places)]

    def _check(self, num_bytes: int) -> None:
        if num_bytes != self._num_bytes:
            raise DataError(f"{self._path} was changed after it was opened: it has {num_bytes:,} bytes instead of {self._num_bytes:,}")


class _Rows:
    """Reads the picture at a position of a part; a class, because worker processes may have to pickle it."""

    def __init__(self, pixels: _Pixels, rows: np.ndarray):
        self._pixels, self._rows = pixels, rows

    def __call__(self, position: int) -> Tensor:
        return self._pixels.picture(int(self._rows[position]))


def _one_size(packed: PackedFile) -> tuple[int, int] | None:
    """(height, width) that all pictures have; None if they differ."""
    tables = packed.layout.tables
    sizes = np.unique(np.stack([tables["height"], tables["width"]])[:, packed.filled == FILLED], axis=1)
    others = packed.layout.num_bytes_of[packed.filled == LEFT_OUT]
    if sizes.shape[1] != 1:
        return None
    height, width = map(int, sizes[:, 0])
    return (height, width) if np.isin(others, (0, 3 * height * width)).all() else None


def _memory() -> int:
    """Bytes that this process may take: its share of what is free here, or all of the smallest GPU if that is less; 0 where it is not known."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", _text("/proc/meminfo"))
    free = [int(found.group(1)) * 1024 if found else 0]
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():  # a container's own, whose meminfo is that of the machine
        free.append(int(limit) - int(used))
    share = max(0, min(free)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    return min([share, *gpus])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
