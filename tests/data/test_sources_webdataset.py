"""Tar files of pictures: any picture by itself, labels from .cls and .json, and every way in which a shard can be broken."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.sources import _shards
from distill.data.sources.webdataset import WebDataset
from distill.errors import DataError


def png(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    return file.getvalue()


def write(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def samples(shard: int, labels: list[int], ending: str = "cls") -> list[tuple[str, bytes]]:
    """A picture and a label for each; the picture's colour is (its label, the shard, its number in it)."""
    texts = [(str(label) if ending == "cls" else json.dumps({"label": label, "caption": "..."})).encode() for label in labels]
    return [
        member
        for number, label in enumerate(labels)
        for member in ((f"{shard}-{number:04}.png", png(label, shard, number)), (f"{shard}-{number:04}.{ending}", texts[number]))
    ]


def colours(source: WebDataset, part: str) -> list[tuple[int, ...]]:
    part = getattr(source, part)
    return [tuple(part.picture(position)[:, 0, 0].tolist()) for position in range(len(part))]


def three_parts(root: Path) -> Path:
    write(root / "train-000000.tar", samples(0, [1, 0, 1]))
    write(root / "train-000001.tar", samples(1, [0, 2], "json"))
    write(root / "val-000000.tar", samples(2, [2, 1, 0]))
    write(root / "test-000000.tar", samples(3, [0]))
    return root


def test_pictures_labels_and_ids_are_those_of_the_shards(tmp_path):
    source = WebDataset(str(three_parts(tmp_path)))
    assert source.class_names == ["0", "1", "2"]
    assert colours(source, "train") == [(1, 0, 0), (0, 0, 1), (1, 0, 2), (0, 1, 0), (2, 1, 1)]
    assert colours(source, "val") == [(2, 2, 0), (1, 2, 1), (0, 2, 2)]
    assert colours(source, "test") == [(0, 3, 0)]
    for part in (source.train, source.val, source.test):
        assert part.labels.tolist() == [int(part.picture(position)[0, 0, 0]) for position in range(len(part))]
        assert part.picture(0).shape == (3, 3, 4)
    assert [part.sample_ids.tolist() for part in (source.train, source.val, source.test)] == [[0, 1, 2, 3, 4], [5, 6, 7], [8]]
    assert (source.note, source.image_size, source.has_labels) == ("", 224, True)
    source.check()


def test_pictures_are_read_in_any_order_and_after_pickling(tmp_path):
    part = pickle.loads(pickle.dumps(WebDataset(str(three_parts(tmp_path))).train))
    assert [tuple(part.picture(position)[:, 0, 0].tolist()) for position in (4, 0, 3, 0)] == [(2, 1, 1), (1, 0, 0), (0, 1, 0), (1, 0, 0)]


@pytest.mark.parametrize(
    "train, val",
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("train/000.tar", "valid/000.tar"),
        ("a/train_0.tar", "a/val_0.tar"),
        ("retrained/train.tar", "retrained/val.tar"),  # "retrained" is not the word
        ("test/train-0.tar", "test/val-0.tar"),  # the nearest name counts
    ],
)
def test_part_is_said_by_the_name_or_the_folder(tmp_path, train, val):
    write(tmp_path / train, samples(0, [0, 1] * 10))
    write(tmp_path / val, samples(1, [0, 1]))
    source = WebDataset(str(tmp_path), val_fraction=0.2)
    assert colours(source, "test") == [(0, 1, 0), (1, 1, 1)]
    assert np.bincount(source.val.labels).tolist() == [2, 2]
    assert np.bincount(source.train.labels).tolist() == [8, 8]
    assert "20% of train" in source.note


