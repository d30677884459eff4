"""torchvision's data sets for classification, by name; downloaded if they are not there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor

from distill.data.decoding import DecoderName, pick_decoder
from distill.data.sources._downloads import opened
from distill.data.sources._files import FileReader, hash_files
from distill.data.sources._labels import check_labels
from distill.data.sources._parts import three_parts
from distill.data.sources.base import DataSource, Part, to_rgb
from distill.errors import DataError, RecipeError
from distill.suggestion import did_you_mean


class _Set(NamedTuple):
    """parts: part -> what the class is called with for it. options: what else may be said -> the values that it may have, the usual one first."""

    parts: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Sequence[str | int]] = {}


def _splits(*names: str) -> dict[str, dict[str, Any]]:
    part_of = {"trainval": "train", "valid": "val"}
    return {part_of.get(name, name): {"split": name} for name in names}


_BOTH = {"train": {"train": True}, "test": {"train": False}}
_ONE: dict[str, dict[str, bool]] = {"train": {}}
# Sets that are not here have no single label for each picture, or keep pictures where only programs of their own can read them.
_SETS = {
    "CIFAR10": _Set(_BOTH),
    "CIFAR100": _Set(_BOTH),
    "Country211": _Set(_splits("train", "valid", "test")),
    "DTD": _Set(_splits("train", "val", "test"), {"partition": range(1, 11)}),
    "EMNIST": _Set(_BOTH, {"split": ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")}),
    "EuroSAT": _Set(_ONE),
    "FGVCAircraft": _Set(_splits("train", "val", "test"), {"annotation_level": ("variant", "family", "manufacturer")}),
    "FashionMNIST": _Set(_BOTH),
    "Flowers102": _Set(_splits("train", "val", "test")),
    "Food101": _Set(_splits("train", "test")),
    "GTSRB": _Set(_splits("train", "test")),
    "Imagenette": _Set(_splits("train", "val"), {"size": ("full", "320px", "160px")}),
    "KMNIST": _Set(_BOTH),
    "MNIST": _Set(_BOTH),
    "OxfordIIITPet": _Set(_splits("trainval", "test")),
    "RenderedSST2": _Set(_splits("train", "val", "test")),
    "SEMEION": _Set(_ONE),
    "STL10": _Set(_splits("train", "test")),
    "SUN397": _Set(_ONE),
    "SVHN": _Set(_splits("train", "test")),
    "StanfordCars": _Set(_splits("train", "test")),
    "USPS": _Set(_BOTH),
}
_WITHOUT_SUM = {"FGVCAircraft"}  # torchvision would unpack whatever the server sends
# Mean and standard deviation of the training pictures, the numbers in general use.
_STATISTICS = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "FashionMNIST": ((0.2860,) * 3, (0.3530,) * 3),
    "MNIST": ((0.1307,) * 3, (0.3081,) * 3),
}


class Torchvision(DataSource):
    """Reads `data.arguments.name=NAME`, a class of torchvision.datasets, as that class lays it out in `root`.

    The set's own train, val and test are used; what it lacks is cut off as everywhere else. Pictures that the class holds in memory come as pixels.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        *,
        name: str,
        options: dict[str, str | int] | None = None,
        download: bool = False,
        decoder: DecoderName = "auto",
    ):
        """root: by default a folder in the cache, to which the set is downloaded. options: further arguments of the class, such as EMNIST's `split`.
        download: into `root` as well. Raises RecipeError for a name or option that there is not, DataError if the set can't be had or is damaged.
        """
        chosen = _checked(name, options or {})
        datasets, self._root = opened(
            name, lambda folder, fetch: _opened(name, chosen, folder, fetch), root, download=download, source=f"torchvision with name={name}"
        )
        labels = {part: _labels(dataset) for part, dataset in datasets.items()}
        every = np.concatenate(list(labels.values()))
        self.class_names = _class_names(datasets["train"], every)
        check_labels(every, len(self.class_names), f"{name} in {self._root}")
        self.mean, self.std = _STATISTICS.get(name, (self.mean, self.std))
        self._files: list[Path] = []
        whole = self._whole(datasets, every, decoder)
        self.image_size = image_size or (224 if whole.pixels is None else max(whole.pixels.shape[-2:]))
        rows, self.note = three_parts(labels, val_fraction, self.class_names)
        self.train, self.val, self.test = (whole.subset(rows[part]) for part in ("train", "val", "test"))

    def _whole(self, datasets: Mapping[str, Any], labels: np.ndarray, decoder: DecoderName) -> Part:
        """All pictures. Raises DataError if a file is missing."""
        ids = np.arange(len(labels))
        if all(hasattr(dataset, "data") for dataset in datasets.values()):
            return Part(labels, ids, pixels=torch.cat([_pixels(dataset.data) for dataset in datasets.values()]))
        self._files = [path for dataset in datasets.values() for path, _ in _files(dataset)]
        if missing := [path for path in self._files if not path.is_file()]:
            raise DataError(f"{len(missing):,} of {len(self._files):,} pictures are missing, the first is {missing[0]}; fetch or unpack the set anew")
        chosen = pick_decoder(decoder)
        self.decoder = chosen.version
        return Part(labels, ids, read=FileReader(self._files, chosen))

    def fingerprint(self) -> str:
        """Also covers the names and sizes of pictures that are files."""
        digest = hashlib.sha256(super().fingerprint().encode())
        hash_files(digest, self._files, self._root)
        return digest.hexdigest()


