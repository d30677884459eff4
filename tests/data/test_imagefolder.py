"""Folders as people have them: every layout, every kind of picture, every mistake."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError


def fill(root: Path, part: str, classes: dict[str, int], colour: int = 0) -> None:
    """PNGs of 4x3 pixels whose colours tell them apart."""
    for red, (name, num) in enumerate(classes.items()):
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(num):
            Image.new("RGB", (4, 3), (red, colour, index)).save(folder / f"{index:02}.png")


def contents(source: ImageFolder) -> dict[str, list[tuple[int, ...]]]:
    """The colours of each part's pictures."""
    parts = {"train": source.train, "val": source.val, "test": source.test}
    return {name: [tuple(part.picture(i)[:, 0, 0].tolist()) for i in range(len(part))] for name, part in parts.items()}


def test_three_folders_are_the_three_parts(tmp_path):
    for colour, part in enumerate(("train", "val", "test")):
        fill(tmp_path, part, {"dog": 2 + colour, "cat": 1}, colour)
    source = ImageFolder(str(tmp_path))
    assert source.class_names == ["cat", "dog"]
    assert contents(source) == {
        "train": [(1, 0, 0), (0, 0, 0), (0, 0, 1)],
        "val": [(1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 1, 2)],
        "test": [(1, 2, 0), (0, 2, 0), (0, 2, 1), (0, 2, 2), (0, 2, 3)],
    }
    assert source.train.labels.tolist() == [0, 1, 1]
    assert np.concatenate([source.train.sample_ids, source.val.sample_ids, source.test.sample_ids]).tolist() == list(range(12))
    assert source.note == ""
    source.check()


@pytest.mark.parametrize("other, note", [("test", "val is 20% of train/"), ("val", "test is the folder val/; val is 20% of train/")])
def test_one_folder_beside_train_is_the_test_part_and_val_is_cut_from_train(tmp_path, other, note):
    fill(tmp_path, "train", {"cat": 10, "dog": 5})
    fill(tmp_path, other, {"cat": 2, "dog": 3}, colour=9)
    source = ImageFolder(str(tmp_path), val_fraction=0.2)
    shown = contents(source)
    assert shown["test"] == [(0, 9, 0), (0, 9, 1), (1, 9, 0), (1, 9, 1), (1, 9, 2)]
    assert np.bincount(source.val.labels).tolist() == [2, 1]
    assert sorted(shown["train"] + shown["val"]) == sorted([(0, 0, i) for i in range(10)] + [(1, 0, i) for i in range(5)])
    assert source.note.startswith(note)


def test_classes_only_are_cut_three_ways(tmp_path):
    fill(tmp_path, "", {"cat": 40, "dog": 20, "eel": 12})
    source = ImageFolder(str(tmp_path), val_fraction=0.25)
    assert [np.bincount(part.labels).tolist() for part in (source.test, source.val, source.train)] == [[10, 5, 3], [10, 5, 3], [20, 10, 6]]
    shown = contents(source)
    assert len(set(shown["train"] + shown["val"] + shown["test"])) == 72
    for name, part in (("train", source.train), ("val", source.val), ("test", source.test)):
        assert [colour[0] for colour in shown[name]] == part.labels.tolist()
    assert source.note == "val and test are 25% of the pictures each, set aside"


def test_a_tenth_is_a_tenth_of_all_pictures_for_val_as_for_test(tmp_path):
    fill(tmp_path, "", {"cat": 100, "dog": 100})
    source = ImageFolder(str(tmp_path))
    assert (len(source.train), len(source.val), len(source.test)) == (160, 20, 20)


def test_half_can_not_be_set_aside_twice(tmp_path):
    fill(tmp_path, "", {"cat": 10, "dog": 10})
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.5 .* less than 0\.5"):
        ImageFolder(str(tmp_path), val_fraction=0.5)
    fill(tmp_path / "split", "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "split", "test", {"cat": 1, "dog": 1})
    assert len(ImageFolder(str(tmp_path / "split"), val_fraction=0.5).val) == 10


def test_same_folder_gives_the_same_parts_in_any_order_of_creation(tmp_path):
    for root, order in ((tmp_path / "a", range(12)), (tmp_path / "b", reversed(range(12)))):
        for index in order:
            path = root / ("cat" if index % 2 else "dog") / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 3), (index, 0, 0)).save(path)
    first, again, elsewhere = (ImageFolder(str(root), val_fraction=0.2) for root in (tmp_path / "a", tmp_path / "a", tmp_path / "b"))
    assert contents(first) == contents(again) == contents(elsewhere)
    assert first.fingerprint() == again.fingerprint() == elsewhere.fingerprint()


