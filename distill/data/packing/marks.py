"""Which rows of a packed file are whole: marked so only when their pixels are safely on the disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from distill.data.packing.file import FILLED, LEFT_OUT, Layout, read_packed_file
from distill.data.packing.rows import write_all

_SECONDS_BETWEEN_MARKS = 5.0  # what was packed since the last mark is packed again after a kill


class Marks:
    """Of a file that is being filled; a context, at whose end all is on the disk."""

    def __init__(self, layout: Layout, path: Path):
        self._layout, self._path = layout, path
        self._unwritten: list[int] = []
        self._last = time.monotonic()

    def __enter__(self) -> Marks:
        found = read_packed_file(self._path)
        self.crc32, self.filled = found.crc32.copy(), found.filled.copy()
        self._number = os.open(self._path, os.O_RDWR)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._write()
            os.fsync(self._number)
        finally:
            os.close(self._number)

    def add(self, sums: dict[int, int]) -> None:
        """sums: row: the CRC-32 of its pixels."""
        for row, value in sums.items():
            self.crc32[row] = value
        self._unwritten += sums
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_MARKS:
            self._write()
            self._last = time.monotonic()

    def leave_out(self, rows: list[int]) -> None:
        """Their places are cleared: what a process that was killed has left there would make the file another one."""
        for row in rows:
            place = self._layout.place("pixels") + int(self._layout.tables["offset"][row])
            write_all(self._number, np.zeros(self._layout.num_bytes_of[row], dtype=np.uint8), place)
        self._write()
        self.filled[rows] = LEFT_OUT
        write_all(self._number, self.filled, self._layout.place("filled"))

    def _write(self) -> None:
        if not self._unwritten:
            return
        write_all(self._number, self.crc32, self._layout.place("crc32"))
        os.fsync(self._number)
        self.filled[self._unwritten] = FILLED
        write_all(self._number, self.filled, self._layout.place("filled"))
        self._unwritten = []
