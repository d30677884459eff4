"""Are the pixels in a packed file those that were packed? Reads all of them and compares each picture's sum."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from distill.data.class_folders import PARTS
from distill.data.packing.file import FILLED, PackedFile
from distill.errors import DataError


def damaged_rows(packed: PackedFile, progress: Callable[[int], None] = lambda num: None) -> list[int]:
    """Rows that are marked as whole, and whose pixels are not as they were packed. progress: told how many more rows are done."""
    places, rows = packed.layout.place("pixels") + packed.layout.tables["offset"], []
    try:
        with packed.path.open("rb") as file:
            for row, num_bytes in enumerate(packed.layout.num_bytes_of.tolist()):
                if packed.filled[row] == FILLED:
                    file.seek(int(places[row]))
                    content = file.read(num_bytes)
                    if (len(content), zlib.crc32(content)) != (num_bytes, int(packed.crc32[row])):
                        rows.append(row)
                progress(1)
    except OSError as error:
        raise DataError(f"can't read {packed.path}: {error.strerror}") from error
    return rows


def damaged_pictures(packed: PackedFile, progress: Callable[[int], None] = lambda num: None) -> list[str]:
    """One line for each picture whose pixels are not as they were packed: its row, part and class. progress: told how many more rows are done."""
    labels, parts, names = packed.layout.tables["label"], packed.layout.tables["part"], packed.layout.class_names
    return [f"row {row} ({PARTS[parts[row]]}, {names[labels[row]] if labels[row] >= 0 else 'no class'})" for row in damaged_rows(packed, progress)]
