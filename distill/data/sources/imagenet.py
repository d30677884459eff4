"""ImageNet (ILSVRC 2012): 1,000 classes, 1.28 million training pictures, and 50,000 validation pictures, on which all published numbers are measured.

Source: Russakovsky et al., 2015, arXiv 1409.0575.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo
from torchvision.models import ResNet50_Weights

from distill.data.decoding import DecoderName, pick_decoder
from distill.data.sources._files import FileReader, class_folders, existing_folder, hash_files, loose_pictures, pictures_below
from distill.data.sources._parts import three_parts
from distill.data.sources.base import DataSource, Part
from distill.errors import DataError

_TRAIN_TAR, _VAL_TAR, _DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_KAGGLE = Path("ILSVRC") / "Data" / "CLS-LOC"


class ImageNet(DataSource):
    """Reads `root/train/n01440764/...` and `root/val/n01440764/...`. Labels count the folders by name, as all published weights do.

    `val/` is the test part; val, on which things are chosen, is a stratified `val_fraction` of `train/`. ImageNet's own test pictures have no labels.
    """

    def __init__(self, root: str | None = None, image_size: int | None = None, val_fraction: float = 0.1, *, decoder: DecoderName = "auto"):
        """Raises DataError if a class is missing, or the pictures lie as they come out of the original tar files."""
        self._root = existing_folder(root, "imagenet", "the folder with train/ and val/ in it")
        self.image_size = image_size or 224
        self.class_names = list(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])
        folders = ImageNetInfo("imagenet-1k").label_names()
        self._files: list[Path] = []
        labels = {part: self._labels(part, folders) for part in ("train", "val")}
        every = np.concatenate(list(labels.values()))
        chosen = pick_decoder(decoder)
        self.decoder = chosen.version
        whole = Part(every, np.arange(len(every)), read=FileReader(self._files, chosen))
        rows, self.note = three_parts(labels, val_fraction, self.class_names, is_folders=True)
        self.train, self.val, self.test = (whole.subset(rows[part]) for part in ("train", "val", "test"))

    def _labels(self, part: str, folders: list[str]) -> np.ndarray:
        """The labels of a part, whose pictures are added to the list of files."""
        _check(self._root, part, folders)
        files = [pictures_below(self._root / part / name) for name in folders]
        self._files.extend(path for found in files for path in found)
        return np.repeat(np.arange(len(folders)), [len(found) for found in files])

    def fingerprint(self) -> str:
        """Also covers every file's name and size, so that a changed folder is noticed without decoding it."""
        digest = hashlib.sha256(super().fingerprint().encode())
        hash_files(digest, self._files, self._root)
        return digest.hexdigest()


def _check(root: Path, part: str, folders: list[str]) -> None:
    """Raises DataError, with the way out, if `root/part` is not a folder for each class."""
    folder = root / part
    if not folder.is_dir():
        elsewhere = f"; is it data.root={root / _KAGGLE}?" if (root / _KAGGLE / part).is_dir() else f". {_unpacking(root, part)}"
        raise DataError(f"{root} has no {part}/ in it{elsewhere}")
    there = class_folders(folder)
    if not there and (loose_pictures(folder) or next(folder.glob("*.tar"), None)):
        inner = "the pictures" if part == "val" else "a tar file for each class"
        raise DataError(f"{folder} has {inner} side by side, as they come, and no folder for each class. Remove {folder}. {_unpacking(root, part)}")
    missing, extra = sorted(set(folders) - set(there)), sorted(set(there) - set(folders))
    if missing or extra:
        raise DataError(
            f"{folder} has {len(there):,} class folders that are not ImageNet's 1,000"
            + (f"; missing: {_some(missing)}" if missing else "")
            + (f"; not ImageNet's: {_some(extra)}" if extra else "")
            + "; for a part of ImageNet, or other classes, set data.source=imagefolder"
        )


def _unpacking(root: Path, part: str) -> str:
    archive = _VAL_TAR if part == "val" else _TRAIN_TAR
    command = f"python -c \"from torchvision.datasets import ImageNet; ImageNet('{root}', '{part}')\""
    return f"To make it, put {archive} and {_DEVKIT} (image-net.org, after signing in) into {root} and run: {command}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