def test_shards_without_a_part_are_cut_three_ways_and_always_alike(tmp_path):
    for shard in range(2):
        write(tmp_path / f"shard-{shard}.tar", samples(shard, [0, 1] * 10))
    source, again = WebDataset(str(tmp_path)), WebDataset(str(tmp_path))
    for name, each in (("train", 16), ("val", 2), ("test", 2)):
        part = getattr(source, name)
        assert np.bincount(part.labels).tolist() == [each, each]
        assert np.array_equal(part.sample_ids, getattr(again, name).sample_ids)
    ids = np.concatenate([source.train.sample_ids, source.val.sample_ids, source.test.sample_ids])
    assert np.sort(ids).tolist() == list(range(40))
    assert source.fingerprint() == again.fingerprint()


def test_classes_are_named_by_a_file(tmp_path):
    (three_parts(tmp_path) / "classes.txt").write_text("crane bird\ncat\r\ndög\n", encoding="utf-8")
    assert WebDataset(str(tmp_path)).class_names == ["crane bird", "cat", "dög"]


def test_folders_links_and_other_members_are_passed_over(tmp_path):
    three_parts(tmp_path)
    with tarfile.open(tmp_path / "test-000000.tar", "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "a"), (tarfile.SYMTYPE, "a/1.jpg"), (tarfile.FIFOTYPE, "a/2.jpg")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        for name, content in [("a/.hidden", b"x"), ("a/3.seg.png", b"not a picture"), ("a/3.PNG", png(2, 9, 9)), ("a/3.cls", b"2\n")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    source = WebDataset(str(tmp_path))
    assert colours(source, "test") == [(2, 9, 9)]
    assert source.test.labels.tolist() == [2]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_file_is_read_with_long_names_too(tmp_path, kind):
    three_parts(tmp_path)
    with tarfile.open(tmp_path / "test-000000.tar", "w", format=kind) as tar:
        for name, content in [("f" * 80 + "/" + "k" * 90 + ".png", png(1, 7, 7)), ("f" * 80 + "/" + "k" * 90 + ".cls", b"1")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    assert colours(WebDataset(str(tmp_path)), "test") == [(1, 7, 7)]


# what is kept of a shard


def test_shard_is_read_through_once(tmp_path, monkeypatch):
    first = WebDataset(str(three_parts(tmp_path)))
    monkeypatch.setattr(_shards, "_read", lambda *arguments: pytest.fail("read through again"))
    again = WebDataset(str(tmp_path))
    assert first.fingerprint() == again.fingerprint()
    assert colours(first, "train") == colours(again, "train")


def test_changed_shard_is_read_again_and_noticed(tmp_path):
    before = WebDataset(str(three_parts(tmp_path))).fingerprint()
    write(tmp_path / "train-000000.tar", samples(0, [1, 1, 0]))
    os.utime(tmp_path / "train-000000.tar", (1, 1))
    source = WebDataset(str(tmp_path))
    assert source.train.labels[:3].tolist() == [1, 1, 0]
    assert source.fingerprint() != before


def test_fingerprint_notices_another_picture_of_another_size(tmp_path):
    members = samples(3, [0])
    seen = []
    for content in (members[0][1], members[0][1] + b"\0"):
        write(three_parts(tmp_path) / "test-000000.tar", [(members[0][0], content), members[1]])
        os.utime(tmp_path / "test-000000.tar", (len(content), len(content)))
        seen.append(WebDataset(str(tmp_path)).fingerprint())
    assert seen[0] != seen[1]


@pytest.mark.parametrize("damage", [b"", b"nonsense", "cut", "outside", "pickle"])
def test_damaged_notes_about_a_shard_are_made_anew(tmp_path, damage):
    before = WebDataset(str(three_parts(tmp_path))).fingerprint()
    kept = list((tmp_path / "cache" / "data" / "shards").glob("*.npz"))
    assert len(kept) == 4
    for path in kept:
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-30])
        elif damage == "outside":
            np.savez(path, offsets=np.array([0]), sizes=np.array([10**9]), labels=np.array([0]))
        elif damage == "pickle":
            np.savez(path, offsets=np.array([None]), sizes=np.array([1]), labels=np.array([0]))
        else:
            path.write_bytes(damage)
    assert WebDataset(str(tmp_path)).fingerprint() == before


