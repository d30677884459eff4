"""Packed files: the pictures, parts and ids of the folder; going on after mends and faults; every file that is cut short, altered or foreign."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file

from distill.data.decoding import Decoder, pick_decoder
from distill.data.loader import EvaluationLoader, TrainingLoader
from distill.data.packing.check import damaged_rows
from distill.data.packing.file import FILLED, LEFT_OUT, VERSION, read_packed_file
from distill.data.packing.fill import is_packed_already, pack
from distill.data.packing.plan import Plan, list_pictures, make_plan, settings_for
from distill.data.packing.rows import packed_size
from distill.data.packing.start import begin, discard_damaged, partial_path
from distill.data.resizing import plain_view
from distill.data.sampler import StepSampler
from distill.data.sources import packed as packed_source
from distill.data.sources.base import DataSource
from distill.data.sources.imagefolder import ImageFolder
from distill.data.sources.packed import Packed
from distill.data.views import Views
from distill.errors import DataError

PILLOW = pick_decoder("pillow")
PARTS = ("train", "val", "test")


def noise(height: int, width: int, seed: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze())


def save(path: Path, picture: Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


SIZES = [(40, 60), (60, 40), (24, 24), (33, 71), (10, 90), (25, 20)]  # height, width


def mixed(root: Path) -> Path:
    """Three parts of two classes, three pictures of different sizes in each; one is grey, one lies on its side."""
    seed = 0
    for part in PARTS:
        for name in ("cat", "dog"):
            for index in range(3):
                height, width = SIZES[seed % len(SIZES)]
                save(root / part / name / f"{index}.png", noise(height, width, seed, channels=1 if seed == 7 else 3))
                seed += 1
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "train" / "cat" / "turned.jpg", noise(30, 50, 99), exif=exif, quality=95)
    return root


def equal(root: Path, layout: str = "", num: int = 10, size: tuple[int, int] = (20, 30)) -> Path:
    """Classes of pictures that all have one size. layout: part folders, such as "train val"; none for classes alone."""
    seed = 0
    for part in layout.split() or [""]:
        for name, many in (("cat", num), ("dog", num + 3)):
            for index in range(many):
                save(root / part / name / f"{index:02}.png", noise(*size, seed))
                seed += 1
    return root


def plan_of(root: Path, size: int, *, square: bool = False, workers: int = 0, decoder: Decoder = PILLOW) -> Plan:
    return make_plan(list_pictures(root), size, square=square, decoder=decoder, workers=workers)


def packed(root: Path, target: Path, size: int = 24, *, square: bool = False, workers: int = 0, skip: bool = False) -> Path:
    plan = plan_of(root, size, square=square, workers=workers)
    begin(plan, target)
    bad = pack(plan, target, workers=workers, on_bad_image="skip" if skip else "error")
    assert skip or not bad
    return target


def pictures(source: DataSource) -> list[list[torch.Tensor]]:
    return [[part.picture(position) for position in range(len(part))] for part in (source.train, source.val, source.test)]


def upright(path: Path) -> Image.Image:
    """As Pillow itself shows it."""
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("square", [False, True])
def test_packed_pictures_are_those_of_the_folder_decoded_and_resized(tmp_path, square, workers):
    root = mixed(tmp_path / "pictures")
    source = Packed(str(packed(root, tmp_path / "packed.safetensors", 24, square=square, workers=workers)))
    shown = [picture for part in pictures(source) for picture in part]
    files = [path for part in PARTS for name in ("cat", "dog") for path in sorted((root / part / name).iterdir())]
    assert len(shown) == len(files) == 19
    for path, picture in zip(files, shown, strict=True):
        whole = upright(path)
        side = min(24, *whole.size)
        if square:
            expected = plain_view(as_tensor(whole)[None], side)[0]
        else:
            factor = side / min(whole.size)
            expected = as_tensor(whole.resize([round(length * factor) for length in whole.size], Image.Resampling.BILINEAR))
        assert torch.equal(picture, expected), path


@pytest.mark.parametrize(
    "height, width, size, square, expected",
    [
        (100, 50, 25, False, (50, 25)),
        (50, 100, 25, False, (25, 50)),
        (333, 500, 256, False, (256, 384)),  # 384.38
        (30, 20, 25, False, (30, 20)),  # never enlarged
        (20, 30, 20, False, (20, 30)),
        (1000, 1, 16, False, (1000, 1)),
        (100, 50, 25, True, (25, 25)),
        (30, 20, 25, True, (20, 20)),
    ],
)
def test_size_of_a_packed_picture(height, width, size, square, expected):
    assert packed_size(height, width, size, square) == expected


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_turned_pictures_are_packed_upright_with_the_size_that_they_then_have(tmp_path, kind):
    root, folder = mixed(tmp_path / "pictures"), tmp_path / "pictures" / "train" / "dog"
    for orientation in range(9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(folder / f"t{orientation}.{kind}", noise(30, 50, orientation), exif=exif, **({"quality": 95} if kind == "jpg" else {}))
    plan = plan_of(root, 100)
    assert plan.bad == {}
    source = Packed(str(packed(root, tmp_path / "packed.safetensors", 100)))
    first = len(list((root / "train" / "cat").iterdir())) + 3
    for orientation in range(9):
        picture = upright(folder / f"t{orientation}.{kind}")
        assert picture.size == ((30, 50) if orientation >= 5 else (50, 30))
        assert torch.equal(source.train.picture(first + orientation), as_tensor(picture)), orientation


def unlabelled(root: Path) -> Path:
    equal(root, "val")
    for index in range(7):
        save(root / "train" / f"{index}.png", noise(20, 30, 500 + index))
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "three parts": lambda root: equal(root, "train val test"),
    "train and val": lambda root: equal(root, "train val"),
    "train and test": lambda root: equal(root, "train test"),
    "classes alone": equal,
    "training pictures without labels": unlabelled,
    "three parts of different sizes": mixed,
}


@pytest.mark.parametrize("val_fraction", [0.1, 0.3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_classes_labels_ids_and_pictures_are_those_of_imagefolder(tmp_path, layout, val_fraction):
    root = LAYOUTS[layout](tmp_path / "pictures")
    folder = ImageFolder(str(root), val_fraction=val_fraction, decoder="pillow")
    source = Packed(str(packed(root, tmp_path / "packed.safetensors", 500)), val_fraction=val_fraction)
    source.check()
    for name in ("class_names", "has_labels", "note", "decoder"):
        assert getattr(source, name) == getattr(folder, name), name
    for name in PARTS:
        assert np.array_equal(getattr(source, name).labels, getattr(folder, name).labels)
        assert np.array_equal(getattr(source, name).sample_ids, getattr(folder, name).sample_ids)
    for ours, theirs in zip(pictures(source), pictures(folder), strict=True):
        assert len(ours) == len(theirs) > 0
        assert all(map(torch.equal, ours, theirs))


def test_two_files_of_the_same_pictures_are_the_same_whatever_made_them(tmp_path):
    root = mixed(tmp_path / "pictures")
    one, two = (packed(root, tmp_path / name, workers=workers) for name, workers in (("one", 0), ("two", 2)))
    assert one.read_bytes() == two.read_bytes()


def test_safetensors_itself_reads_the_file(tmp_path):
    path = packed(equal(tmp_path / "pictures"), tmp_path / "packed.safetensors", 10, square=True)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"offset", "file", "label", "crc32", "height", "width", "part", "filled", "pixels"}
        assert json.loads(file.metadata()["class_names"]) == ["cat", "dog"]
        assert (file.metadata()["size"], file.metadata()["square"]) == ("10", "true")
        assert file.get_tensor("label").tolist() == [0] * 10 + [1] * 13
        pixels = file.get_tensor("pixels").view(23, 10, 10, 3)
    with Image.open(tmp_path / "pictures" / "cat" / "03.png") as picture:
        assert torch.equal(pixels[3].permute(2, 0, 1), plain_view(as_tensor(picture)[None], 10)[0])


# how a source reads


def test_pictures_of_one_size_are_held_together_where_there_is_room_and_others_are_read(tmp_path, monkeypatch):
    one = str(packed(equal(tmp_path / "one", "train val"), tmp_path / "one.safetensors"))
    several = str(packed(mixed(tmp_path / "several"), tmp_path / "several.safetensors"))
    held = Packed(one)
    assert held.train.pixels.shape == (21, 3, 20, 30)  # of 23, val has one of each class
    assert Packed(several).train.pixels is None
    needed = 46 * 20 * 30 * 3
    monkeypatch.setattr(packed_source, "_memory", lambda: 2 * needed)
    assert Packed(one).train.pixels is not None
    monkeypatch.setattr(packed_source, "_memory", lambda: 2 * needed - 1)
    read = Packed(one)
    assert read.train.pixels is None
    for ours, theirs in zip(pictures(read), pictures(held), strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert read.fingerprint() == held.fingerprint()


def test_memory_is_a_share_of_what_a_container_has_left(monkeypatch):
    texts = {"/proc/meminfo": "MemTotal: 900 kB\nMemAvailable:     600 kB\n"}
    monkeypatch.setattr(packed_source, "_text", lambda path: texts.get(path, ""))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert packed_source._memory() == 600 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert packed_source._memory() == 150 * 1024
    texts |= {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "5\n"}
    assert packed_source._memory() == 150 * 1024
    texts["/sys/fs/cgroup/memory.max"] = "4005\n"
    assert packed_source._memory() == 1000
    texts.clear()
    assert packed_source._memory() == 0


def test_pictures_larger_than_a_gpu_are_not_put_on_it(monkeypatch):
    class Gpu:
        total_memory = 1000

    monkeypatch.setattr(packed_source, "_text", lambda path: "MemAvailable: 600 kB")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Gpu)
    assert packed_source._memory() == 1000


def test_picture_is_a_view_of_the_map_and_what_is_written_to_it_stays_out_of_the_file(tmp_path):
    path = packed(mixed(tmp_path / "pictures"), tmp_path / "packed.safetensors")
    before, source = path.read_bytes(), Packed(str(path))
    picture = source.train.picture(1)
    assert picture.data_ptr() == source.train.picture(1).data_ptr()
    picture.zero_()
    assert not source.train.picture(1).any()
    assert path.read_bytes() == before
    assert Packed(str(path)).train.picture(1).any()


def test_part_goes_to_another_process_by_its_path(tmp_path):
    path = packed(mixed(tmp_path / "pictures"), tmp_path / "packed.safetensors", 500)
    part = Packed(str(path)).train
    content = pickle.dumps(part)
    assert len(content) < 4000 < path.stat().st_size
    again = pickle.loads(content)
    assert all(torch.equal(part.picture(position), again.picture(position)) for position in range(len(part)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="was changed after it was opened"):
        pickle.loads(content)


def test_file_that_is_cut_short_while_it_is_used_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = packed(mixed(tmp_path / "pictures"), tmp_path / "packed.safetensors")
    part = Packed(str(path)).train
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match="it has 100 bytes instead of"):
        part.picture(0)


@pytest.mark.parametrize("folder", [mixed, equal])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_those_of_the_folder_with_and_without_workers(tmp_path, folder):
    root = folder(tmp_path / "pictures")
    sources = [ImageFolder(str(root), 16, decoder="pillow"), Packed(str(packed(root, tmp_path / "packed.safetensors", 500)), 16)]

    def batches(source: DataSource, workers: int) -> list[torch.Tensor]:
        sampler, views = StepSampler(len(source.train), 4, seed=1), Views(16, crop="random_resized", flip=0.5)
        options = {"device": torch.device("cpu"), "workers": workers}
        training = TrainingLoader(source.train, views, sampler, view_seed=3, num_views=2, **options)
        evaluation = EvaluationLoader(source.test, 16, batch_size=4, **options)
        return [batch.images for batch in training.epoch(0)] + [batch.images for _, batch in evaluation]

    expected = batches(sources[0], 0)
    for workers in (0, 2):
        ours = batches(sources[1], workers)
        assert len(ours) == len(expected) > 1
        assert all(map(torch.equal, ours, expected))


@pytest.mark.parametrize(
    "size, square, asked, expected", [(64, True, None, 64), (64, False, None, 64), (256, False, None, 224), (64, True, 32, 32), (64, False, 500, 500)]
)
def test_image_size_is_what_was_packed_or_asked_for(tmp_path, size, square, asked, expected):
    path = packed(equal(tmp_path / "pictures"), tmp_path / "packed.safetensors", size, square=square)
    assert Packed(str(path), asked).image_size == expected


def test_fingerprint_is_of_the_pictures_the_settings_and_the_parts(tmp_path):
    root = equal(tmp_path / "pictures")
    first = Packed(str(packed(root, tmp_path / "1", 16))).fingerprint()
    assert Packed(str(packed(root, tmp_path / "2", 16))).fingerprint() == first
    others = [
        Packed(str(packed(root, tmp_path / "3", 15))),
        Packed(str(packed(root, tmp_path / "4", 16, square=True))),
        Packed(str(tmp_path / "1"), val_fraction=0.2),
    ]
    (root / "cat" / "03.png").rename(root / "cat" / "03b.png")
    others.append(Packed(str(packed(root, tmp_path / "5", 16))))
    assert len({first, *(source.fingerprint() for source in others)}) == 5


# files that are not as they should be


def test_no_part_of_a_file_is_taken_for_a_whole_one(tmp_path):
    whole = packed(equal(tmp_path / "pictures"), tmp_path / "whole", 8).read_bytes()
    path = tmp_path / "cut"
    for num_bytes in [*range(0, 64), *range(64, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(DataError, match=r"was not written by|was not copied whole"):
            Packed(str(path))
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataError, match=f"has {len(whole) + 1:,} bytes and should have {len(whole):,}"):
        Packed(str(path))


def test_every_bit_that_is_not_a_pixel_or_its_sum_is_noticed_and_these_are_noticed_by_a_check(tmp_path):
    path = packed(equal(tmp_path / "pictures", num=3), tmp_path / "packed", 4)
    whole, layout = path.read_bytes(), read_packed_file(path).layout
    sums = range(layout.place("crc32"), layout.place("crc32") + 8 * len(layout))
    chance = np.random.default_rng(0)
    for place in [*range(0, 400), *range(400, layout.place("offset"), 50), *range(layout.place("offset"), len(whole), 3)]:
        content = bytearray(whole)
        content[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(content)
        if place in sums or place >= layout.place("pixels"):
            Packed(str(path))
            assert len(damaged_rows(read_packed_file(path))) == 1, place
        else:
            with pytest.raises(DataError, match=r"packed"):
                Packed(str(path))


def with_header(path: Path, content: bytes) -> None:
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(100))


def metadata(**changes: str) -> dict[str, str]:
    known = {"format": "distill packed pictures", "version": VERSION, "size": "8", "square": "true", "decoder": "", "resize": "", "class_names": "[]"}
    return known | changes


HEADERS = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "no text": b"\xff\xfe",
    "nothing known": b'{"__metadata__": {}}',
    "deep lists": b"[" * 100_000,
    "another format": json.dumps({"__metadata__": metadata(format="x")}).encode(),
    "negative pictures": json.dumps({"__metadata__": metadata(), "filled": {"shape": [-1]}, "pixels": {"shape": [1]}}).encode(),
    "pictures by half": json.dumps({"__metadata__": metadata(), "filled": {"shape": [0.5]}, "pixels": {"shape": [1]}}).encode(),
    "a size that is none": json.dumps({"__metadata__": metadata(size="x"), "filled": {"shape": [1]}, "pixels": {"shape": [1]}}).encode(),
    "a very long number": b'{"__metadata__": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", HEADERS)
def test_foreign_header_is_refused(tmp_path, case):
    with_header(tmp_path / "file", HEADERS[case])
    with pytest.raises(DataError, match="was not written by distill data prepare"):
        Packed(str(tmp_path / "file"))


def test_other_files_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    (tmp_path / "empty").touch()
    for name in ("weights.safetensors", "empty"):
        with pytest.raises(DataError, match="was not written by distill data prepare"):
            Packed(str(tmp_path / name))
    for name, part in (("nowhere", "there is no such file"), (".", "not a file")):
        with pytest.raises(DataError, match=part):
            Packed(str(tmp_path / name))
    with pytest.raises(DataError, match=r"needs data\.root=FILE"):
        Packed()
    with_header(tmp_path / "later", json.dumps({"__metadata__": metadata(version="2")}).encode())
    with pytest.raises(DataError, match="has version 2 of this format, and version 1 is read here"):
        Packed(str(tmp_path / "later"))


# going on


def break_picture(path: Path) -> bytes:
    """Cut short behind its header. Returns what it was."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return content


