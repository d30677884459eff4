"""torchvision's data sets, each in a few pictures laid out as its class expects them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from local_server import NOBODY, serving
from PIL import Image
from runs import SMALL

from distill.data.sources import torchvision as module
from distill.data.sources.torchvision import Torchvision
from distill.errors import DataError, RecipeError

SETS = module._SETS


def picture(path: Path, *colour: int) -> bytes:
    """A PNG of 4x3 pixels under whatever name."""
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return file.getvalue()


def colours(source: Torchvision, part: str) -> list[tuple[int, ...]]:
    pictures = getattr(source, part)
    return [tuple(pictures.picture(position)[:, 0, 0].tolist()) for position in range(len(pictures))]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


class Flowers:
    """Eight pictures of the first two kinds: numbers 1 to 4 for training, 5 and 6 for val, 7 and 8 for the test."""

    labels = (2, 1, 2, 1, 1, 2, 2, 1)  # from 1, as in the set's file

    def __init__(self, root: Path, monkeypatch):
        self.folder = root / "flowers-102"
        pictures = {f"jpg/image_{number:05}.jpg": picture(self.folder / f"jpg/image_{number:05}.jpg", number, 0, 0) for number in range(1, 9)}
        scipy.io.savemat(self.folder / "imagelabels.mat", {"labels": np.array(self.labels)})
        scipy.io.savemat(self.folder / "setid.mat", {"trnid": np.arange(1, 5), "valid": np.arange(5, 7), "tstid": np.arange(7, 9)})
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name, content in pictures.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        self.files = {"102flowers.tgz": archive.getvalue()} | {name: (self.folder / name).read_bytes() for name in ("imagelabels.mat", "setid.mat")}
        names = zip(("image", "label", "setid"), self.files.items(), strict=True)
        sums = {key: (name, hashlib.md5(content).hexdigest()) for key, (name, content) in names}
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", sums)
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_download_url_prefix", f"{NOBODY}/")
        monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def flowers(tmp_path, monkeypatch) -> Flowers:
    return Flowers(tmp_path / "root", monkeypatch)


def test_set_with_three_splits_has_them_as_its_parts(flowers, tmp_path):
    source = Torchvision(str(tmp_path / "root"), name="Flowers102")
    assert colours(source, "train") == [(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]
    assert colours(source, "val") == [(5, 0, 0), (6, 0, 0)]
    assert colours(source, "test") == [(7, 0, 0), (8, 0, 0)]
    assert [part.labels.tolist() for part in (source.train, source.val, source.test)] == [[1, 0, 1, 0], [0, 1], [1, 0]]
    assert [part.sample_ids.tolist() for part in (source.train, source.val, source.test)] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    assert len(source.class_names) == 102
    assert source.class_names[:2] == ["pink primrose", "hard-leaved pocket orchid"]
    assert (source.image_size, source.note) == (224, "")
    assert source.decoder.startswith(("pillow", "torchcodec"))
    source.check()


def test_source_of_files_goes_to_worker_processes(flowers, tmp_path):
    source = Torchvision(str(tmp_path / "root"), name="Flowers102", decoder="pillow")
    assert source.decoder.startswith("pillow")
    assert pickle.loads(pickle.dumps(source.test)).picture(0)[:, 0, 0].tolist() == [7, 0, 0]


def food(root: Path) -> None:
    """Ten pictures of each class for training, two for the test; listed in another order than that of their names."""
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    for part, num, green in (("train", 10, 0), ("test", 2, 1)):
        names = {kind: [f"{kind}/{part}{number}" for number in reversed(range(num))] for kind in ("waffles", "apple_pie")}
        (meta / f"{part}.json").write_text(json.dumps(names))
        for label, kind in enumerate(("apple_pie", "waffles")):
            for number in range(num):
                picture(root / "food-101" / "images" / kind / f"{part}{number}.jpg", label, green, number)


def test_set_without_val_has_it_cut_from_train(tmp_path):
    food(tmp_path)
    source, again = (Torchvision(str(tmp_path), val_fraction=0.2, name="Food101") for _ in range(2))
    assert source.class_names == ["apple_pie", "waffles"]
    assert colours(source, "test") == [(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    assert np.bincount(source.val.labels).tolist() == [2, 2]
    assert sorted(colours(source, "train") + colours(source, "val")) == [(label, 0, number) for label in (0, 1) for number in range(10)]
    for part in ("train", "val", "test"):
        assert [colour[0] for colour in colours(source, part)] == getattr(source, part).labels.tolist()
        assert getattr(source, part).sample_ids.tolist() == getattr(again, part).sample_ids.tolist()
    assert source.note == "val is 20% of train, set aside"
    assert source.fingerprint() == again.fingerprint()


def test_set_with_train_and_val_is_tested_on_its_val(tmp_path):
    for part, num in (("train", 5), ("val", 2)):
        for label, wnid in enumerate(("n01440764", "n02102040")):
            for number in range(num):
                picture(tmp_path / "imagenette2-160" / part / wnid / f"{number}.JPEG", label, part == "val", number)
    source = Torchvision(str(tmp_path), val_fraction=0.2, name="Imagenette", options={"size": "160px"})
    assert source.class_names == ["tench, Tinca tinca", "English springer, English springer spaniel"]
    assert colours(source, "test") == [(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    assert (len(source.train), len(source.val)) == (8, 2)
    assert source.note == "test is the set's own val; val is 20% of train, set aside"


def test_set_without_parts_is_cut_three_ways(tmp_path):
    for label, name in enumerate(("Forest", "River")):
        for number in range(10):
            picture(tmp_path / "eurosat" / "2750" / name / f"{name}_{number}.jpg", label, 0, number)
    source = Torchvision(str(tmp_path), name="EuroSAT")
    assert [np.bincount(part.labels).tolist() for part in (source.train, source.val, source.test)] == [[8, 8], [1, 1], [1, 1]]
    assert source.class_names == ["Forest", "River"]


def test_order_is_that_of_the_names_where_the_class_takes_the_disks_order(tmp_path, monkeypatch):
    folder = tmp_path / "SUN397"
    for label, name in enumerate(("abbey", "bakery")):
        for number in range(10):
            picture(folder / name[0] / name / f"sun_{number}.jpg", label, 0, number)
    (folder / "ClassName.txt").write_text("/a/abbey\n/b/bakery\n")
    first = Torchvision(str(tmp_path), name="SUN397")
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: reversed(list(rglob(self, pattern))))
    other = Torchvision(str(tmp_path), name="SUN397")
    assert colours(first, "train") == colours(other, "train")
    assert [colour[0] for colour in colours(first, "train")] == first.train.labels.tolist()
    assert first.fingerprint() == other.fingerprint()


def mnist(folder: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Grey pictures of 6x5 pixels."""
    noise = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays = {"train": noise.integers(0, 256, (20, 6, 5), dtype=np.uint8), "test": noise.integers(0, 256, (4, 6, 5), dtype=np.uint8)}
    for part, name in (("train", "train"), ("test", "test" if prefix else "t10k")):
        (folder / f"{prefix}{name}-images-idx3-ubyte").write_bytes(idx(arrays[part]))
        (folder / f"{prefix}{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(arrays[part]), dtype=np.uint8) % 2))
    return arrays


@pytest.mark.parametrize("name, options", [("MNIST", None), ("KMNIST", None), ("EMNIST", {"split": "digits"})])
def test_grey_set_in_memory_comes_as_pixels(tmp_path, name, options):
    arrays = mnist(tmp_path / name / "raw", "emnist-digits-" if name == "EMNIST" else "")
    source = Torchvision(str(tmp_path), name=name, options=options)
    for part, first in ((source.train, 0), (source.val, 0), (source.test, 20)):
        raw = np.concatenate(list(arrays.values()))[part.sample_ids]
        assert np.array_equal(part.pixels.numpy(), np.stack([raw] * 3, axis=1))
        assert part.labels.tolist() == [(row - first) % 2 for row in part.sample_ids]
    assert source.test.sample_ids.tolist() == [20, 21, 22, 23]
    assert (source.image_size, len(source.class_names), source.decoder) == (6, 10, "")


def test_coloured_set_in_memory_comes_as_pixels_and_numbers_its_classes(tmp_path, monkeypatch):
    arrays = {"train": np.random.default_rng(1).integers(0, 256, (4, 5, 3, 20), dtype=np.uint8)}  # [H, W, 3, N]
    arrays["test"] = arrays["train"][..., :4].copy()
    splits = {}
    for part, array in arrays.items():
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": array, "y": np.arange(array.shape[-1])[:, None] % 10 + 1})
        splits[part] = [NOBODY, path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    source = Torchvision(str(tmp_path), name="SVHN", val_fraction=0.5)
    assert source.class_names == [str(number) for number in range(10)]
    assert source.test.labels.tolist() == [1, 2, 3, 4]
    assert np.array_equal(source.test.pixels.numpy(), arrays["test"].transpose(3, 2, 0, 1))
    assert source.image_size == 5


@pytest.mark.parametrize("name", sorted(SETS))
def test_what_each_class_is_called_with_is_what_it_takes(tmp_path, name):
    # An empty folder: the classes check their arguments before they look for files. What is wrong with the arguments is a TypeError or a ValueError.
    for values in [SETS[name].options, *({option: [value]} for option, several in SETS[name].options.items() for value in several)]:
        options = {option: several[0] for option, several in {**SETS[name].options, **values}.items()}
        with pytest.raises((RuntimeError, FileNotFoundError)):
            module._opened(name, options, tmp_path, False)
    for part in SETS[name].parts.values():
        with pytest.raises((RuntimeError, FileNotFoundError)):
            getattr(torchvision.datasets, name)(str(tmp_path), **part, **module._checked(name, {}), download=False)


def test_docs_list_every_set_once_with_what_it_comes_with():
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    section = text.partition("\n## torchvision\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    listed = {name.strip("`"): parts for names, parts in rows for name in names.split(", ")}
    assert listed == {name: ", ".join(kind.parts) for name, kind in SETS.items()}
    assert f"| {len(SETS)} of torchvision's classification sets" in text


# downloads; the rest of what is promised of them is in test_sources_cifar.py


def test_missing_set_is_downloaded_whole(flowers, tmp_path, monkeypatch):
    with serving(flowers.files) as server:
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_download_url_prefix", f"{server.address}/")
        source = Torchvision(name="Flowers102")
    assert colours(source, "test") == [(7, 0, 0), (8, 0, 0)]
    assert source.fingerprint() == Torchvision(str(tmp_path / "root"), name="Flowers102").fingerprint()
    assert len(list((tmp_path / "cache" / "data" / "Flowers102").rglob("*.jpg"))) == 8


def test_half_that_a_killed_process_has_left_is_not_taken_for_the_set(flowers, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "data" / "Flowers102"
    half = folder / ".unfinished" / "flowers-102"
    picture(half / "jpg" / "image_00001.jpg", 99, 0, 0)
    for name in ("imagelabels.mat", "setid.mat"):
        (half / name).write_bytes(flowers.files[name])
    with serving(flowers.files) as server:
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_download_url_prefix", f"{server.address}/")
        assert colours(Torchvision(name="Flowers102"), "train")[0] == (1, 0, 0)
    assert not (folder / ".unfinished").exists()


def test_download_that_fails_half_way_leaves_no_half(flowers, tmp_path, monkeypatch):
    files = {name: content for name, content in flowers.files.items() if name != "setid.mat"}
    with serving(files) as server:
        monkeypatch.setattr(torchvision.datasets.Flowers102, "_download_url_prefix", f"{server.address}/")
        with pytest.raises(DataError, match=r"Flowers102 can't be downloaded: HTTP Error 404.* fetch http://127.*/setid\.mat by other means"):
            Torchvision(name="Flowers102")
    assert [path.name for path in (tmp_path / "cache" / "data" / "Flowers102").iterdir()] == [".download.lock"]


@pytest.mark.parametrize("has_links", [True, False])
def test_files_that_a_person_has_fetched_are_used(flowers, tmp_path, monkeypatch, has_links):
    def no_links(*paths: object) -> None:
        raise OSError("not here")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    folder = tmp_path / "cache" / "data" / "Flowers102"
    for name, content in flowers.files.items():
        with pytest.raises(DataError) as caught:
            Torchvision(name="Flowers102")
        assert f"fetch {NOBODY}/{name} by other means, put it here as {folder / 'flowers-102' / name}, and" in str(caught.value)
        (folder / "flowers-102").mkdir(exist_ok=True)
        (folder / "flowers-102" / name).write_bytes(content)
    assert len(Torchvision(name="Flowers102").train) == 4


def test_set_with_several_servers_names_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{NOBODY}/first/", f"{NOBODY}/second/"])
    monkeypatch.setenv("no_proxy", "*")
    place = tmp_path / "cache" / "data" / "MNIST" / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    with pytest.raises(DataError) as caught:
        Torchvision(name="MNIST")
    assert f"fetch {NOBODY}/first/train-images-idx3-ubyte.gz by other means, put it here as {place}, and" in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(SETS) - {"StanfordCars"}))
def test_what_a_server_sends_is_never_unpacked_without_its_sum(name, monkeypatch):
    def receive(url: str, path: str) -> None:
        Path(path).write_bytes(b"something else")

    unpacked = []
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", receive)
    monkeypatch.setattr(torchvision.datasets.utils, "extract_archive", lambda *arguments: unpacked.append(arguments))
    with pytest.raises(DataError, match=f"{name} can't be downloaded: .*(corrupted|no checksum)"):
        Torchvision(name=name)
    assert not unpacked


def test_set_without_a_server_says_so():
    with pytest.raises(DataError, match="StanfordCars can't be downloaded: The original URL is broken"):
        Torchvision(name="StanfordCars")


# bad input


def test_damaged_picture_is_named(flowers, tmp_path):
    path = flowers.folder / "jpg" / "image_00007.jpg"
    path.write_bytes(path.read_bytes()[:30])
    source = Torchvision(str(tmp_path / "root"), name="Flowers102")
    with pytest.raises(DataError, match=r"can't read the picture .*image_00007\.jpg"):
        source.test.picture(0)


def test_missing_picture_is_named_at_once(flowers, tmp_path):
    (flowers.folder / "jpg" / "image_00007.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 8 pictures are missing, the first is .*image_00007\.jpg"):
        Torchvision(str(tmp_path / "root"), name="Flowers102")


def test_damaged_list_is_a_set_that_is_not_whole(tmp_path):
    food(tmp_path)
    (tmp_path / "food-101" / "meta" / "test.json").write_text('{"waffles": [')
    with pytest.raises(DataError, match=r"does not hold Food101, or not whole: Expecting value.*download=true"):
        Torchvision(str(tmp_path), name="Food101")


def test_labels_out_of_range_are_refused(tmp_path):
    mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 10, 1], dtype=np.uint8)))
    with pytest.raises(DataError, match=r"MNIST in .*: 1 label\(s\) are out of range, the first is 10"):
        Torchvision(str(tmp_path), name="MNIST")


def test_fingerprint_notices_a_changed_picture(flowers, tmp_path):
    before = Torchvision(str(tmp_path / "root"), name="Flowers102").fingerprint()
    path = flowers.folder / "jpg" / "image_00007.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    assert Torchvision(str(tmp_path / "root"), name="Flowers102").fingerprint() != before


@pytest.mark.parametrize("name, hint", [("Flower102", "Flowers102"), ("flowers102", "Flowers102"), ("CIFAR_10", "CIFAR10")])
def test_unknown_set_gets_the_nearest_and_the_whole_list(name, hint):
    with pytest.raises(RecipeError) as caught:
        Torchvision(name=name)
    assert f"data.arguments.name={name} is none of the sets" in str(caught.value)
    assert f"did you mean '{hint}'?" in str(caught.value)
    assert all(known in str(caught.value) for known in SETS)


@pytest.mark.parametrize("name", ["CocoDetection", "ImageFolder", "os", "__doc__"])
def test_nothing_else_of_torchvision_can_be_named(name):
    with pytest.raises(RecipeError, match="is none of the sets"):
        Torchvision(name=name)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"splitt": "digits"}, r"options\.splitt: EMNIST has no such option; it has: split"),
        ({"split": "roman"}, r"options\.split=roman is none of EMNIST's: balanced, byclass"),
        ({"loader": "os.system"}, r"options\.loader: EMNIST has no such option"),
    ],
)
def test_unknown_option_is_refused_with_those_there_are(options, message):
    with pytest.raises(RecipeError, match=message):
        Torchvision(name="EMNIST", options=options)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        Torchvision(str(tmp_path / "nowhere"), name="MNIST")


def test_recipe_without_a_name_is_told_so_at_once(distill):
    code, _, error = distill("train", "--recipe", "smoke", "data.source=torchvision")
    assert code == 2
    assert "data.arguments.name" in error
    assert "Traceback" not in error


def test_run_trains_on_a_set(distill, tmp_path):
    mnist(tmp_path / "MNIST" / "raw")
    source = ["data.source=torchvision", f"data.root={tmp_path}", "data.arguments={name: MNIST}", "data.image_size=32", "data.val_fraction=0.2"]
    small = [argument for argument in SMALL if not argument.startswith("data.arguments")]
    code, _, error = distill("train", *small, *source, "train.epochs=1", "train.max_steps=2")
    assert code == 0, error