def _checked(name: str, options: Mapping[str, str | int]) -> dict[str, str | int]:
    """The class's options, those that are not given with their usual values."""
    if name not in _SETS:
        hint = did_you_mean(name, _SETS)
        raise RecipeError(f"data.arguments.name={name} is none of the sets that data.source=torchvision reads{hint}; it reads {', '.join(_SETS)}")
    known = _SETS[name].options
    for option, value in options.items():
        if option not in known:
            raise RecipeError(f"data.arguments.options.{option}: {name} has no such option; it has: {', '.join(known) or 'none'}")
        if value not in known[option]:
            raise RecipeError(f"data.arguments.options.{option}={value} is none of {name}'s: {', '.join(map(str, known[option]))}")
    return {option: options.get(option, values[0]) for option, values in known.items()}


def _opened(name: str, options: Mapping[str, str | int], folder: Path, download: bool) -> dict[str, Any]:
    """Part -> the class's object. Raises what the class raises."""
    make = getattr(torchvision.datasets, name)
    if download and name in _WITHOUT_SUM:
        raise ValueError(f"torchvision knows no checksum of it; fetch {make._URL} yourself, unpack it, and set data.root to the folder above it")
    return {part: make(str(folder), **arguments, **options, download=download) for part, arguments in _SETS[name].parts.items()}


def _files(dataset: Any) -> list[tuple[Path, int]]:
    """(file, label) of each picture, by name: SUN397 has them in the order in which the disk lists them."""
    if pairs := next((getattr(dataset, name) for name in ("samples", "_samples") if hasattr(dataset, name)), None):
        return sorted((Path(path), int(label)) for path, label in pairs)
    files = next(getattr(dataset, name) for name in ("_image_files", "_images") if hasattr(dataset, name))
    return sorted((Path(path), int(label)) for path, label in zip(files, dataset._labels, strict=True))


def _labels(dataset: Any) -> np.ndarray:
    """[N] int64, in the order of the pictures."""
    if not hasattr(dataset, "data"):
        return np.array([label for _, label in _files(dataset)], dtype=np.int64)
    return np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels, dtype=np.int64)


def _class_names(dataset: Any, labels: np.ndarray) -> list[str]:
    names = getattr(dataset, "classes", None) or range(int(labels.max(initial=-1)) + 1)
    return [name if isinstance(name, str) else ", ".join(name) if isinstance(name, tuple) else str(name) for name in names]


def _pixels(data: Any) -> Tensor:
    """[N, 3, H, W] uint8, of grey pictures [N, H, W], or of coloured ones with the channels first or last."""
    array = np.asarray(data)
    if array.ndim == 3:
        return to_rgb(array)
    return torch.from_numpy(np.ascontiguousarray(array if array.shape[1] == 3 else array.transpose(0, 3, 1, 2)))