def test_pictures_in_folders_below_a_class_count_and_other_files_do_not(tmp_path):
    fill(tmp_path, "train", {"cat": 3, "dog": 3})
    fill(tmp_path, "test", {"cat": 1, "dog": 1})
    fill(tmp_path, "train/cat", {"young": 2}, colour=5)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "cat" / "._00.png").write_bytes(b"what macOS leaves beside a picture")
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / "README").write_text("not a class")
    (tmp_path / "train" / "dog" / "02.png").rename(tmp_path / "train" / "dog" / "02.PNG")
    source = ImageFolder(str(tmp_path), val_fraction=0.3)
    assert source.class_names == ["cat", "dog"]
    assert collections.Counter(np.concatenate([source.train.labels, source.val.labels]).tolist()) == {0: 5, 1: 3}
    contents(source)


def test_picture_size_is_224_unless_said(tmp_path):
    fill(tmp_path, "", {"cat": 5, "dog": 5})
    assert ImageFolder(str(tmp_path)).image_size == 224
    assert ImageFolder(str(tmp_path), image_size=64).image_size == 64


def test_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    fill(tmp_path / "pictures", "", {"cat": 10, "dog": 10})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(ImageFolder("~/pictures").train) == 16


def read_one(tmp_path: Path, name: str, picture: Image.Image, **options) -> torch.Tensor:
    fill(tmp_path, "train", {"cat": 3, "dog": 3})
    fill(tmp_path, "test", {"cat": 1, "dog": 1})
    picture.save(tmp_path / "train" / "cat" / f"!{name}", **options)  # "!" sorts before the others: row 0
    source = ImageFolder(str(tmp_path), val_fraction=0.3)
    part = source.train if 0 in source.train.sample_ids else source.val
    return part.picture(part.sample_ids.tolist().index(0))


COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]], [[0, 0, 0], [255, 255, 0]]], dtype=np.uint8)  # [3, 2, 3]
RGB = Image.fromarray(COLOURS)


@pytest.mark.parametrize(
    "name, picture, tolerance",
    [
        ("a.png", RGB, 0),
        ("a.bmp", RGB, 0),
        ("a.tif", RGB, 0),
        ("a.ppm", RGB, 0),
        ("a.webp", RGB, 0),
        ("palette.png", RGB.quantize(8), 0),
        ("palette.gif", RGB.quantize(8), 0),
        ("alpha.png", RGB.convert("RGBA"), 0),
        ("inks.tif", RGB.convert("CMYK"), 1),
        ("inks.jpg", RGB.resize((32, 48), Image.Resampling.NEAREST).convert("CMYK"), 40),
        ("a.jpeg", RGB.resize((32, 48), Image.Resampling.NEAREST), 40),
    ],
)
def test_coloured_pictures_of_every_kind_have_three_channels(tmp_path, name, picture, tolerance):
    options = {"lossless": True} if name.endswith("webp") else {"quality": 100} if name.endswith(("jpg", "jpeg")) else {}
    pixels = read_one(tmp_path, name, picture, **options)
    assert pixels.shape == (3, picture.height, picture.width)
    assert pixels.dtype == torch.uint8
    centres = pixels[:, picture.height // 6 :: picture.height // 3, picture.width // 4 :: picture.width // 2]
    assert (centres.permute(1, 2, 0).int() - torch.from_numpy(COLOURS).int()).abs().max() <= tolerance


GREYS = np.array([[0, 1, 50], [128, 254, 255]], dtype=np.uint8)


@pytest.mark.parametrize(
    "name, picture",
    [
        ("grey.png", Image.fromarray(GREYS)),
        ("alpha.png", Image.fromarray(GREYS).convert("LA")),
        ("grey.pgm", Image.fromarray(GREYS)),
        ("deep.png", Image.fromarray(GREYS.astype(np.uint16) * 257)),  # 16 bits: 65535 is white, not 255
        ("deep.tif", Image.fromarray(GREYS.astype(np.uint16) * 257)),
    ],
)
def test_grey_pictures_have_three_equal_channels(tmp_path, name, picture):
    assert read_one(tmp_path, name, picture).tolist() == [GREYS.tolist()] * 3


def test_black_and_white_picture_is_read(tmp_path):
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1")
    assert read_one(tmp_path, "bits.png", bits).tolist() == [[[0, 255], [255, 0]]] * 3


def test_transparent_palette_is_read_without_a_warning(tmp_path):
    pixels = read_one(tmp_path, "glass.png", RGB.quantize(8), transparency=bytes([0, 100, 255]))  # warnings are errors
    assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(COLOURS))