def test_cache_folder_that_can_not_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "taken"))
    assert len(WebDataset(str(three_parts(tmp_path / "shards"))).train) == 5


# what can't be used


def refusal(root: Path, **arguments) -> str:
    with pytest.raises(DataError) as caught:
        WebDataset(str(root), **arguments)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_root_is_needed_and_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"data\.source=webdataset needs data\.root=FOLDER"):
        WebDataset()
    assert "there is no such folder" in refusal(tmp_path / "nowhere")


def test_folder_without_shards_is_told_so(tmp_path):
    assert "has no shards in it (looked for *.tar)" in refusal(tmp_path)
    write(tmp_path / "train-0.tar.gz", samples(0, [0, 1]), "w:gz")
    assert "train-0.tar.gz is compressed: unpack the shards" in refusal(tmp_path)


def test_compressed_shard_under_a_plain_name_is_named(tmp_path):
    write(three_parts(tmp_path) / "train-000001.tar", samples(1, [0, 1]), "w:gz")
    message = refusal(tmp_path)
    assert "train-000001.tar" in message
    assert "not compressed" in message


@pytest.mark.parametrize("size", [0, 100, 512, 700, 1100, 1536, 2048, 3000])
def test_shard_cut_short_is_named(tmp_path, size):
    path = three_parts(tmp_path) / "train-000000.tar"
    content = path.read_bytes()
    assert content[6 * 1024 :] == bytes(len(content) - 6 * 1024)  # three samples of a header and a block for each of two members
    path.write_bytes(content[:size])
    message = refusal(tmp_path)
    assert "train-000000.tar" in message
    assert "fetch or make it anew" in message


def test_shard_whose_end_mark_is_missing_is_cut_short(tmp_path):
    path = three_parts(tmp_path) / "train-000000.tar"
    path.write_bytes(path.read_bytes()[: 6 * 1024])
    assert "train-000000.tar is cut short after 6,144 bytes" in refusal(tmp_path)


def test_shard_with_a_damaged_header_inside_is_not_taken_for_a_shorter_one(tmp_path):
    path = three_parts(tmp_path) / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[2048 + 150] ^= 0xFF  # the checksum in the second sample's first header
    path.write_bytes(content)
    assert "train-000000.tar is damaged after 2,048 bytes" in refusal(tmp_path)


def test_damage_anywhere_in_a_shard_is_a_data_error_or_other_content(tmp_path):
    path = three_parts(tmp_path) / "train-000000.tar"
    whole, dice, messages = path.read_bytes(), np.random.default_rng(0), []
    for time in range(60):
        content = bytearray(whole)
        content[dice.integers(6 * 1024)] ^= 1 << dice.integers(8)
        path.write_bytes(content)
        os.utime(path, (time, time))
        try:
            source = WebDataset(str(tmp_path))
            colours(source, "train")
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all("train-000000.tar" in message or "out of range" in message for message in messages)


