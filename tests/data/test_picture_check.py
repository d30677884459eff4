"""What `distill data check` finds: each kind of picture and folder that it knows, made here, and nothing where there is nothing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.class_folders import survey
from distill.data.decoding import pick_decoder
from distill.data.packing.check import damaged_pictures
from distill.data.packing.file import PackedFile, read_packed_file
from distill.data.packing.fill import pack
from distill.data.packing.plan import list_pictures, make_plan
from distill.data.packing.start import begin
from distill.data.picture_check import _KINDS, HARMS, NOTE, STOPS, Report, check_folder
from distill.data.sources.imagefolder import ImageFolder
from distill.errors import DataError

GENERATOR = np.random.default_rng(0)


def noise(height: int = 40, width: int = 48, channels: int = 3) -> Image.Image:
    """No two are equal."""
    pixels = GENERATOR.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def save(path: Path, picture: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or noise()).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three parts of two classes with ten plain photographs each."""
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for index in range(10):
                save(tmp_path / "pictures" / part / name / f"{index}.png")
    return tmp_path / "pictures"


def check(root: Path, workers: int = 0) -> Report:
    return check_folder(root, survey(root), pick_decoder("pillow"), workers=workers)


def found(report: Report) -> dict[str, list]:
    return {finding.kind: finding.found for finding in report.findings}


def test_good_folder_has_no_findings(root):
    report = check(root)
    assert report.findings == []
    assert not report.would_stop
    assert report.num_pictures == {"train": 20, "val": 20, "test": 20}
    assert report.num_classes == 2


def sixteen_bits_of_colour() -> bytes:
    """A PNG of 16 bits a channel, which Pillow can read and not write."""
    rows = b"".join(b"\0" + GENERATOR.integers(0, 256, 33 * 6, dtype=np.uint8).tobytes() for _ in range(33))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 33, 33, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(orientation: int) -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "greyscale": ("grey.png", encoded(noise(channels=1), "PNG")),
    "greyscale bits": ("bits.png", encoded(noise().convert("1"), "PNG")),
    "cmyk": ("inks.jpg", encoded(noise().convert("CMYK"), "JPEG")),
    "deep": ("deep.png", sixteen_bits_of_colour()),
    "transparent": ("glass.png", encoded(noise().convert("RGBA"), "PNG")),
    "transparent palette": ("glass.gif", encoded(noise().quantize(8), "GIF", transparency=1)),
    "animated": ("moving.gif", encoded(noise(), "GIF", save_all=True, append_images=[noise()])),
    "turned": ("lying.jpg", encoded(noise(), "JPEG", **turned(6))),
    "turned mirrored": ("mirrored.png", encoded(noise(), "PNG", **turned(2))),
    "turned tiff": ("lying.tif", encoded(noise(), "TIFF", tiffinfo={0x0112: 8})),
    "small": ("small.png", encoded(noise(height=31, width=400), "PNG")),
    "misnamed": ("really_a_jpeg.png", encoded(noise(), "JPEG")),
    "truncated": ("half.jpg", encoded(noise(), "JPEG")[:-400]),
    "truncated png": ("half.png", encoded(noise(), "PNG")[:-2000]),
    "broken": ("empty.png", b""),
    "broken text": ("page.jpg", b"<html>404 not found</html>"),
}


@pytest.mark.parametrize("case", FILES)
def test_picture_is_found_by_its_kind_and_only_by_that(root, case):
    name, content = FILES[case]
    (root / "train" / "dog" / name).write_bytes(content)
    report = check(root)
    assert found(report) == {case.split()[0]: [f"train/dog/{name}"]}
    assert report.would_stop == (case.split()[0] in ("truncated", "broken"))


@pytest.mark.parametrize("upright", [encoded(noise(), "JPEG", **turned(1)), encoded(noise(32, 32), "PNG"), encoded(noise(), "BMP")])
def test_plain_picture_is_not_found(root, upright):
    suffix = {b"\xff\xd8": "jpg", b"\x89P": "png", b"BM": "BMP"}[upright[:2]]
    (root / "train" / "dog" / f"plain.{suffix}").write_bytes(upright)
    assert found(check(root)) == {}