@pytest.mark.parametrize("values", [np.array([[0, 70000]], dtype=np.int32), np.array([[0.0, 0.7]], dtype=np.float32)])
def test_picture_whose_white_is_unknown_is_refused_by_name(tmp_path, values):
    with pytest.raises(DataError, match=r"can't read the picture .*cat/!wide\.tif: it has 32-bit values"):
        read_one(tmp_path, "wide.tif", Image.fromarray(values))


def test_root_is_needed():
    with pytest.raises(DataError, match=r"needs data\.root=FOLDER"):
        ImageFolder()


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        ImageFolder(str(tmp_path / "nowhere"))


def test_file_in_place_of_a_folder_is_called_that(tmp_path):
    (tmp_path / "pictures.zip").touch()
    with pytest.raises(DataError, match=r"pictures\.zip: that is a file, not a folder"):
        ImageFolder(str(tmp_path / "pictures.zip"))


@pytest.mark.parametrize("part", ["", "train"])
def test_folder_without_classes_is_told_what_belongs_there(tmp_path, part):
    (tmp_path / part).mkdir(exist_ok=True)
    (tmp_path / part / "loose.png").touch()
    with pytest.raises(DataError, match="has no folders in it; put each class's pictures into a folder of its own"):
        ImageFolder(str(tmp_path))


def test_one_class_is_refused_by_the_check(tmp_path):
    fill(tmp_path, "", {"cat": 10})
    with pytest.raises(DataError, match=r"only one class \('cat'\)"):
        ImageFolder(str(tmp_path)).check()


# training pictures without labels


def fill_loose(root: Path, num: int, colour: int = 200) -> None:
    """Pictures directly in train/, all of one class as far as anybody knows."""
    (root / "train").mkdir(parents=True, exist_ok=True)
    for index in range(num):
        Image.new("RGB", (4, 3), (colour, colour, index)).save(root / "train" / f"{index:02}.png")


