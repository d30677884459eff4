"""Data sets of the Hugging Face hub, or on disk in their formats (parquet, arrow, folders); needs `pip install datasets`.

It is read through `datasets` itself: timm's reader opens one split at a time, goes through all rows in Python for the labels, and knows neither
folders on disk nor configurations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from distill.data.decoding import Decoder, DecoderName, pick_decoder
from distill.data.sources._files import existing_folder
from distill.data.sources._labels import check_labels
from distill.data.sources._parts import three_parts
from distill.data.sources.base import DataSource, Part
from distill.errors import DataError, RecipeError
from distill.places import cache_folder
from distill.suggestion import did_you_mean

_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
_SAVED = ("dataset_dict.json", "dataset_info.json")  # what `save_to_disk` leaves in a folder
_OLDEST = 4  # earlier versions ran a program that came with the data set


class HuggingFace(DataSource):
    """Reads `data.arguments.name=ORG/NAME` from the hub, or from where `datasets` keeps what it has fetched before; or the folder `data.root`.

    The splits are train, validation and test; a set without validation or test has them cut as everywhere else. A test split without labels (-1
    each, as the hub's ImageNet has it) is left out.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        *,
        name: str | None = None,
        config: str | None = None,
        image: str = "image",
        label: str = "label",
        decoder: DecoderName = "auto",
    ):
        """config: which of the set's configurations. image, label: names of the columns. Raises DataError if the set can't be had or used."""
        if (root is None) == (name is None):
            raise RecipeError("data.source=huggingface needs data.arguments.name=ORG/NAME, or data.root=FOLDER for one that is on this disk")
        self.image_size, self._image = image_size or 224, image
        where = name or str(root)
        splits = _opened(existing_folder(root, "huggingface") if name is None else name, config)
        columns = {part: _columns(splits[split], image, label, where) for part, split in _found(splits, where).items()}
        self.class_names, labels = _labels(columns, label, where)
        unlabelled = "test" in labels and len(labels["test"]) > 0 and bool((labels["test"] == -1).all())
        if unlabelled:
            del labels["test"], columns["test"]
        for part, values in labels.items():
            check_labels(values, len(self.class_names), f"{where}, {part}")
        self._pictures = {part: dataset.select_columns([image]) for part, dataset in columns.items()}
        chosen = pick_decoder(decoder)
        self.decoder = chosen.version
        whole = Part(np.concatenate(list(labels.values())), np.arange(sum(map(len, labels.values()))), read=_Reader(self._pictures, where, chosen))
        rows, cut = three_parts(labels, val_fraction, self.class_names)
        self.note = "; ".join(filter(None, [cut, "the set's own test has no labels and is left out" if unlabelled else ""]))
        self.train, self.val, self.test = (whole.subset(rows[part]) for part in ("train", "val", "test"))

    def fingerprint(self) -> str:
        """Also covers every picture's size in bytes or, where it is a file of its own, its name and size, without decoding any."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for dataset in self._pictures.values():
            for table in dataset.with_format("arrow").iter(10_000):
                for size, path in _sizes(table.column(self._image)):
                    digest.update(f"{Path(path).name if path else ''}\0{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


class _Reader:
    """Decodes the picture at a position; a class, because worker processes may have to pickle it, which `datasets` does by file name."""

    def __init__(self, pictures: Mapping[str, Any], where: str, decoder: Decoder):
        self._parts, self._pictures, self._where, self._decoder = list(pictures), list(pictures.values()), where, decoder
        self._firsts = np.cumsum([0, *map(len, self._pictures)])

    def __call__(self, position: int) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the picture if it can't be read."""
        number = int(np.searchsorted(self._firsts, position, side="right")) - 1
        row = int(position - self._firsts[number])
        name = f"number {row} of {self._parts[number]} in {self._where}"
        try:
            (value,) = self._pictures[number][row].values()
        except Exception as error:  # whatever pyarrow raises for damaged files
            raise DataError(f"can't read the picture {name}: {error or type(error).__name__}; fetch or make the data set anew") from error
        content, path = (value or {}).get("bytes"), (value or {}).get("path")
        if content is not None:
            return self._decoder(content, name)
        if not path or not Path(path).is_file():
            raise DataError(
                f"can't read the picture {name}: {f'there is no file {path}' if path else 'there is nothing in it'}; replace or remove it"
            )
        return self._decoder(Path(path), path)


