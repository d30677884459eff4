"""`distill data check`: what is printed, the JSON, the exit codes, and names that would command a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.decoding import pick_decoder
from distill.data.packing.file import PackedFile, read_packed_file
from distill.data.packing.fill import pack
from distill.data.packing.plan import list_pictures, make_plan
from distill.data.packing.start import begin


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def root() -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for index in range(10):
                Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return Path("pictures")


def test_good_folder_is_said_to_be_good_and_the_exit_code_is_0(distill, root):
    code, out, err = distill("data", "check", "pictures")
    assert (code, err) == (0, "")
    assert out == "pictures: 40 pictures of 2 classes (train 20, test 20)\n\nNothing to remark.\n"


def test_findings_are_printed_with_count_meaning_and_some_names(distill, root):
    for index in range(5):
        Image.fromarray(np.full((40, 40), index, dtype=np.uint8)).save(root / "train" / "cat" / f"grey{index}.png")
    code, out, err = distill("data", "check", "pictures", "--workers", "0")
    assert (code, err) == (0, "")
    assert (
        "\n5  greyscale\n"
        "  The one channel is used for red, green and blue.\n"
        "    train/cat/grey0.png\n    train/cat/grey1.png\n    train/cat/grey2.png\n"
        "    and 2 more (--json has all)\n"
        "\nNothing here would stop a training run.\n"
    ) in out
    assert max(map(len, out.splitlines())) <= 80


def test_what_would_stop_a_run_is_exit_code_3(distill, root):
    (root / "train" / "dog" / "empty.jpg").write_bytes(b"")
    code, out, err = distill("data", "check", "pictures")
    assert code == 3
    assert "1  broken\n" in out
    assert "    train/dog/empty.jpg\n" in out
    assert err == "error: a training run with pictures would stop: broken\n"
    assert max(map(len, out.splitlines())) <= 80


def test_json_has_every_name(distill, root):
    for index in range(5):
        Image.new("RGB", (40, 40), (9, 9, 9)).save(root / "train" / "cat" / f"same{index}.png")
    Image.new("RGB", (4, 4)).save(root / "test" / "cat" / "small.png")
    code, out, err = distill("data", "check", "pictures", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["num_pictures"] == {"train": 25, "test": 21}
    assert told["num_classes"] == 2
    assert told["would_stop"] is False
    assert {finding["kind"]: finding["found"] for finding in told["findings"]} == {
        "within_class": [[f"train/cat/same{index}.png" for index in range(5)]],
        "small": ["test/cat/small.png"],
    }


def test_json_comes_whole_where_a_run_would_stop(distill, root):
    (root / "train" / "dog" / "empty.jpg").write_bytes(b"")
    code, out, err = distill("data", "check", "pictures", "--json")
    assert code == 3
    assert json.loads(out)["would_stop"] is True
    assert err.startswith("error: ")


@pytest.mark.parametrize("name", ["\x1b[2J.png", "[red]x.png", ":smile:.png", "a\nb.png"])
def test_name_does_not_command_the_terminal(distill, root, name):
    (root / "train" / "dog" / name).write_bytes(b"")
    out = distill("data", "check", "pictures")[1]
    shown = name.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert f"    train/dog/{shown}\n" in out


def test_name_that_is_no_text_is_printed_and_is_in_the_json(distill, root):
    path = bytes(root.absolute() / "train" / "dog") + b"/\xff.png"
    Path(path.decode(errors="surrogateescape")).write_bytes(b"")
    assert r"train/dog/\udcff.png" in distill("data", "check", "pictures")[1]
    assert json.loads(distill("data", "check", "pictures", "--json")[1])["findings"][0]["found"] == ["train/dog/\udcff.png"]


@pytest.mark.parametrize("arguments, code, part", [(["nowhere"], 3, "no such folder"), (["pictures", "--workers", "-1"], 2, "--workers -1")])
def test_wrong_command_is_refused(distill, root, arguments, code, part):
    assert distill("data", "check", *arguments)[0] == code
    assert part in distill("data", "check", *arguments)[2]


def test_home_folder_may_be_abbreviated(distill, root, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert distill("data", "check", "~/pictures")[0] == 0


@pytest.fixture
def packed(root) -> PackedFile:
    plan = make_plan(list_pictures(root), 32, square=True, decoder=pick_decoder("pillow"))
    begin(plan, Path("packed.safetensors"))
    pack(plan, Path("packed.safetensors"))
    return read_packed_file(Path("packed.safetensors"))


def test_packed_file_is_checked_by_its_sums(distill, packed):
    assert distill("data", "check", "packed.safetensors") == (0, "packed.safetensors: 40 pictures, all as they were packed\n", "")
    content = bytearray(packed.path.read_bytes())
    content[-1] ^= 128
    packed.path.write_bytes(content)
    code, out, err = distill("data", "check", "packed.safetensors")
    assert (code, out) == (3, "")
    assert "1 of 40 pictures are not as they were packed; copy or pack it again:\n  row 39 (test, dog)" in err
    code, out, err = distill("data", "check", "packed.safetensors", "--json")
    assert code == 3
    assert json.loads(out) == {"file": "packed.safetensors", "num_pictures": 40, "num_missing": 0, "damaged": ["row 39 (test, dog)"]}


def test_packed_file_that_is_not_whole_is_said_to_be_so(distill, packed):
    content = bytearray(packed.path.read_bytes())
    content[packed.layout.place("filled") + 3] = 0
    packed.path.write_bytes(content)
    code, _, err = distill("data", "check", "packed.safetensors")
    assert code == 3
    assert "not whole: 1 of 40 pictures are still to be packed" in err


def test_other_file_is_no_packed_file(distill):
    Path("pictures.zip").write_bytes(b"PK" * 100)
    code, _, err = distill("data", "check", "pictures.zip")
    assert code == 3
    assert "pictures.zip was not written by distill data prepare" in err