@pytest.mark.parametrize(
    "members, part",
    [
        ([("a.png", png(0)), ("a.txt", b"a cat")], "sample 'a': it has no label"),
        ([("a.cls", b"1"), ("b.png", png(0)), ("b.cls", b"0")], "sample 'a': it has 0 pictures (.cls)"),
        ([("a.png", png(0)), ("a.jpg", png(0)), ("a.cls", b"1")], "sample 'a': it has 2 pictures (.png, .jpg, .cls)"),
        ([("a.png", png(0)), ("a.cls", b"cat")], "its .cls must be a whole number, got b'cat'"),
        ([("a.png", png(0)), ("a.cls", b"")], "its .cls must be a whole number, got b''"),
        ([("a.png", png(0)), ("a.cls", b"1" * 30)], "its .cls must be a whole number"),
        ([("a.png", png(0)), ("a.cls", b"1" * 5000)], "its .cls must be a whole number"),
        ([("a.png", png(0)), ("a.json", b'{"label": 1.5}')], 'its .json must be an object with a whole number as "label"'),
        ([("a.png", png(0)), ("a.json", b'{"label": true}')], "its .json must be"),
        ([("a.png", png(0)), ("a.json", b'{"cls": 1}')], "its .json must be"),
        ([("a.png", png(0)), ("a.json", b"[1]")], "its .json must be"),
        ([("a.png", png(0)), ("a.json", b"[" * 100_000)], "its .json must be"),
        ([("a.png", png(0)), ("a.json", b" " * (1 << 20) + b"{}")], "its .json is no label, but 1,048,578 bytes long"),
        ([("a.png", png(0)), ("a.pyd", pickle.dumps(1))], "it has no label"),
        ([("readme.txt", b"hello")], "sample 'readme': it has 0 pictures (.txt)"),
        ([], "has no pictures in it"),
    ],
)
def test_sample_that_is_none_is_named(tmp_path, members, part):
    write(three_parts(tmp_path) / "train-000000.tar", members)
    message = refusal(tmp_path)
    assert "train-000000.tar" in message
    assert part in message


@pytest.mark.parametrize("label", [-1, 3, 10**9])
def test_label_out_of_range_is_named(tmp_path, label):
    write(three_parts(tmp_path) / "val-000000.tar", [*samples(2, [0, 1]), ("x.png", png(0)), ("x.cls", str(label).encode())])
    message = refusal(tmp_path, num_classes=3)
    assert f"val-000000.tar: 1 label(s) are out of range, the first is {label}, of picture number 2" in message


def test_label_below_zero_is_refused_without_a_number_of_classes(tmp_path):
    write(three_parts(tmp_path) / "train-000000.tar", [("x.png", png(0)), ("x.cls", b"-1")])
    assert "the first is -1" in refusal(tmp_path)


def test_enormous_label_does_not_make_as_many_classes(tmp_path):
    write(three_parts(tmp_path) / "train-000000.tar", [("x.png", png(0)), ("x.cls", b"1000000000")])
    assert "a label is 1000000000; if there are so many classes" in refusal(tmp_path)


def test_number_of_classes_and_the_file_with_their_names_must_agree(tmp_path):
    (three_parts(tmp_path) / "classes.txt").write_text("a\nb\nc\n")
    assert "names 3 classes, and data.arguments.num_classes=4" in refusal(tmp_path, num_classes=4)
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    assert "it is a text in UTF-8" in refusal(tmp_path)


def test_shard_that_belongs_to_no_part_among_others_is_named(tmp_path):
    write(three_parts(tmp_path) / "extra.tar", samples(0, [0]))
    assert "does extra.tar belong to train, val or test? 4 other shards say it" in refusal(tmp_path)


def test_val_without_train_is_told(tmp_path):
    write(tmp_path / "val-0.tar", samples(0, [0, 1]))
    assert "has shards of val but none of train" in refusal(tmp_path)


def test_broken_picture_is_named_by_its_place(tmp_path):
    write(three_parts(tmp_path) / "test-000000.tar", [("x.png", png(0)), ("x.cls", b"0"), ("y.jpg", b"not a picture"), ("y.cls", b"1")])
    part = WebDataset(str(tmp_path)).test
    with pytest.raises(DataError, match=r"^can't read the picture number 1 in .*test-000000\.tar: it is none of JPEG, PNG"):
        part.picture(1)


def test_shard_that_shrinks_or_goes_while_in_use_is_a_data_error(tmp_path):
    part = WebDataset(str(three_parts(tmp_path))).test
    path = tmp_path / "test-000000.tar"
    path.write_bytes(path.read_bytes()[:530])
    with pytest.raises(DataError, match="the shard has become shorter"):
        part.picture(0)
    path.unlink()
    with pytest.raises(DataError, match=r"number 0 in .*test-000000\.tar: No such file"):
        part.picture(0)
