"""CIFAR-10 and CIFAR-100, in small files of the same form with sums of their own: where they are found, and how they are downloaded."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from local_server import NOBODY, serving

from distill.data.sources.cifar10 import CIFAR10
from distill.data.sources.cifar100 import CIFAR100
from distill.errors import DataError
from distill.resolve import Catalogue


def batch(num_classes: int, each: int, key: str, seed: int) -> dict[str, Any]:
    """Labels 0, 1, 2, ... in turn; each picture is a row of noise, the red values first, then green and blue."""
    labels = list(range(num_classes)) * each
    return {"data": np.random.default_rng(seed).integers(0, 256, (len(labels), 3 * 32 * 32), dtype=np.uint8), key: labels}


class Files:
    """The files of one of the two sets, in memory, and torchvision's class told of their sums."""

    def __init__(self, monkeypatch, source: type):
        self.source, self.set = source, getattr(torchvision.datasets, source.__name__)
        self.folder, self.names = self.set.base_folder, [f"class{number}" for number in range(10 if source is CIFAR10 else 100)]
        key = "labels" if source is CIFAR10 else "fine_labels"
        names = [name for name, _ in self.set.train_list]
        parts = {name: batch(len(self.names), 3, key, seed) for seed, name in enumerate(names)}
        labels = [label for part in parts.values() for label in part[key]]
        self.train = {"data": np.concatenate([part["data"] for part in parts.values()]), "labels": labels}
        test = batch(len(self.names), 2, key, 99)
        self.test = {"data": test["data"], "labels": test[key]}
        contents = parts | {self.set.test_list[0][0]: test, self.set.meta["filename"]: {self.set.meta["key"]: self.names}}
        self.files = {name: pickle.dumps(value) for name, value in contents.items()}
        sums = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        self.archive = self._archive()
        monkeypatch.setattr(self.set, "train_list", [[name, sums[name]] for name in names])
        monkeypatch.setattr(self.set, "test_list", [[self.set.test_list[0][0], sums[self.set.test_list[0][0]]]])
        monkeypatch.setattr(self.set, "meta", {**self.set.meta, "md5": sums[self.set.meta["filename"]]})
        monkeypatch.setattr(self.set, "tgz_md5", hashlib.md5(self.archive).hexdigest())
        monkeypatch.setattr(self.set, "url", f"{NOBODY}/{self.set.filename}")
        monkeypatch.setenv("no_proxy", "*")

    def _archive(self) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in self.files.items():
                info = tarfile.TarInfo(f"{self.folder}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return file.getvalue()

    def write(self, root: Path) -> Path:
        (root / self.folder).mkdir(parents=True)
        for name, content in self.files.items():
            (root / self.folder / name).write_bytes(content)
        return root

    def serve(self, monkeypatch, address: str) -> None:
        monkeypatch.setattr(self.set, "url", f"{address}/{self.set.filename}")


@pytest.fixture(params=[CIFAR10, CIFAR100])
def files(request, monkeypatch) -> Files:
    return Files(monkeypatch, request.param)


@pytest.fixture
def cifar10(monkeypatch) -> Files:
    return Files(monkeypatch, CIFAR10)


def test_parts_hold_the_pictures_of_the_files_under_their_rows(files, tmp_path):
    source = files.source(str(files.write(tmp_path / "root")), val_fraction=0.2)
    num_train, num_test = len(files.train["labels"]), len(files.test["labels"])
    labels, data = files.train["labels"] + files.test["labels"], np.concatenate([files.train["data"], files.test["data"]])
    assert source.test.sample_ids.tolist() == list(range(num_train, num_train + num_test))
    assert sorted([*source.train.sample_ids, *source.val.sample_ids]) == list(range(num_train))
    for part in (source.train, source.val, source.test):
        assert part.labels.tolist() == [labels[row] for row in part.sample_ids]
        assert np.array_equal(part.pixels.numpy(), data[part.sample_ids].reshape(-1, 3, 32, 32))
    assert source.class_names == files.names
    assert source.image_size == 32
    assert source.note == "val is 20% of train, set aside"
    source.check()


def test_val_is_a_fixed_part_of_each_class(files, tmp_path):
    root = str(files.write(tmp_path / "root"))
    first, again = files.source(root, val_fraction=0.34), files.source(root, val_fraction=0.34)
    assert len(set(np.bincount(first.val.labels, minlength=len(files.names)))) == 1
    assert first.val.sample_ids.tolist() == again.val.sample_ids.tolist()
    assert first.fingerprint() == again.fingerprint()


def test_mean_and_spread_are_the_usual_ones_of_the_50000_training_pictures(files, tmp_path):
    source = files.source(str(files.write(tmp_path / "root")))
    usual = {CIFAR10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), CIFAR100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}
    assert (source.mean, source.std) == usual[files.source]


def test_set_is_downloaded_once_into_the_cache(files, tmp_path, monkeypatch):
    with serving({files.set.filename: files.archive}) as server:
        files.serve(monkeypatch, server.address)
        source = files.source()
    assert set(server.asked) == {f"/{files.set.filename}"}
    folder = tmp_path / "cache" / "data" / files.source.__name__
    assert {path.name for path in folder.iterdir()} == {files.folder, files.set.filename, ".download.lock"}
    assert files.source().fingerprint() == source.fingerprint()  # the server is gone
    assert files.source(str(folder)).fingerprint() == source.fingerprint()