def test_loose_training_pictures_have_no_labels_and_the_others_keep_theirs(tmp_path):
    fill_loose(tmp_path, 5)
    fill(tmp_path, "val", {"cat": 2, "dog": 1}, colour=1)
    fill(tmp_path, "test", {"cat": 1, "dog": 2}, colour=2)
    source = ImageFolder(str(tmp_path))
    assert source.has_labels is False
    assert source.class_names == ["cat", "dog"]
    assert source.train.labels.tolist() == [-1] * 5
    assert contents(source) == {
        "train": [(200, 200, index) for index in range(5)],
        "val": [(0, 1, 0), (0, 1, 1), (1, 1, 0)],
        "test": [(0, 2, 0), (1, 2, 0), (1, 2, 1)],
    }
    assert (source.val.labels.tolist(), source.test.labels.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert np.concatenate([source.train.sample_ids, source.val.sample_ids, source.test.sample_ids]).tolist() == list(range(11))
    assert source.note == "train has no labels"
    source.check()


@pytest.mark.parametrize("other", ["val", "test"])
def test_without_labels_one_labelled_folder_gives_val_and_test(tmp_path, other):
    fill_loose(tmp_path, 3)
    fill(tmp_path, other, {"cat": 10, "dog": 5}, colour=1)
    source, again = (ImageFolder(str(tmp_path), val_fraction=0.2) for _ in range(2))
    assert np.bincount(source.val.labels).tolist() == [2, 1]
    assert np.bincount(source.test.labels).tolist() == [8, 4]
    shown = contents(source)
    assert shown == contents(again)
    assert sorted(shown["val"] + shown["test"]) == [(0, 1, index) for index in range(10)] + [(1, 1, index) for index in range(5)]
    assert shown["train"] == [(200, 200, index) for index in range(3)]
    assert source.note == f"train has no labels; val is 20% of {other}/, set aside, and test the rest of it"


def test_folder_with_labels_says_so(tmp_path):
    fill(tmp_path, "", {"cat": 5, "dog": 5})
    assert ImageFolder(str(tmp_path)).has_labels is True


def test_loose_pictures_beside_class_folders_are_passed_over(tmp_path):
    fill_loose(tmp_path, 2)
    fill(tmp_path, "train", {"cat": 5, "dog": 5})
    fill(tmp_path, "test", {"cat": 1, "dog": 1})
    source = ImageFolder(str(tmp_path))
    assert source.has_labels is True
    assert len(source.train) + len(source.val) == 10


def test_loose_training_pictures_alone_are_refused_with_both_ways_out(tmp_path):
    fill_loose(tmp_path, 5)
    with pytest.raises(
        DataError, match=r"train has no folders in it; put each class's pictures .* or, to train without labels, make .*val with such"
    ):
        ImageFolder(str(tmp_path))


def test_without_labels_val_and_test_must_have_the_same_classes(tmp_path):
    fill_loose(tmp_path, 5)
    fill(tmp_path, "val", {"cat": 2, "dog": 2})
    fill(tmp_path, "test", {"cat": 2, "eel": 2})
    with pytest.raises(DataError, match=r"test has other classes than .*val; missing there: dog; only there: eel"):
        ImageFolder(str(tmp_path))


def test_without_labels_a_class_too_small_to_be_cut_is_named(tmp_path):
    fill_loose(tmp_path, 5)
    fill(tmp_path, "val", {"cat": 9, "dog": 1})
    with pytest.raises(DataError, match="class 'dog' has 1 picture"):
        ImageFolder(str(tmp_path))


def test_labels_that_come_or_go_change_the_fingerprint(tmp_path):
    fill_loose(tmp_path, 2)
    fill(tmp_path, "val", {"cat": 9, "dog": 9})
    before = ImageFolder(str(tmp_path)).fingerprint()
    Image.new("RGB", (4, 3)).save(tmp_path / "train" / "02.png")
    more = ImageFolder(str(tmp_path)).fingerprint()
    fill(tmp_path, "train", {"cat": 3, "dog": 3})
    assert len({before, more, ImageFolder(str(tmp_path)).fingerprint()}) == 3


# what is refused


def test_other_classes_in_val_are_listed(tmp_path):
    fill(tmp_path, "train", {"cat": 3, "dog": 3})
    fill(tmp_path, "val", {"cat": 1, "eel": 1, "fox": 1})
    with pytest.raises(DataError, match="val has other classes than the training part; missing there: dog; only there: eel, fox"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_class_folder_without_pictures_is_named(tmp_path, part):
    fill(tmp_path, "train", {"cat": 3, "dog": 3})
    fill(tmp_path, "test", {"cat": 1, "dog": 1})
    for path in (tmp_path / part / "dog").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=rf"{part}/dog has no pictures \(looked for .*\.png"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize("others", [["val"], ["val", "test"]])
def test_val_without_train_is_told_where_train_belongs(tmp_path, others):
    for part in others:
        fill(tmp_path, part, {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match=f"has {' and '.join(others)} but no train"):
        ImageFolder(str(tmp_path))


@pytest.mark.parametrize("layout, num", [("classes", 1), ("classes", 2), ("train and test", 1)])
def test_class_with_too_few_pictures_to_cut_is_named(tmp_path, layout, num):
    fill(tmp_path, "" if layout == "classes" else "train", {"cat": 9, "dog": num})
    if layout != "classes":
        fill(tmp_path, "test", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="class 'dog' has 1 picture"):
        ImageFolder(str(tmp_path))


def test_three_pictures_of_a_class_are_enough(tmp_path):
    fill(tmp_path, "", {"cat": 3, "dog": 3})
    source = ImageFolder(str(tmp_path))
    assert [np.bincount(part.labels).tolist() for part in (source.train, source.val, source.test)] == [[1, 1]] * 3


def test_fingerprint_notices_what_changes_in_the_folder(tmp_path):
    fill(tmp_path, "", {"cat": 8, "dog": 8})
    seen = [ImageFolder(str(tmp_path)).fingerprint()]
    picture = tmp_path / "cat" / "03.png"

    picture.write_bytes(picture.read_bytes() + b"\0")  # its size
    seen.append(ImageFolder(str(tmp_path)).fingerprint())
    picture.rename(picture.with_name("03b.png"))  # its name
    seen.append(ImageFolder(str(tmp_path)).fingerprint())
    (tmp_path / "dog" / "03.png").rename(tmp_path / "cat" / "99.png")  # its label
    seen.append(ImageFolder(str(tmp_path)).fingerprint())
    (tmp_path / "dog").rename(tmp_path / "doe")  # its class's name
    seen.append(ImageFolder(str(tmp_path)).fingerprint())
    (tmp_path / "cat" / "99.png").unlink()
    seen.append(ImageFolder(str(tmp_path)).fingerprint())
    assert len(set(seen)) == 6


def test_fingerprint_does_not_depend_on_where_the_folder_lies(tmp_path):
    fill(tmp_path / "here", "", {"cat": 8, "dog": 8})
    before = ImageFolder(str(tmp_path / "here")).fingerprint()
    (tmp_path / "here").rename(tmp_path / "there")
    assert ImageFolder(str(tmp_path / "there")).fingerprint() == before
