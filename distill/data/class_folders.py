"""What lies in a folder of class folders, whether or not one can train on it: for tools that go through all of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from distill.data.sources._files import class_folders, is_picture, loose_pictures
from distill.errors import DataError

PARTS = ("train", "val", "test")
NO_LABEL = -1  # of the pictures of a train/ that has no class folders


class Survey(NamedTuple):
    """All files of a folder. `parts` is by part, then by class ("" for a train/ without class folders), in the order of a source's rows."""

    parts: dict[str, dict[str, list[Path]]]
    passed_over: list[Path]  # files that no data source looks at

    @property
    def class_names(self) -> list[str]:
        """Those of the training pictures or, where these have none, of the part after them."""
        named = [sorted(filter(None, classes)) for classes in self.parts.values()]
        return next(filter(None, named), [])

    def rows(self) -> tuple[list[Path], np.ndarray, np.ndarray]:
        """(files, labels [N] int64, parts [N] uint8 as positions in PARTS), a row for each picture, as ImageFolder counts them."""
        label_of = {name: label for label, name in enumerate(self.class_names)} | {"": NO_LABEL}
        found = [
            (path, label_of[name], PARTS.index(part)) for part, classes in self.parts.items() for name, files in classes.items() for path in files
        ]
        files, labels, parts = zip(*found, strict=True) if found else ((), (), ())
        return list(files), np.array(labels, dtype=np.int64), np.array(parts, dtype=np.uint8)


def survey(root: Path) -> Survey:
    """Goes through the folder. Raises DataError if it is none, or some of it can't be listed."""
    if not root.is_dir():
        raise DataError(f"{root}: {'that is a file, not a folder' if root.exists() else 'there is no such folder'}")
    try:
        folders = {name: root / name for name in PARTS if (root / name).is_dir()} or {"train": root}
        parts = {name: _classes(folder) for name, folder in folders.items()}
        if set(folders) != {"train"} and not parts.get("train", {"": None}):
            parts["train"] = {"": loose_pictures(folders["train"])}
        taken = {path for classes in parts.values() for files in classes.values() for path in files}
        return Survey(parts, sorted(path for path in root.rglob("*") if path.is_file() and path not in taken))
    except OSError as error:
        raise DataError(f"can't list the folder {error.filename or root}: {error.strerror}") from error


def _classes(folder: Path) -> dict[str, list[Path]]:
    return {name: sorted(path for path in (folder / name).rglob("*") if is_picture(path)) for name in class_folders(folder)}