def test_folder_that_is_given_is_filled_only_where_that_is_asked_for(files, tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    with serving({files.set.filename: files.archive}) as server:
        files.serve(monkeypatch, server.address)
        with pytest.raises(DataError, match=rf"root does not hold {files.source.__name__}, or not whole: .*data\.arguments\.download=true"):
            files.source(str(tmp_path / "root"))
        assert not server.asked
        files.source(str(tmp_path / "root"), download=True)
    assert len(files.source(str(tmp_path / "root")).test) == len(files.test["labels"])


def test_folder_to_download_into_is_made(cifar10, tmp_path, monkeypatch):
    with serving({cifar10.set.filename: cifar10.archive}) as server:
        cifar10.serve(monkeypatch, server.address)
        assert len(CIFAR10(str(tmp_path / "a" / "b"), download=True).test) == 20


def test_without_a_network_the_file_and_its_place_are_named(files, tmp_path):
    place = tmp_path / "cache" / "data" / files.source.__name__ / files.set.filename
    with pytest.raises(DataError) as caught:
        files.source()
    assert f"fetch {NOBODY}/{files.set.filename} by other means, put it here as {place}, and start again" in str(caught.value)
    place.write_bytes(files.archive)
    assert len(files.source().test) == len(files.test["labels"])  # still without a network


@pytest.mark.parametrize("cut", [0, 100])
def test_broken_download_leaves_nothing_that_looks_like_data(cifar10, tmp_path, monkeypatch, cut):
    content = cifar10.archive if cut else cifar10.archive + b"more"
    with serving({cifar10.set.filename: content}, cut=cut) as server:
        cifar10.serve(monkeypatch, server.address)
        with pytest.raises(DataError, match=r"CIFAR10 can't be downloaded: .*or fetch http://127.*/cifar-10-python\.tar\.gz by other means"):
            CIFAR10()
    folder = tmp_path / "cache" / "data" / "CIFAR10"
    assert [path.name for path in folder.iterdir()] == [".download.lock"]
    with serving({cifar10.set.filename: cifar10.archive}) as server:
        cifar10.serve(monkeypatch, server.address)
        assert len(CIFAR10().test) == 20


def test_file_that_the_server_does_not_have_is_named(cifar10, monkeypatch):
    with serving({}) as server:
        cifar10.serve(monkeypatch, server.address)
        with pytest.raises(DataError, match=r"HTTP Error 404.*cifar-10-python\.tar\.gz by other means"):
            CIFAR10()


def test_two_at_once_download_once(cifar10, monkeypatch):
    found, errors, unpacked = [], [], []
    extract = torchvision.datasets.utils.extract_archive
    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", lambda *paths: (unpacked.append(paths), extract(*paths)))

    def open_it() -> None:
        try:
            found.append(CIFAR10().fingerprint())
        except Exception as error:
            errors.append(error)

    with serving({cifar10.set.filename: cifar10.archive}) as server:
        cifar10.serve(monkeypatch, server.address)
        threads = [threading.Thread(target=open_it) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(found) == 2
    assert len(set(found)) == 1
    assert len(unpacked) == 1
    assert len(server.asked) == 2  # for one download: torchvision first asks where it is redirected to


def test_server_that_does_not_answer_is_given_up(cifar10, monkeypatch):
    seen = []
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, max_hops: url)

    def receive(url: str, path: str) -> None:
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", receive)
    with pytest.raises(DataError, match="CIFAR10 can't be downloaded: timed out; or fetch"):
        CIFAR10()
    assert seen == [60]
    assert socket.getdefaulttimeout() is None


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("which", ["first batch", "test batch", "names"])
def test_pickle_with_another_sum_is_never_opened(files, tmp_path, which):
    root = files.write(tmp_path / "root")
    name = {"first batch": files.set.train_list[0][0], "test batch": files.set.test_list[0][0], "names": files.set.meta["filename"]}[which]
    content = pickle.dumps(Touches(tmp_path / "touched"))
    (root / files.folder / name).write_bytes(content)
    with pytest.raises(DataError, match=r"does not hold .*, or not whole: .*corrupted"):
        files.source(str(root))
    assert not (tmp_path / "touched").exists()
    pickle.loads(content)
    assert (tmp_path / "touched").exists()  # it would have


def test_missing_file_is_a_data_set_that_is_not_whole(files, tmp_path):
    root = files.write(tmp_path / "root")
    (root / files.folder / files.set.test_list[0][0]).unlink()
    with pytest.raises(DataError, match="or not whole"):
        files.source(str(root))


def test_missing_folder_is_named(files, tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        files.source(str(tmp_path / "nowhere"))


def test_place_that_can_not_be_written_is_named(cifar10, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"can't make the folder .*file/data/CIFAR10 for CIFAR10: Not a directory"):
        CIFAR10()


@pytest.mark.parametrize("name, cls", [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_recipe_finds_it(name, cls):
    assert Catalogue().get("sources", name) is cls
