"""WebDataset shards: pictures and their labels in uncompressed tar files, a few thousand in each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from distill.data.decoding import Decoder, DecoderName, pick_decoder
from distill.data.sources._files import existing_folder
from distill.data.sources._labels import check_labels
from distill.data.sources._parts import three_parts
from distill.data.sources._shards import Index, index_of
from distill.data.sources.base import DataSource, Part
from distill.errors import DataError

_NAMES_FILE = "classes.txt"
_PART = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|test)(?:ing)?(?=[^a-z]|$)")
_MOST_CLASSES = 1_000_000


class WebDataset(DataSource):
    """Reads `root/*.tar`, in which `KEY.jpg` (or .png and others) stands beside `KEY.cls`, a number, or `KEY.json` with a "label".

    A shard belongs to the part that its name (`train-000000.tar`, `imagenet-validation-00.tar`) or its folder (`val/000000.tar`) says; where none
    says anything, all are the training part. `classes.txt` beside them, a name a line, gives the classes' names. Shards are read through once for
    where each picture is; from then on any is read by itself, because which picture is shown when is the sampler's business.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int | None = None,
        val_fraction: float = 0.1,
        *,
        num_classes: int | None = None,
        decoder: DecoderName = "auto",
    ):
        """num_classes: by default the names in classes.txt, or else as many as the labels say. Raises DataError if a shard can't be used."""
        self.image_size = image_size or 224
        self._root = existing_folder(root, "webdataset")
        shards = _shards(self._root)
        self._paths = [path for paths in shards.values() for path in paths]
        self._indices = {path: index_of(path) for path in self._paths}
        labels = {name: np.concatenate([self._indices[path].labels for path in paths]) for name, paths in shards.items()}
        self.class_names = list(_class_names(self._root, labels, num_classes))
        for path in self._paths:
            check_labels(self._indices[path].labels, len(self.class_names), f"the shard {path}")
        chosen = pick_decoder(decoder)
        self.decoder = chosen.version
        whole = Part(np.concatenate(list(labels.values())), np.arange(sum(map(len, labels.values()))), read=_Reader(self._indices, chosen))
        rows, self.note = three_parts(labels, val_fraction, self.class_names)
        self.train, self.val, self.test = (whole.subset(rows[name]) for name in ("train", "val", "test"))

    def fingerprint(self) -> str:
        """Also covers the shards' names and where in them each picture is, and so how large it is, without decoding any."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for path in self._paths:
            index = self._indices[path]
            digest.update(path.relative_to(self._root).as_posix().encode(errors="surrogateescape") + index.offsets.tobytes() + index.sizes.tobytes())
        return digest.hexdigest()


class _Reader:
    """Reads and decodes the picture at a position; a class, because worker processes may have to pickle it.

    A shard is open only while a picture is read: there may be thousands, and what is open can be neither pickled nor shared after a fork.
    """

    def __init__(self, indices: dict[Path, Index], decoder: Decoder):
        self._paths, self._decoder = list(indices), decoder
        self._firsts = np.cumsum([0, *(len(index.sizes) for index in indices.values())])
        self._offsets, self._sizes = (np.concatenate([getattr(index, name) for index in indices.values()]) for name in ("offsets", "sizes"))

    def __call__(self, position: int) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the shard and the picture's place in it."""
        shard = int(np.searchsorted(self._firsts, position, side="right")) - 1
        path, size = self._paths[shard], int(self._sizes[position])
        name = f"number {position - self._firsts[shard]} in {path}"
        try:
            with path.open("rb") as file:
                file.seek(int(self._offsets[position]))
                content = file.read(size)
        except OSError as error:
            raise DataError(f"can't read the picture {name}: {error.strerror}") from error
        if len(content) != size:
            raise DataError(f"can't read the picture {name}: the shard has become shorter while it was in use")
        return self._decoder(content, name)


def _shards(root: Path) -> dict[str, list[Path]]:
    """Part -> its shards, in the order of their names."""
    paths = sorted(path for path in root.rglob("*.tar") if path.is_file() and not path.name.startswith("."))
    if not paths:
        packed = next((path for pattern in ("*.tar.*", "*.tgz") for path in sorted(root.rglob(pattern))), None)
        hint = f"; {packed.name} is compressed: unpack the shards (gunzip), so that single pictures can be read" if packed else ""
        raise DataError(f"{root} has no shards in it (looked for *.tar){hint}")
    said = {path: _part_of(path.relative_to(root)) for path in paths}
    if not any(said.values()):
        return {"train": paths}
    if silent := [path.name for path in paths if said[path] is None]:
        raise DataError(
            f"{root}: does {silent[0]} belong to train, val or test? {len(paths) - len(silent)} other shards say it in their names; rename or move it"
        )
    parts = {name: [path for path in paths if said[path] == name] for name in ("train", "val", "test")}
    if not parts["train"]:
        raise DataError(f"{root} has shards of {' and '.join(name for name in parts if parts[name])} but none of train (such as train-000000.tar)")
    return {name: found for name, found in parts.items() if found}


def _part_of(path: Path) -> str | None:
    """What the name says, or else the folders from the innermost on."""
    for text in (path.name.lower(), *(folder.lower() for folder in reversed(path.parts[:-1]))):
        if found := _PART.search(text):
            return {"validation": "val", "valid": "val"}.get(found[1], found[1])
    return None


def _class_names(root: Path, labels: dict[str, np.ndarray], num_classes: int | None) -> Sequence[str]:
    path = root / _NAMES_FILE
    if path.is_file():
        try:
            names = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"can't read {path}: {error}; it is a text in UTF-8 with a class's name in each line") from error
        names = [name.strip() for name in names if name.strip()]
        if num_classes not in (None, len(names)):
            raise DataError(f"{path} names {len(names)} classes, and data.arguments.num_classes={num_classes}")
        return names
    highest = max(int(part.max()) for part in labels.values())
    if num_classes is None and highest >= _MOST_CLASSES:
        raise DataError(f"{root}: a label is {highest}; if there are so many classes, say so with data.arguments.num_classes={highest + 1}")
    return [str(label) for label in range(highest + 1 if num_classes is None else num_classes)]