def test_picture_can_be_of_several_kinds(root):
    (root / "val" / "cat" / "grey.png").write_bytes(encoded(noise(10, 10, channels=1), "JPEG", **turned(3)))
    assert found(check(root)) == {kind: ["val/cat/grey.png"] for kind in ("greyscale", "turned", "small", "misnamed")}


def test_sixteen_bits_of_grey_are_both(root):
    save(root / "train" / "dog" / "scan.png", Image.fromarray(GENERATOR.integers(0, 2**16, (40, 40), dtype=np.uint16)))
    assert found(check(root)) == {kind: ["train/dog/scan.png"] for kind in ("greyscale", "deep")}


def test_thirty_two_bits_are_broken_for_training(root):
    save(root / "train" / "dog" / "height.tif", Image.fromarray(GENERATOR.random((40, 40), dtype=np.float32)))
    assert found(check(root)) == {"broken": ["train/dog/height.tif"]}


def test_picture_above_the_limit_is_broken_and_nothing_is_unpacked(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    save(root / "train" / "dog" / "huge.png", noise(80, 80))
    assert found(check(root)) == {"broken": ["train/dog/huge.png"]}


def test_equal_pixels_are_found_in_other_formats_and_under_the_worst_heading(root):
    same = [noise() for _ in range(3)]
    save(root / "train" / "cat" / "a.png", same[0])
    save(root / "train" / "cat" / "b.bmp", same[0])
    save(root / "train" / "cat" / "c.png", same[1])
    save(root / "train" / "dog" / "c.png", same[1])
    for place in ("train/dog/d.png", "train/dog/e.png", "val/cat/d.png"):
        save(root / place, same[2])
    report = check(root)
    assert found(report) == {
        "across_parts": [["train/dog/d.png", "train/dog/e.png", "val/cat/d.png"]],
        "across_classes": [["train/cat/c.png", "train/dog/c.png"]],
        "within_class": [["train/cat/a.png", "train/cat/b.bmp"]],
    }
    assert not report.would_stop
    assert {finding.severity for finding in report.findings} == {HARMS}


def test_equal_numbers_of_another_shape_are_no_duplicates(root):
    flat = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8)
    save(root / "train" / "cat" / "a.png", Image.fromarray(flat.reshape(40, 60, 3)))
    save(root / "train" / "cat" / "b.png", Image.fromarray(flat.reshape(60, 40, 3)))
    assert found(check(root)) == {}


def test_broken_pictures_are_no_duplicates_of_each_other(root):
    for name in ("a.png", "b.png"):
        (root / "train" / "cat" / name).write_bytes(b"")
    assert found(check(root)) == {"broken": ["train/cat/a.png", "train/cat/b.png"]}


def meaning(report: Report, kind: str) -> str:
    return next(finding.meaning for finding in report.findings if finding.kind == kind)


def test_duplicate_in_a_class_is_worse_where_parts_are_cut(root):
    for place in ("a.png", "b.png"):
        save(root / "train" / "cat" / place, Image.new("RGB", (40, 40)))
    assert "tested on" not in meaning(check(root), "within_class")
    for path in (root / "test").rglob("*.png"):
        path.unlink()
    for name in ("cat", "dog", ""):
        (root / "test" / name).rmdir()
    assert "one copy may be trained on and another one tested on" in meaning(check(root), "within_class")


def test_files_that_are_passed_over_are_named(root):
    (root / "train" / "cat" / "notes.txt").write_text("tabby")
    (root / "train" / "cat" / "._0.png").write_bytes(b"what macOS leaves beside a picture")
    (root / "train" / "README").write_text("cats and dogs")
    save(root / "train" / "loose.png")
    (root / "labels.csv").write_text("0,cat")
    assert sorted(found(check(root))["passed_over"]) == ["labels.csv", "train/README", "train/cat/._0.png", "train/cat/notes.txt", "train/loose.png"]
    assert not check(root).would_stop


def test_parts_with_other_classes_are_named(root):
    save(root / "val" / "eel" / "0.png")
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    (root / "test" / "dog").rmdir()
    report = check(root)
    assert found(report) == {"classes": ["val: eel is only there", "test: dog is missing"]}
    assert report.findings[0].severity == STOPS
    with pytest.raises(DataError):
        ImageFolder(str(root))


