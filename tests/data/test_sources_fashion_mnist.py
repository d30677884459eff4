"""Fashion-MNIST, in small files of the same form: as published, as Debian and torchvision lay it out, and downloaded."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from local_server import NOBODY, serving

from distill.data.sources import fashion_mnist as module
from distill.data.sources.fashion_mnist import FashionMNIST
from distill.data.sources.sample import FOLDER, Sample
from distill.errors import DataError
from distill.resolve import Catalogue

NUM_TRAIN, NUM_TEST = 50, 20


@pytest.fixture(autouse=True)
def no_debian(tmp_path, monkeypatch):
    """The tests don't depend on what is installed."""
    monkeypatch.setattr(module, "_DEBIAN", tmp_path / "debian")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def arrays() -> dict[str, np.ndarray]:
    """Noise of 28x28 pixels; labels 0, 1, ..., 9 in turn."""
    noise = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": noise.integers(0, 256, (NUM_TRAIN, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(NUM_TRAIN, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": noise.integers(0, 256, (NUM_TEST, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(NUM_TEST, dtype=np.uint8) % 10,
    }


def packed(**changed: np.ndarray) -> dict[str, bytes]:
    """File name -> what is in it."""
    return {f"{name}.gz": gzip.compress(idx(array), mtime=0) for name, array in (arrays() | changed).items()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def told_of(monkeypatch, files: dict[str, bytes], address: str = NOBODY) -> None:
    """torchvision's class expects these files at this address."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", [(name, hashlib.md5(files[name]).hexdigest()) for name in files])


def test_parts_hold_the_pictures_of_the_files_under_their_rows(tmp_path):
    source = FashionMNIST(str(write(tmp_path / "root", packed())), val_fraction=0.2)
    raw = np.concatenate([arrays()["train-images-idx3-ubyte"], arrays()["t10k-images-idx3-ubyte"]])
    assert source.test.sample_ids.tolist() == list(range(NUM_TRAIN, NUM_TRAIN + NUM_TEST))
    assert sorted([*source.train.sample_ids, *source.val.sample_ids]) == list(range(NUM_TRAIN))
    for part in (source.train, source.val, source.test):
        assert part.labels.tolist() == [row % 10 for row in part.sample_ids]
        assert np.array_equal(part.pixels.numpy(), np.stack([raw[part.sample_ids]] * 3, axis=1))
    assert np.bincount(source.val.labels).tolist() == [1] * 10
    assert source.class_names[9] == "Ankle boot"
    assert (source.image_size, source.note, source.decoder) == (28, "val is 20% of train, set aside", "")
    source.check()


@pytest.mark.parametrize("below", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_files_are_found_in_every_layout(tmp_path, below, is_packed):
    files = packed() if is_packed else {name: idx(array) for name, array in arrays().items()}
    write(tmp_path / "root" / below, files)
    expected = FashionMNIST(str(write(tmp_path / "other", packed()))).fingerprint()
    assert FashionMNIST(str(tmp_path / "root")).fingerprint() == expected


def test_debians_package_is_found_by_itself(tmp_path):
    write(tmp_path / "debian", packed())
    assert len(FashionMNIST().test) == NUM_TEST
    assert not (tmp_path / "cache").exists()


def test_what_torchvision_has_downloaded_is_the_same(tmp_path, monkeypatch):
    files = packed()
    with serving(files) as server:
        told_of(monkeypatch, files, server.address)
        source = FashionMNIST()
    assert source.fingerprint() == FashionMNIST().fingerprint()  # the server is gone
    theirs = torchvision.datasets.FashionMNIST(str(tmp_path / "cache" / "data" / "FashionMNIST"), train=False)
    assert torch.equal(theirs.data, source.test.pixels[:, 0])
    assert theirs.targets.tolist() == source.test.labels.tolist()


def test_folder_that_is_given_is_filled_only_where_that_is_asked_for(tmp_path, monkeypatch):
    files = packed()
    (tmp_path / "root").mkdir()
    with serving(files) as server:
        told_of(monkeypatch, files, server.address)
        with pytest.raises(DataError, match=r"does not hold FashionMNIST, or not whole: there is no train-images-idx3-ubyte.*download=true"):
            FashionMNIST(str(tmp_path / "root"))
        assert not server.asked
        assert len(FashionMNIST(str(tmp_path / "root"), download=True).test) == NUM_TEST


def test_without_a_network_the_file_and_its_place_are_named(tmp_path, monkeypatch):
    told_of(monkeypatch, packed())
    place = tmp_path / "cache" / "data" / "FashionMNIST" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    with pytest.raises(DataError) as caught:
        FashionMNIST()
    assert f"fetch {NOBODY}/train-images-idx3-ubyte.gz by other means, put it here as {place}, and start again" in str(caught.value)
    write(place.parent, packed())
    assert len(FashionMNIST().test) == NUM_TEST


def test_broken_download_leaves_nothing_that_looks_like_data(tmp_path, monkeypatch):
    files = packed()
    with serving(files, cut=10) as server:
        told_of(monkeypatch, files, server.address)
        with pytest.raises(DataError, match="FashionMNIST can't be downloaded"):
            FashionMNIST()
    assert [path.name for path in (tmp_path / "cache" / "data" / "FashionMNIST").iterdir()] == [".download.lock"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("t10k-images-idx3-ubyte.gz", packed()["t10k-images-idx3-ubyte.gz"][:-200]),
        ("t10k-images-idx3-ubyte.gz", b"not gzip"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(b"", mtime=0)),
        ("train-labels-idx1-ubyte.gz", gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, NUM_TRAIN]) + bytes(NUM_TRAIN - 1), mtime=0)),
        ("train-labels-idx1-ubyte.gz", gzip.compress(bytes([0, 0, 8, 200, 0, 0, 0, 1, 1]), mtime=0)),
    ],
)
def test_damaged_file_is_named(tmp_path, name, content):
    root = write(tmp_path / "root", packed() | {name: content})
    with pytest.raises(DataError, match=rf"can't read .*{name}: .*; fetch it anew"):
        FashionMNIST(str(root))


@pytest.mark.parametrize(
    "name, array",
    [
        ("train-labels-idx1-ubyte", np.zeros(NUM_TRAIN - 1, dtype=np.uint8)),
        ("t10k-images-idx3-ubyte", np.zeros((NUM_TEST, 28 * 28), dtype=np.uint8)),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, name, array):
    with pytest.raises(DataError, match=f"the files of {name.partition('-')[0]} hold images of shape"):
        FashionMNIST(str(write(tmp_path / "root", packed(**{name: array}))))


def test_labels_out_of_range_are_refused(tmp_path):
    labels = np.full(NUM_TEST, 10, dtype=np.uint8)
    with pytest.raises(DataError, match=r"t10k: 20 label\(s\) are out of range, the first is 10"):
        FashionMNIST(str(write(tmp_path / "root", packed(**{"t10k-labels-idx1-ubyte": labels}))))


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        FashionMNIST(str(tmp_path / "nowhere"))


def test_module_stands_beside_the_folder_of_the_samples_files():
    # A folder without __init__.py is a package too, but a module of the name comes first.
    assert FOLDER.is_dir()
    assert Path(module.__file__).with_suffix("") == FOLDER
    assert Catalogue().get("sources", "fashion_mnist") is FashionMNIST
    assert len(Sample().test) == 2000
