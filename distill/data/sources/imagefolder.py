"""Pictures of your own: a folder per class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from distill.data.decoding import DecoderName, pick_decoder
from distill.data.sources._files import SUFFIXES, FileReader, class_folders, existing_folder, hash_files, loose_pictures, pictures_below
from distill.data.sources._parts import parts_without_train_labels, three_parts
from distill.data.sources.base import DataSource, Part
from distill.errors import DataError

__all__ = ["SUFFIXES", "ImageFolder"]


class ImageFolder(DataSource):
    """Reads `root/train/<class>/...`, with `val/` and `test/` beside `train/`, or `root/<class>/...`.

    train, val and test    used as they are
    train and test         a stratified `val_fraction` of train is set aside as val
    train and val          the same, and `val/` is the test part: on it nothing is chosen, as with ImageNet's
    classes only           `val_fraction` of all is set aside as test, and as much again as val

    `train/` may also hold pictures without class folders, where `val/` has them: training then has no labels, and where there is no `test/`,
    `val_fraction` of `val/` is val and the rest of it test.

    Files and folders whose name begins with a dot are passed over.
    """

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1, *, decoder: DecoderName = "auto"):
        """Raises DataError if the folder is missing or empty, a class has too few pictures, or the parts have different classes."""
        self.image_size = image_size or 224
        self._root = existing_folder(root, "imagefolder", "a folder with one folder per class in it")
        folders = {name: self._root / name for name in ("train", "val", "test") if (self._root / name).is_dir()}
        if folders and "train" not in folders:
            raise DataError(f"{self._root} has {' and '.join(folders)} but no train; the training pictures belong in {self._root / 'train'}")
        self._files: list[Path] = []
        unlabelled = [] if not folders or class_folders(folders["train"]) else loose_pictures(folders["train"])
        self.has_labels = not unlabelled
        if unlabelled and len(folders) == 1:
            raise DataError(
                f"{folders['train']} has no folders in it; put each class's pictures into a folder of its own, such as {folders['train'] / 'cat'}, "
                f"or, to train without labels, make {self._root / 'val'} with such folders: the student is judged on it"
            )
        labels = self._labels(folders or {"train": self._root}, unlabelled)
        split = three_parts if self.has_labels else parts_without_train_labels
        rows, self.note = split(labels, val_fraction, self.class_names, is_folders=True)
        self._set_parts(rows, np.concatenate(list(labels.values())), decoder)

    def _labels(self, folders: dict[str, Path], unlabelled: list[Path]) -> dict[str, np.ndarray]:
        """The labels of each folder, whose pictures are added to the list of files."""
        labels = {}
        if unlabelled:
            self._files.extend(unlabelled)
            labels["train"] = np.full(len(unlabelled), -1, dtype=np.int64)
        reference = next(folder for name, folder in folders.items() if name not in labels)
        self.class_names = _class_names(reference)
        for name, folder in folders.items():
            if name not in labels:
                labels[name] = self._list(folder, reference)
        return labels

    def _list(self, folder: Path, reference: Path) -> np.ndarray:
        """Adds the folder's pictures to the list of files, in a fixed order, and returns their labels."""
        there = _class_names(folder)
        if there != self.class_names:
            missing, extra = sorted(set(self.class_names) - set(there)), sorted(set(there) - set(self.class_names))
            raise DataError(
                f"{folder} has other classes than {'the training part' if self.has_labels else reference}"
                + (f"; missing there: {', '.join(missing)}" if missing else "")
                + (f"; only there: {', '.join(extra)}" if extra else "")
            )
        labels = []
        for label, name in enumerate(self.class_names):
            files = pictures_below(folder / name)
            self._files.extend(files)
            labels.extend([label] * len(files))
        return np.array(labels, dtype=np.int64)

    def _set_parts(self, rows: dict[str, np.ndarray], labels: np.ndarray, decoder: DecoderName) -> None:
        """labels: of all files. A sample id is a row of the list of all files."""
        decode = pick_decoder(decoder)
        self.decoder = decode.version
        self.train, self.val, self.test = (
            Part(labels[rows[name]], rows[name], read=FileReader([self._files[row] for row in rows[name]], decode))
            for name in ("train", "val", "test")
        )

    def fingerprint(self) -> str:
        """Also covers every file's name and size, so that a changed folder is noticed without decoding it."""
        digest = hashlib.sha256(super().fingerprint().encode())
        hash_files(digest, self._files, self._root)
        return digest.hexdigest()


def _class_names(folder: Path) -> list[str]:
    names = class_folders(folder)
    if not names:
        raise DataError(f"{folder} has no folders in it; put each class's pictures into a folder of its own, such as {folder / 'cat'}")
    return names