def test_classes_of_few_training_pictures_are_named(root):
    (root / "train" / "dog" / "9.png").unlink()
    for index in range(10, 30):
        save(root / "val" / "dog" / f"{index}.png")
    assert found(check(root)) == {"few": ["dog (9)"]}


@pytest.mark.parametrize("num", [1, 2])
def test_class_of_too_few_pictures_to_be_cut_would_stop_a_run(tmp_path, num):
    for name, many in (("cat", 12), ("dog", num)):
        for index in range(many):
            save(tmp_path / "pictures" / name / f"{index}.png")
    report = check(tmp_path / "pictures")
    assert report.would_stop
    assert found(report)["few"] == [f"dog ({num})"]
    assert "class 'dog' has 1 picture(s) left" in found(report)["unusable"][0]


def test_one_class_and_empty_classes_and_no_classes_would_stop_a_run(tmp_path):
    for index in range(10):
        save(tmp_path / "one" / "cat" / f"{index}.png")
    assert "only one class" in found(check(tmp_path / "one"))["unusable"][0]
    (tmp_path / "one" / "dog").mkdir()
    assert "no pictures" in found(check(tmp_path / "one"))["unusable"][0]
    (tmp_path / "none").mkdir()
    assert found(check(tmp_path / "none"))["unusable"]


def test_val_without_train_would_stop_a_run(root):
    (root / "train").rename(root / "trian")
    report = check(root)
    assert report.would_stop
    assert any("no train" in text for text in found(report)["unusable"])


def test_worst_findings_come_first(root):
    (root / "train" / "cat" / "empty.png").write_bytes(b"")
    save(root / "train" / "cat" / "grey.png", noise(channels=1))
    save(root / "train" / "cat" / "small.png", noise(8, 8))
    assert [finding.severity for finding in check(root).findings] == [STOPS, HARMS, NOTE]


def test_several_processes_find_the_same(root):
    for name, content in FILES.values():
        (root / "train" / "dog" / name).write_bytes(content)
    assert check(root, workers=2) == check(root)


def test_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "pictures.zip").touch()
    for name, part in (("nowhere", "no such folder"), ("pictures.zip", "a file, not a folder")):
        with pytest.raises(DataError, match=part):
            survey(tmp_path / name)


def test_training_pictures_without_classes_are_noted(root):
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(root / "train" / f"{path.parent.name}{path.name}")
    for name in ("cat", "dog"):
        (root / "train" / name).rmdir()
    report = check(root)
    assert [finding.kind for finding in report.findings] == ["unlabelled"]
    assert len(report.findings[0].found) == 20
    assert not report.would_stop
    assert report.num_pictures == {"train": 20, "val": 20, "test": 20}
    save(root / "train" / "a.png", Image.open(root / "val" / "dog" / "3.png"))
    assert found(check(root))["across_parts"] == [["train/a.png", "val/dog/3.png"]]


def packed(root: Path, target: Path) -> PackedFile:
    plan = make_plan(list_pictures(root), 32, square=False, decoder=pick_decoder("pillow"))
    begin(plan, target)
    assert pack(plan, target) == {}
    return read_packed_file(target)


def test_packed_file_is_whole_until_one_bit_of_a_picture_is_another(root, tmp_path):
    there = packed(root, tmp_path / "packed.safetensors")
    told = []
    assert damaged_pictures(there, told.append) == []
    assert sum(told) == 60
    content = bytearray(there.path.read_bytes())
    begin_of_25 = there.layout.place("pixels") + int(there.layout.tables["offset"][25])
    for place in (begin_of_25 - 1, begin_of_25, len(content) - 1):  # the last byte of row 24, the first of row 25, the last of all
        content[place] ^= 1
    there.path.write_bytes(content)
    assert damaged_pictures(read_packed_file(there.path)) == ["row 24 (val, cat)", "row 25 (val, cat)", "row 59 (test, dog)"]


def test_page_has_every_finding_with_its_severity():
    lines = (Path(__file__).parents[2] / "docs" / "data_check.md").read_text(encoding="utf-8").splitlines()
    told = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ") and "severity" not in line]
    assert told == [(title, severity) for severity, title, _ in _KINDS.values()]
