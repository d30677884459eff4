"""Are the pixels in a packed file those that were packed? Reads all of them and compares each picture's sum."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from distill.data.class_folders import PARTS
from distill.data.packed_file import FILLED, PackedFile, read_packed_file
from distill.errors import DataError


def damaged_pictures(packed: PackedFile, progress: Callable[[int], None] = lambda num: None) -> list[str]:
    """One line for each picture whose pixels are not as they were packed: its row, part and class. progress: told how many more were compared."""
    tables, lines = packed.layout.tables, []
    try:
        with packed.path.open("rb") as file:
            file.seek(packed.layout.place("pixels"))
            for row, num_bytes in enumerate(packed.layout.num_bytes_of.tolist()):
                content = file.read(num_bytes)
                if packed.filled[row] == FILLED and (len(content), zlib.crc32(content)) != (num_bytes, int(packed.crc32[row])):
                    label = int(tables["label"][row])
                    lines.append(f"row {row} ({PARTS[tables['part'][row]]}, {packed.layout.class_names[label] if label >= 0 else 'no class'})")
                progress(1)
    except OSError as error:
        raise DataError(f"can't read {packed.path}: {error.strerror}") from error
    return lines


def check_packed(path: Path, progress_of: Callable[[int], Callable[[int], None]]) -> tuple[PackedFile, list[str]]:
    """(the file, its damaged pictures). progress_of: makes the progress for so many pictures. Raises DataError if it is no packed file or not whole."""
    packed = read_packed_file(path)
    if missing := int((packed.filled == 0).sum()):
        raise DataError(f"{path} is not whole: {missing:,} pictures are still to be packed; distill data prepare goes on")
    return packed, damaged_pictures(packed, progress_of(len(packed.layout)))