def test_bad_pictures_are_all_named_and_after_mending_them_only_these_are_packed(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    expected = packed(root, tmp_path / "whole").read_bytes()
    first, second = root / "train" / "dog" / "1.png", root / "test" / "cat" / "0.png"
    content, other = break_picture(first), second.read_bytes()
    second.write_bytes(b"")  # not even a size
    plan = plan_of(root, 24)
    assert begin(plan, target) == 0
    bad = pack(plan, target)
    assert [bad[row].split(":")[0] for row in sorted(bad)] == [f"can't read the picture {first}", f"can't read the picture {second}"]
    assert not target.exists()
    first.write_bytes(content)
    second.write_bytes(other)
    told, plan = [], plan_of(root, 24)
    assert begin(plan, target) == 17
    assert pack(plan, target, progress=told.append) == {}
    assert sum(told) == 2
    assert target.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "pictures", "whole"]


def test_pictures_that_are_added_find_their_places_among_those_that_are_packed(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    content = break_picture(root / "val" / "dog" / "2.png")
    plan = plan_of(root, 24)
    begin(plan, target)
    pack(plan, target)
    (root / "val" / "dog" / "2.png").write_bytes(content)
    save(root / "train" / "cat" / "00.png", noise(50, 40, 77))
    assert begin(plan_of(root, 24), target) == 18
    told = []
    pack(plan_of(root, 24), target, progress=told.append)
    assert sum(told) == 2
    assert target.read_bytes() == packed(root, tmp_path / "whole").read_bytes()


def unfinished(root: Path, target: Path) -> None:
    break_picture(root / "val" / "dog" / "2.png")
    plan = plan_of(root, 24)
    begin(plan, target)
    assert len(pack(plan, target)) == 1


def test_going_on_with_other_settings_or_other_pictures_is_refused(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    unfinished(root, target)
    with pytest.raises(DataError, match=r"packed.partial was begun with --size 24 \(now 25\); go on with that, or remove it"):
        begin(plan_of(root, 25), target)
    with pytest.raises(DataError, match=r"--square: False \(now True\)"):
        begin(plan_of(root, 24, square=True), target)
    save(root / "train" / "cat" / "0.png", noise(9, 9, 3))
    with pytest.raises(DataError, match="1 of the 18 that are packed have changed since, or are not in the folder any more"):
        begin(plan_of(root, 24), target)


def test_partial_file_that_is_damaged_is_refused(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    partial_path(target).write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"packed\.partial was not written by .*; or remove it to begin again"):
        begin(plan_of(root, 24), target)


def test_pixels_that_changed_on_the_disk_are_packed_again(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    expected = packed(root, tmp_path / "whole").read_bytes()
    content = (root / "val" / "dog" / "2.png").read_bytes()
    unfinished(root, target)
    partial = partial_path(target)
    layout = read_packed_file(partial).layout
    place = layout.place("pixels") + int(layout.tables["offset"][5])
    altered = bytearray(partial.read_bytes())
    altered[place] ^= 4
    partial.write_bytes(altered)
    (root / "val" / "dog" / "2.png").write_bytes(content)
    plan = plan_of(root, 24)
    assert begin(plan, target) == 18
    told = []
    assert discard_damaged(target, told.append) == 1
    assert sum(told) == 19
    pack(plan, target)
    assert target.read_bytes() == expected
    begin(plan, target)
    assert discard_damaged(target) == 0


def test_picture_that_decodes_to_another_size_than_its_header_says_is_bad(tmp_path):
    class Wider(Decoder):
        def __call__(self, content, name):
            picture = super().__call__(content, name)
            return torch.cat([picture, picture], dim=2) if name.endswith("cat/1.png") else picture

    plan = plan_of(mixed(tmp_path / "pictures"), 24, decoder=Wider("pillow"))
    begin(plan, tmp_path / "packed")
    bad = pack(plan, tmp_path / "packed")
    assert len(bad) == 3
    assert all("its header says" in text for text in bad.values())


# left out


def test_bad_pictures_are_left_out_and_the_others_keep_parts_and_ids(tmp_path):
    root = equal(tmp_path / "pictures")
    folder = ImageFolder(str(root))
    break_picture(root / "cat" / "03.png")
    (root / "dog" / "05.png").write_bytes(b"")
    path = packed(root, tmp_path / "packed", 500, skip=True)
    source = Packed(str(path))
    missing = {3, 15}
    for name in PARTS:
        ids = getattr(folder, name).sample_ids
        assert getattr(source, name).sample_ids.tolist() == [each for each in ids.tolist() if each not in missing]
    assert source.note == f"{folder.note}; 2 pictures could not be read when they were packed, and are left out"
    assert source.train.pixels is not None  # the place of the first is there, and is passed over
    by_id = {
        int(each): part.picture(position)
        for part in (folder.train, folder.val, folder.test)
        for position, each in enumerate(part.sample_ids)
        if int(each) not in missing
    }
    for part in (source.train, source.val, source.test):
        assert all(torch.equal(part.picture(position), by_id[int(each)]) for position, each in enumerate(part.sample_ids))
    found = read_packed_file(path)
    assert np.flatnonzero(found.filled == LEFT_OUT).tolist() == [3, 15]
    assert (found.filled == FILLED).sum() == 21
    listing = list_pictures(root)
    assert is_packed_already(listing, settings_for(500, False, PILLOW), path)


def test_class_none_of_whose_pictures_can_be_read_is_an_error(tmp_path):
    root = mixed(tmp_path / "pictures")
    for path in (root / "val" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the pictures of class 'dog' in val can be read"):
        packed(root, tmp_path / "packed", skip=True)


def test_file_with_pictures_still_to_be_packed_is_no_source(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    unfinished(root, target)
    with pytest.raises(DataError, match="is not whole: 1 of its 19 pictures are still to be packed; distill data prepare goes on"):
        Packed(str(partial_path(target)))


def test_other_file_in_the_place_is_not_written_over(tmp_path):
    root, target = mixed(tmp_path / "pictures"), tmp_path / "packed"
    listing, settings = list_pictures(root), settings_for(24, False, PILLOW)
    assert not is_packed_already(listing, settings, target)
    packed(root, target)
    assert is_packed_already(listing, settings, target)
    with pytest.raises(DataError, match=r"is there already, and has --size 24 \(now 9\); remove it, or choose another file: -o FILE"):
        is_packed_already(listing, settings_for(9, False, PILLOW), target)
    save(root / "train" / "cat" / "new.png", noise(9, 9, 3))
    with pytest.raises(DataError, match="has other pictures"):
        is_packed_already(list_pictures(root), settings, target)
    target.write_bytes(b"mine")
    with pytest.raises(DataError, match="was not written by distill data prepare"):
        is_packed_already(listing, settings, target)


def test_lone_bytes_in_names_are_packed_too(tmp_path):
    root = mixed(tmp_path / "pictures")
    file = io.BytesIO()
    noise(20, 20, 0).save(file, "PNG")
    (root / "train" / "dog" / b"\xff.png".decode(errors="surrogateescape")).write_bytes(file.getvalue())
    assert len(Packed(str(packed(root, tmp_path / "packed"))).train) == 8


def test_what_a_killed_packer_left_in_the_place_of_a_bad_picture_is_cleared(tmp_path):
    root, target = equal(tmp_path / "pictures"), tmp_path / "packed"
    break_picture(root / "cat" / "03.png")
    expected = packed(root, tmp_path / "whole", 500, skip=True).read_bytes()
    plan = plan_of(root, 500)
    begin(plan, target)
    with partial_path(target).open("r+b") as file:
        file.seek(plan.layout.place("pixels") + int(plan.layout.tables["offset"][3]))
        file.write(b"half a picture")
    assert len(pack(plan, target, on_bad_image="skip")) == 1
    assert target.read_bytes() == expected
