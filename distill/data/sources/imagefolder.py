"""Pictures of your own: a folder per class, with or without train/, val/ and test/ above them."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distill.data.sources.base import DataSource, Part, stratified_cut
from distill.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# Whatever a file is called, Pillow looks into it for any format that it knows, and runs Ghostscript for one of them.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# Pillow only warns of a picture of more than 89 million pixels; twice as many it refuses by itself.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageFolder(DataSource):
    """Reads `root/train/<class>/...`, with `val/` and `test/` beside `train/`, or `root/<class>/...`.

    train, val and test    used as they are
    train and test         a stratified `val_fraction` of train is set aside as val
    train and val          the same, and `val/` is the test part: on it nothing is chosen, as with ImageNet's
    classes only           `val_fraction` of all is set aside as test, and as much again as val

    Files and folders whose name begins with a dot are passed over.
    """

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1):
        """Raises DataError if the folder is missing or empty, a class has too few pictures, or the parts have different classes."""
        self.image_size = image_size or 224
        self._root = _existing_folder(root)
        found = {name: self._root / name for name in ("train", "val", "test") if (self._root / name).is_dir()}
        if found and "train" not in found:
            raise DataError(f"{self._root} has {' and '.join(found)} but no train; the training pictures belong in {self._root / 'train'}")
        folders = found or {"train": self._root}
        self.class_names = _class_names(folders["train"])
        self._files, labels = [], {}
        for name, folder in folders.items():
            labels[name] = self._list(folder)
        self._set_parts(labels, val_fraction)

    def _set_parts(self, labels: dict[str, np.ndarray], val_fraction: float) -> None:
        """Turns the labels of the folders that are there into three parts. A sample id is a row of the list of all files."""
        starts = dict(zip(labels, np.cumsum([0, *(len(part) for part in labels.values())]), strict=False))
        rows = {name: starts[name] + np.arange(len(part)) for name, part in labels.items()}
        every = np.concatenate(list(labels.values()))
        if "test" not in rows and "val" in rows:
            rows["test"] = rows.pop("val")
            self.note = f"test is the folder val/; val is {val_fraction:.0%} of train/, set aside"
        elif "test" not in rows:
            if val_fraction >= 0.5:
                raise DataError(
                    f"data.val_fraction={val_fraction} is set aside twice, as val and as test, and leaves nothing to train on; take less than 0.5"
                )
            kept, cut = stratified_cut(every[rows["train"]], val_fraction, self.class_names)
            rows["train"], rows["test"] = rows["train"][kept], rows["train"][cut]
            self.note = f"val and test are {val_fraction:.0%} of the pictures each, set aside"
            val_fraction /= 1 - val_fraction  # of what is left: as many pictures as were cut for test
        if "val" not in rows:
            kept, cut = stratified_cut(every[rows["train"]], val_fraction, self.class_names)
            rows["train"], rows["val"] = rows["train"][kept], rows["train"][cut]
            self.note = self.note or f"val is {val_fraction:.0%} of train/, set aside"
        self.train, self.val, self.test = (
            Part(every[rows[name]], rows[name], read=_Reader([self._files[row] for row in rows[name]])) for name in ("train", "val", "test")
        )

    def _list(self, folder: Path) -> np.ndarray:
        """Adds the folder's pictures to the list of files, in a fixed order, and returns their labels."""
        there = _class_names(folder)
        if there != self.class_names:
            missing, extra = sorted(set(self.class_names) - set(there)), sorted(set(there) - set(self.class_names))
            raise DataError(
                f"{folder} has other classes than the training part"
                + (f"; missing there: {', '.join(missing)}" if missing else "")
                + (f"; only there: {', '.join(extra)}" if extra else "")
            )
        labels = []
        for label, name in enumerate(self.class_names):
            files = sorted(path for path in (folder / name).rglob("*") if _is_picture(path))
            if not files:
                raise DataError(f"{folder / name} has no pictures (looked for {', '.join(sorted(SUFFIXES))}); add some or remove the folder")
            self._files.extend(files)
            labels.extend([label] * len(files))
        return np.array(labels, dtype=np.int64)

    def fingerprint(self) -> str:
        """Also covers every file's name and size, so that a changed folder is noticed without decoding it."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for path in self._files:
            digest.update(f"{path.relative_to(self._root).as_posix()}\0{path.stat().st_size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


class _Reader:
    """Decodes the picture at a position; a class, because worker processes may have to pickle it."""

    def __init__(self, files: list[Path]):
        self._files = files

    def __call__(self, position: int) -> Tensor:
        path = self._files[position]
        try:
            with Image.open(path, formats=_FORMATS) as picture:
                pixels = np.array(_to_rgb(picture))
        except UnidentifiedImageError as error:
            raise DataError(f"can't read the picture {path}: it is none of {', '.join(_FORMATS)}, or damaged; replace or remove the file") from error
        except Exception as error:  # each of Pillow's decoders has its own errors for damaged files, and not only those it documents
            raise DataError(f"can't read the picture {path}: {error or type(error).__name__}; replace or remove the file") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def _is_picture(path: Path) -> bool:
    """macOS leaves "._cat.jpg", which is no picture, beside each "cat.jpg" on disks of other systems."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in three channels of 8 bits, transparency dropped. Raises ValueError if its values have no fixed range."""
    if picture.mode.startswith("I;16"):  # Pillow would turn every value above 255 into white
        return Image.fromarray((np.array(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"it has 32-bit values (mode {picture.mode}), of which none is known to be white; save it with 8 bits")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns on the direct way, for every picture
    return picture.convert("RGB")


def _existing_folder(root: str | None) -> Path:
    if root is None:
        raise DataError("data.source=imagefolder needs data.root=FOLDER, a folder with one folder per class in it")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root={root}: {'that is a file, not a folder' if folder.exists() else 'there is no such folder'}")
    return folder


def _class_names(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{folder} has no folders in it; put each class's pictures into a folder of its own, such as {folder / 'cat'}")
    return names