def _opened(place: str | Path, config: str | None) -> Mapping[str, Any]:
    """Split -> data set. Raises RecipeError if `datasets` is missing, DataError if the set can't be had."""
    datasets = _library()
    try:
        if isinstance(place, Path) and any((place / name).is_file() for name in _SAVED):
            found = datasets.load_from_disk(str(place))
        elif isinstance(place, Path):
            _refuse_addresses(place)
            found = datasets.load_dataset(str(place), config, cache_dir=str(cache_folder("data") / "huggingface"))
        else:
            found = datasets.load_dataset(place, config)
    except DataError:
        raise
    except Exception as error:  # OSError, ValueError, and those of datasets, pyarrow, fsspec and the hub's client
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error  # that one says nothing itself
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        cure = "" if isinstance(place, Path) else " (without a network: data.root=FOLDER reads a copy, such as its parquet files, from this disk)"
        raise DataError(f"the data set {place} can't be had: {reason}{cure}") from error
    return found if isinstance(found, Mapping) else {"train": found}


def _refuse_addresses(folder: Path) -> None:
    """A folder's README may name files elsewhere as its data, which `datasets` would fetch. Raises DataError, or what reading the README raises."""
    from huggingface_hub import DatasetCard  # comes with datasets

    for path in (folder / "README.md", folder / ".huggingface.yaml"):
        if path.is_file():
            about = DatasetCard.load(path).data.to_dict() if path.suffix == ".md" else yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            if "://" in str(about.get("configs")):
                raise DataError(
                    f"{path} names files on the network as data; fetch them into {folder} and name them there, or use data.arguments.name"
                )


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise RecipeError(f"data.source=huggingface needs the package datasets: pip install 'datasets>={_OLDEST}' ({error})") from error
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        raise RecipeError(f"data.source=huggingface needs datasets>={_OLDEST}, this is {datasets.__version__}: pip install -U datasets")
    return datasets


def _found(splits: Mapping[str, Any], where: str) -> dict[str, str]:
    """Part -> the split that it is."""
    found = {part: next((name for name in names if name in splits), None) for part, names in _SPLITS.items()}
    if found["train"] is None:
        raise DataError(f"{where} has no split train; it has: {', '.join(splits)}")
    return {part: name for part, name in found.items() if name is not None}


def _columns(dataset: Any, image: str, label: str, where: str) -> Any:
    """The two columns, the pictures not decoded."""
    datasets = _library()
    for what, name in (("image", image), ("label", label)):
        if name not in dataset.column_names:
            there = ", ".join(f"{column} ({_kind(feature)})" for column, feature in dataset.features.items())
            hint = did_you_mean(name, dataset.column_names)
            raise DataError(f"{where} has no column {name!r}{hint}; set data.arguments.{what} to one of: {there}")
    try:
        return dataset.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    except Exception as error:  # pyarrow's, for columns of another kind
        raise DataError(f"{where}: the column {image!r} holds no pictures, but {_kind(dataset.features[image])}; set data.arguments.image") from error


def _kind(feature: Any) -> str:
    """What a column holds: "int64", "Image", "ClassLabel"."""
    return feature.dtype if type(feature).__name__ == "Value" else type(feature).__name__


def _labels(columns: Mapping[str, Any], label: str, where: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """(class names, part -> labels [N] int64): of a column of classes, of whole numbers, or of names."""
    values = {part: dataset.select_columns([label]).with_format("arrow")[:].column(label) for part, dataset in columns.items()}
    for part, column in values.items():
        if column.null_count:
            raise DataError(f"{where}, {part}: {column.null_count} pictures have no label in the column {label!r}")
    feature = columns["train"].features[label]
    kind = str(values["train"].type)
    if kind in ("string", "large_string"):
        names = sorted(set(values["train"].to_pylist()))
        numbers = {name: number for number, name in enumerate(names)}
        return names, {part: np.array([numbers.get(name, -1) for name in column.to_pylist()], dtype=np.int64) for part, column in values.items()}
    if not kind.startswith(("int", "uint")):
        raise DataError(f"{where}: the column {label!r} holds no labels, but {_kind(feature)}; set data.arguments.label to that of the classes")
    labels = {part: column.to_numpy().astype(np.int64) for part, column in values.items()}
    names = getattr(feature, "names", None)
    return list(names or map(str, range(int(labels["train"].max(initial=-1)) + 1))), labels


def _sizes(pictures: Any) -> Iterator[tuple[int, str | None]]:
    """(bytes, file) of each picture in an arrow column; the bytes are those of the file, -1 where there is none, for a picture that is only named."""
    import pyarrow.compute

    lengths, paths = (pyarrow.compute.struct_field(pictures, name) for name in ("bytes", "path"))
    for length, path in zip(pyarrow.compute.binary_length(lengths).to_pylist(), paths.to_pylist(), strict=True):
        yield (length if length is not None else Path(path).stat().st_size if path and Path(path).is_file() else -1), path
