"""`distill data prepare`: what is said and written, pictures that can't be read, kills, full disks, two packers, and training on the file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import check_failure
from runs import contents

from distill.data.packing.file import FILLED, read_packed_file
from distill.data.packing.fill import only_packer
from distill.errors import DataError
from distill.report.runs import read_arrays

HERE = Path(__file__).resolve().parent
TRAIN = ["train", "--recipe", "smoke", "student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "control=false", "teacher.check=false"]
TRAIN += ["train.precision=fp32", "data.image_size=32", "data.workers=0", "data.global_batch_size=4"]


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def root() -> Path:
    """Three parts of two classes; wide pictures, and in test one that is not."""
    chance = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for index in range(5):
                height = 50 if (part, name, index) == ("test", "dog", 4) else 40
                Image.fromarray(chance.integers(0, 256, (height, 60, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return Path("pictures")


def subprocess_environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}


def test_size_and_room_are_said_first_and_the_file_last(distill, root):
    code, out, err = distill("data", "prepare", "pictures", "--size", "32")
    assert code == 0, err
    # 29 of 32 x 48, one of 32 x 38, and the tables
    assert err.startswith("30 pictures of 2 classes will take 143 KB in pictures-32.safetensors; the disk has ")
    assert out == (
        "pictures-32.safetensors: 30 pictures of 2 classes, 143 KB\ntrain on it with data.source=packed data.root=pictures-32.safetensors\n"
    )
    assert sorted(path.name for path in Path().glob("*pictures-*") if path.suffix != ".lock") == ["pictures-32.safetensors"]
    before = Path("pictures-32.safetensors").stat().st_mtime_ns
    assert distill("data", "prepare", "pictures", "--size", "32") == (0, out, "")
    assert Path("pictures-32.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("options, name", [([], "pictures-256.safetensors"), (["--size", "8", "--square"], "pictures-8-square.safetensors")])
def test_file_is_named_for_what_is_in_it(distill, root, options, name, monkeypatch):
    monkeypatch.chdir("pictures")
    assert distill("data", "prepare", ".", *options)[0] == 0
    assert Path(name).is_file()


@pytest.mark.parametrize("options", [["--square"], []])
def test_training_on_the_file_is_training_on_the_folder(distill, root, options):
    """Nothing is resized where all of 40 pixels is kept, and squares of 32 are what evaluation shows."""
    assert distill("data", "prepare", "pictures", "--size", "40", *options, "-o", "packed", "--decoder", "pillow")[0] == 0
    crop = [] if options else ["data.augment.crop=random_resized"]
    code, _, err = distill(*TRAIN, *crop, "data.source=packed", "data.root=packed", "run_name=packed", "train.max_steps=2")
    assert code == 0, err
    assert Path("runs/packed/student.safetensors").is_file()
    if not options:
        there = ["data.source=imagefolder", "data.root=pictures", "data.arguments={decoder: pillow}"]
        code, _, err = distill(*TRAIN, *crop, *there, "run_name=folder", "train.max_steps=2")
        assert code == 0, err
        ours, theirs = contents("runs/packed"), contents("runs/folder")
        assert all(ours[name] == theirs[name] for name in ("student.safetensors", "metrics.jsonl"))
        ours, theirs = (read_arrays(Path(f"runs/{name}/predictions.npz")) for name in ("packed", "folder"))
        assert ours.keys() == theirs.keys()
        for name in ours:  # the last test picture was resized twice
            np.testing.assert_array_equal(ours[name][:-1], theirs[name][:-1])


def test_training_on_a_file_in_worker_processes(distill, root):
    assert distill("data", "prepare", "pictures", "--size", "40", "-o", "packed")[0] == 0
    code, _, err = distill(*TRAIN, "data.source=packed", "data.root=packed", "data.workers=1", "data.augment.crop=random_resized")
    assert code == 0, err


@pytest.mark.parametrize("damage, part", [("cut", "was not copied whole"), ("foreign", "was not written by"), ("away", "there is no such file")])
def test_training_on_a_file_that_is_no_good_is_refused(distill, root, damage, part):
    assert distill("data", "prepare", "pictures", "--size", "16", "-o", "packed")[0] == 0
    content = Path("packed").read_bytes()
    Path("packed").unlink()
    if damage != "away":
        Path("packed").write_bytes(content[:-1] if damage == "cut" else b"PK" * 3000)
    code, _, err = distill(*TRAIN, "data.source=packed", "data.root=packed")
    check_failure(code, err, 3, ["packed", part])


def test_pictures_that_cannot_be_read_are_all_named_and_after_mending_the_same_command_ends_well(distill, root):
    command = ["data", "prepare", "pictures", "--size", "32", "-o", "packed"]
    assert distill(*command)[0] == 0
    expected = Path("packed").read_bytes()
    Path("packed").unlink()
    bad = [root / "train" / "cat" / "1.png", root / "val" / "dog" / "4.png"]
    whole = [path.read_bytes() for path in bad]
    bad[0].write_bytes(whole[0][:5000])
    bad[1].write_bytes(b"")
    code, out, err = distill(*command)
    assert (code, out) == (3, "")
    assert "error: 2 of 30 pictures can't be read, and packed is not finished; mend or remove them and give the same command again" in err
    assert [line.split(": ")[0] for line in err.splitlines()[-2:]] == [f"  can't read the picture {path}" for path in bad]
    assert not Path("packed").exists()
    assert distill(*command)[0] == 3
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content)
    code, _, err = distill(*command)
    assert code == 0, err
    assert "going on with a file that has 28 of them" in err
    assert Path("packed").read_bytes() == expected


def test_pictures_that_cannot_be_read_may_be_left_out(distill, root):
    (root / "train" / "cat" / "x\x1b[2J.png").write_bytes(b"")
    code, out, err = distill("data", "prepare", "pictures", "--size", "32", "-o", "packed", "--on-bad-image", "skip")
    assert code == 0
    assert r"1 of 31 pictures can't be read, and are left out:" in err
    assert r"  can't read the picture pictures/train/cat/x\x1b[2J.png: " in err
    expected = "packed: 30 pictures of 2 classes, 143 KB (1 that can't be read are left out)\ntrain on it with data.source=packed data.root=packed\n"
    assert out == expected
    assert distill("data", "prepare", "pictures", "--size", "32", "-o", "packed") == (0, expected, "")


def test_damage_to_what_was_packed_is_mended_when_going_on(distill, root):
    command = ["data", "prepare", "pictures", "--size", "32", "-o", "packed"]
    path = root / "train" / "cat" / "1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert distill(*command)[0] == 3
    path.write_bytes(whole)
    content = bytearray(Path("packed.partial").read_bytes())
    content[-1] ^= 1
    Path("packed.partial").write_bytes(content)
    code, _, err = distill(*command)
    assert code == 0
    assert "1 of these are not as they were packed, and are packed again: is the disk sound?" in err
    assert distill("data", "check", "packed") == (0, "packed: 30 pictures, all as they were packed\n", "")


def test_too_little_room_is_said_before_anything_is_written(distill, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**5, 10**5))
    code, _, err = distill("data", "prepare", "pictures", "--size", "32", "-o", "packed")
    check_failure(code, err, 3, ["30 pictures would take 143 KB in packed; the disk has 100 KB free: 43 KB too little"])
    assert not list(Path().glob("packed*"))


def test_second_packer_of_the_same_file_is_refused(distill, root):
    with only_packer(Path("packed")):
        code, _, err = distill("data", "prepare", "pictures", "-o", "packed")
        check_failure(code, err, 3, ["another process is packing pictures into packed; wait for it, or choose another file: -o FILE"])
        assert distill("data", "prepare", "pictures", "-o", "other")[0] == 0
    with only_packer(Path("packed")):
        pass
    with pytest.raises(DataError), only_packer(Path("packed")), only_packer(Path("packed")):
        pass
    assert distill("data", "prepare", "pictures", "-o", "packed")[0] == 0


REFUSED = {
    "no such folder": (["nowhere"], 3, "nowhere: there is no such folder"),
    "a file": (["notes.txt"], 3, "notes.txt: that is a file, not a folder"),
    "a folder without classes": (["empty"], 3, "empty has no folders in it"),
    "a folder as the file": (["pictures", "-o", "empty"], 3, "empty is a folder; name the file in it: -o empty/pictures-256.safetensors"),
    "another file in the place": (["pictures", "-o", "notes.txt"], 3, "notes.txt was not written by distill data prepare"),
    "below a file": (["pictures", "-o", "notes.txt/packed"], 3, "can't write to notes.txt"),
    "a size of nothing": (["pictures", "--size", "0"], 2, "--size 0: a number of pixels, such as 256"),
    "fewer than no processes": (["pictures", "--workers", "-1"], 2, "--workers -1: a number of processes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_command_is_refused(distill, root, case):
    Path("empty").mkdir()
    Path("notes.txt").write_text("mine")
    arguments, expected, part = REFUSED[case]
    code, _, err = distill("data", "prepare", *arguments)
    check_failure(code, err, expected, [part])
    assert Path("notes.txt").read_text() == "mine"
    assert not list(Path().glob("*.partial"))


def test_folder_that_may_not_be_written_to_is_explained(distill, root, monkeypatch):
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    code, _, err = distill("data", "prepare", "pictures", "-o", "packed")
    check_failure(code, err, 3, ["can't write to .: Permission denied; choose another place: -o FILE"])


def test_packer_that_is_killed_before_any_change_to_the_disk_ends_with_the_same_bytes(tmp_path):
    command = [sys.executable, str(HERE / "packing_kills.py"), "--every", "4"]
    result = subprocess.run(command, env=subprocess_environment(), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "are equal, byte for byte" in result.stdout


def test_packer_with_processes_that_is_killed_leaves_none_of_them_and_goes_on(distill, root):
    assert distill("data", "prepare", "pictures", "--size", "32", "-o", "whole", "--workers", "0")[0] == 0
    code = "from distill import cli; from distill.data.packing import fill, marks; "
    code += "marks._SECONDS_BETWEEN_MARKS = 0.0; fill._PICTURES_AT_ONCE = 1; "
    code += "cli.main(['data', 'prepare', 'pictures', '--size', '32', '-o', 'packed', '--workers', '1'])"
    packer = subprocess.Popen([sys.executable, "-c", code], env=subprocess_environment(), start_new_session=True)
    while not (Path("packed.partial").exists() and (read_packed_file(Path("packed.partial")).filled == FILLED).any()):
        assert packer.poll() is None
        time.sleep(0.001)
    packer.send_signal(signal.SIGKILL)
    packer.wait()
    begun = time.monotonic()
    while _is_any_alive(packer.pid):
        assert time.monotonic() - begun < 60, "the packer's own processes live on"
        time.sleep(0.01)
    code, _, err = distill("data", "prepare", "pictures", "--size", "32", "-o", "packed", "--workers", "0")
    assert code == 0, err
    assert "going on with a file that has" in err
    assert Path("packed").read_bytes() == Path("whole").read_bytes()


def _is_any_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of memory, as Linux does it")
def test_disks_that_are_full_or_read_only_for_real(tmp_path):
    """In a name space of its own, so that no root is needed."""
    command = ["unshare", "--map-root-user", "--mount", sys.executable, str(HERE / "packing_small_disk.py")]
    result = subprocess.run(command, env=subprocess_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all as it should be" in result.stdout
