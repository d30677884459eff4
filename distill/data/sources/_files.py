"""Picture files in folders: which they are, in an order that is always the same, and how each is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distill.data.decoding import Decoder
from distill.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class FileReader:
    """Decodes the picture at a position; a class, because worker processes may have to pickle it."""

    def __init__(self, files: Sequence[Path], decoder: Decoder):
        self._files, self._decoder = files, decoder

    def __call__(self, position: int) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the file if it can't be read."""
        path = self._files[position]
        return self._decoder(path, str(path))


def existing_folder(root: str | None, source: str, what: str = "the folder that holds the data") -> Path:
    """The folder that `data.root` names; what: what should be in it. Raises DataError if it is not given, or not there."""
    if root is None:
        raise DataError(f"data.source={source} needs data.root=FOLDER, {what}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root={root}: {'that is a file, not a folder' if folder.exists() else 'there is no such folder'}")
    return folder


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in it, sorted; hidden ones are none."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def loose_pictures(folder: Path) -> list[Path]:
    """Pictures directly in the folder, sorted."""
    return sorted(path for path in folder.iterdir() if is_picture(path))


def pictures_below(folder: Path) -> list[Path]:
    """Pictures in the folder and in those below it, sorted. Raises DataError if there are none."""
    files = sorted(path for path in folder.rglob("*") if is_picture(path))
    if not files:
        raise DataError(f"{folder} has no pictures (looked for {', '.join(sorted(SUFFIXES))}); add some or remove the folder")
    return files


def is_picture(path: Path) -> bool:
    """macOS leaves "._cat.jpg", which is no picture, beside each "cat.jpg" on disks of other systems."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def hash_files(digest: hashlib._Hash, files: Sequence[Path], root: Path) -> None:
    """Adds every file's name below root and its size: a changed folder is noticed without decoding it."""
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode(errors="surrogateescape"))
