"""Whole jobs with a teacher cache: the numbers are those of a live teacher, everything is asked for once, and what goes wrong is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL, contents, metrics
from test_processes import ONE, TORCHRUN, run

from distill.engine.teacher_cache import is_compared
from distill.models.weight_files import save_weights
from distill.models.zoo import create_model

HERE = Path(__file__).resolve().parent
KD = [*SMALL, "teacher.weights=teacher.safetensors", "train.max_steps=null"]
RESNETS = ["student.model=resnet18", "teacher.model=resnet18"]


@pytest.fixture(autouse=True)
def teacher_weights():
    """Of both teachers that are used here, from a seed: what they say is as good as random, and that does not matter."""
    for name, path in (("timm/test_resnet", "teacher.safetensors"), ("resnet18", "resnet.safetensors")):
        torch.manual_seed(0)
        save_weights(create_model(name, num_classes=4).state_dict(), path, {"model": name})


def train(distill, name: str, *overrides: str) -> str:
    code, _, err = distill("train", *KD, f"run_name={name}", *overrides)
    assert code == 0, err
    return err


def counts(name: str) -> tuple[int, int]:
    found = json.loads((Path("runs") / name / "summary.json").read_text())["teacher"]["answers"]
    return found["num_asked"], found["num_read"]


# ---------------------------------------------------------------- exactness


def test_fifty_steps_with_a_cache_in_fp32_are_those_with_a_live_teacher_bit_for_bit(distill):
    options = [*RESNETS, "teacher.weights=resnet.safetensors", "train.epochs=10", "train.log_every=1", "train.max_steps=50"]
    options += ["data.views=5", "losses.rkd={weight: 1, layers: [pooled]}"]
    kept = ["teacher.cache.format=fp32", "teacher.cache.features=[pooled]", "teacher.cache.use=on"]
    train(distill, "live", *options, "teacher.cache.use=off")
    train(distill, "filling", *options, *kept)
    train(distill, "reading", *options, *kept)
    assert (counts("live"), counts("filling"), counts("reading")) == ((0, 0), (200, 200), (0, 400))
    assert len([line for line in metrics("runs/live") if line["event"] == "train"]) == 50
    assert contents("runs/filling") == contents("runs/live")
    assert contents("runs/reading") == contents("runs/live")


@pytest.mark.parametrize("mixing", [["data.augment.mixup=0.4"], ["data.augment.cutmix=1.0"], ["data.augment.mixup=0.8", "data.augment.cutmix=1.0"]])
def test_answers_to_mixed_pictures_are_kept_exactly(distill, mixing):
    options = [*mixing, "train.epochs=2"]
    train(distill, "live", *options, "teacher.cache.use=off")
    train(distill, "filling", *options, "teacher.cache.format=fp32")
    train(distill, "reading", *options, "teacher.cache.format=fp32")
    assert (counts("filling"), counts("reading")) == ((80, 0), (0, 80))
    assert contents("runs/filling") == contents("runs/reading") == contents("runs/live")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_run_that_fills_equals_run_that_reads_in_each_precision(distill, precision):
    """And where the teacher computes in bf16 or in fp64, the answers that are kept by default are the live ones."""
    options = ["train.epochs=2", f"train.precision={precision}"]
    train(distill, "filling", *options)
    train(distill, "reading", *options)
    train(distill, "live", *options, "teacher.cache.use=off")
    assert counts("reading") == (0, 80)
    assert contents("runs/filling") == contents("runs/reading")
    assert (contents("runs/live") == contents("runs/reading")) == (precision != "fp32")


# ---------------------------------------------------------------- asked once


def test_views_that_come_round_are_asked_for_once(distill):
    train(distill, "one", "data.views=2", "train.epochs=4")
    assert counts("one") == (2 * 40, 2 * 40)


def test_other_seeds_students_losses_and_batches_read_what_the_first_run_asked(distill):
    train(distill, "first", "train.epochs=2")
    others = [["seed=1"], ["student.model=resnet18"], ["losses.dkd.weight=1"], ["data.global_batch_size=10"], ["train.lr=0.2"]]
    for number, override in enumerate(others):
        err = train(distill, f"other{number}", "train.epochs=2", *override)
        assert counts(f"other{number}") == (0, 80), override
        assert "80 of 80 are there" in err
    train(distill, "longer", "train.epochs=3", "seed=5")
    assert counts("longer") == (40, 80)


@pytest.mark.slow
def test_sweep_of_five_seeds_and_four_views_on_the_sample_asks_for_each_picture_of_each_view_once(distill):
    options = ["data.source=sample", "~data.arguments", "data.views=4", "train.epochs=8", "data.global_batch_size=100"]
    torch.manual_seed(0)
    save_weights(create_model("timm/test_resnet", num_classes=10).state_dict(), "teacher.safetensors", {"model": "timm/test_resnet"})
    for seed in range(5):
        train(distill, f"seed{seed}", *options, f"seed={seed}")
    found = json.loads(Path("runs/seed0/summary.json").read_text())
    num = found["data"]["num_train"]
    asked, read = zip(*(counts(f"seed{seed}") for seed in range(5)), strict=True)
    seen = sum(asked) + sum(read)
    assert sum(asked) == 4 * num
    assert seen == 5 * 8 * (num // 100) * 100 or seen == 5 * 8 * num


def test_two_processes_share_a_cache_with_each_other_and_with_one():
    arguments = [*KD, "train.epochs=2", "data.views=2", "teacher.cache.folder=answers"]
    run(TORCHRUN, *arguments, "run_name=two")
    assert counts("two") == (80, 0)
    run(ONE, *arguments, "run_name=one")
    assert counts("one") == (0, 80)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_runs_that_were_killed_while_they_filled_a_cache_go_on_to_equal_students(precision):
    """The short form of the campaign."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}
    command = [sys.executable, str(HERE / "cache_kills.py"), "--kills", "1", "--precision", precision]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kills: 0 wrong answers, 0 students that are not equal" in result.stdout


# ---------------------------------------------------------------- what is not as it should be


def test_another_teacher_view_seed_or_size_in_a_named_folder_stops_the_job_with_what_differs(distill):
    fixed = ["teacher.cache.folder=answers", "train.epochs=1"]
    train(distill, "first", *fixed)
    torch.manual_seed(1)
    save_weights(create_model("timm/test_resnet", num_classes=4).state_dict(), "other.safetensors", {"model": "timm/test_resnet"})
    changes = {"teacher's weights": "teacher.weights=other.safetensors", "view_seed": "data.view_seed=1", "views": "data.image_size=40"}
    for number, (name, change) in enumerate(changes.items()):
        code, _, err = distill("train", *KD, *fixed, f"run_name=other{number}", change)
        assert code == 3
        assert "the teacher cache answers holds other answers than this run needs" in err
        assert f"  {name}: " in err
        assert "Traceback" not in err


def test_damaged_answers_are_said_asked_for_again_and_rewritten(distill):
    options = ["teacher.cache.folder=answers", "train.epochs=2"]
    train(distill, "first", *options)
    path = Path("answers/view_00001.safetensors")
    content = bytearray(path.read_bytes())
    for row in (3, 17):
        content[-(40 * 19) + 8 * row] ^= 4  # logits of 8 bytes come first
    path.write_bytes(content)
    err = train(distill, "second", *options)
    assert f"teacher cache: 2 answers in {path} are damaged; the teacher is asked for them again" in err
    assert counts("second") == (2, 78)
    assert "damaged" not in train(distill, "third", *options)
    assert counts("third") == (0, 80)


def test_view_file_that_is_cut_short_stops_the_job_with_its_name(distill):
    options = ["teacher.cache.folder=answers", "train.epochs=2"]
    train(distill, "first", *options)
    path = Path("answers/view_00001.safetensors")
    os.truncate(path, path.stat().st_size - 1)
    code, _, err = distill("train", *KD, *options, "run_name=second")
    assert code == 3
    assert f"{path} has" in err
    assert "it is cut short; remove the file, and it is made anew" in err
    path.unlink()
    train(distill, "third", *options)
    assert counts("third") == (40, 40)


def test_picture_that_changed_in_its_folder_under_its_name_is_an_error_that_names_the_sample(distill):
    """Bitmaps: whatever is in them, they have the same size."""
    sample = int(np.flatnonzero(is_compared(np.arange(4096), 0))[0])
    number = max(40, sample + 1)
    generator = np.random.default_rng(0)
    for index in range(number):
        for part, name in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
            if part == "train" or index < 4:
                Path(f"pictures/{part}/{name}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(f"pictures/{part}/{name}/{index:04}.bmp")
    save_weights(create_model("timm/test_resnet", num_classes=2).state_dict(), "teacher.safetensors", {"model": "timm/test_resnet"})
    options = ["data.source=imagefolder", "data.root=pictures", "data.image_size=32", "~data.arguments", "data.workers=0", "train.epochs=1"]
    train(distill, "first", *options)
    train(distill, "second", *options)
    asked, read = counts("second")
    assert asked == 0
    assert read == counts("first")[0]
    for path in Path("pictures/train").glob("*/*.bmp"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    code, _, err = distill("train", *KD, *options, "run_name=third")
    assert code == 3, err
    assert "is not the one that the teacher's kept answer is of: has its file changed" in err
    assert "the picture of sample " in err
    assert "Traceback" not in err
    train(distill, "fourth", *options, "teacher.cache.use=off")


def test_topk_with_losses_that_need_all_logits_stops_the_job_with_the_label(distill):
    for loss in ("dkd", "dist"):
        code, _, err = distill("train", *KD, f"run_name={loss}", "teacher.cache.format=topk", "teacher.cache.top_k=2", f"losses.{loss}.weight=1")
        assert code == 2
        assert f"losses.{loss} needs all of the teacher's logits, and teacher.cache.format=topk keeps 2 of 4" in err


def test_random_teacher_and_lacking_features_are_asked_live_and_that_is_said(distill):
    assert "teacher: it is asked in every step: its weights are random" in train(distill, "random", "train.epochs=1", "teacher.weights=random")
    err = train(distill, "features", "train.epochs=1", "losses.at={weight: 1, layers: [layer2]}")
    assert "teacher: it is asked in every step: losses.at needs its layer2, which is not kept" in err
    code, _, err = distill("train", *KD, "run_name=on", "losses.at={weight: 1, layers: [layer2]}", "teacher.cache.use=on")
    assert code == 2
    assert "teacher.cache.use=on, but losses.at needs its layer2" in err


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of memory, as Linux does it")
def test_full_and_read_only_disks_for_real(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}
    command = ["unshare", "--map-root-user", "--mount", sys.executable, str(HERE / "cache_disk.py")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all as it should be" in result.stdout


# ---------------------------------------------------------------- the commands


def test_cache_is_planned_built_looked_at_verified_and_removed(distill):
    words = [*KD[2:], "train.epochs=2", "teacher.cache.folder=answers"]
    code, out, err = distill("cache", "plan", "smoke", *words, "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert (planned["bytes_an_answer"], planned["num_pictures"], planned["num_views"]) == (4 * 2 + 11, 40, 2)
    assert planned["total_bytes"] == 19 * 80
    assert not Path("answers").exists()

    code, _, err = distill("cache", "build", "smoke", *words)
    assert code == 0, err
    assert "all 2 view(s) are there; 80 pictures were asked" in err
    assert "0 pictures were asked" in distill("cache", "build", "smoke", *words)[2]
    train(distill, "one", "train.epochs=2", "teacher.cache.folder=answers")
    assert counts("one") == (0, 80)

    code, out, err = distill("cache", "info", "answers", "--json")
    assert code == 0, err
    assert json.loads(out)[0] | {"num_bytes": 0, "last_used": ""} == {
        "folder": "answers",
        "teacher": "timm/test_resnet",
        "num_pictures": 40,
        "bytes_an_answer": 19,
        "num_views": 2,
        "num_bytes": 0,
        "last_used": "",
    }
    code, _, err = distill("cache", "verify", "smoke", *words)
    assert code == 0, err
    assert "80 answers asked for again" in err
    assert "every answer that is there is whole" in err

    path = Path("answers/view_00000.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, _, err = distill("cache", "verify", "smoke", *words)
    assert code == 3
    assert "1 answers of view 0 are damaged" in err

    assert distill("cache", "clear", "runs/one")[0] == 3
    assert Path("runs/one/summary.json").exists(), "what is no cache is not removed"
    assert distill("cache", "clear")[0] == 2
    assert distill("cache", "clear", "answers")[0] == 0
    assert not Path("answers").exists()


def test_verify_finds_answers_of_another_teacher_whose_seals_are_right(distill):
    """A cache whose rows are whole and wrong: made by another teacher, under this one's manifest."""
    words = [*KD[2:], "train.epochs=1", "teacher.cache.folder=answers"]
    assert distill("cache", "build", "smoke", *words)[0] == 0
    from distill.engine.answer_formats import logit_format
    from distill.engine.cache_files import CacheFolder

    identity = json.loads(Path("answers/manifest.json").read_text())["identity"]
    file = CacheFolder(Path("answers"), identity, logit_format("bf16", 4).columns(), 40).view(0)
    packed, hashes, _ = file.read(slice(None))
    file.write(np.arange(40), np.roll(packed, 2, axis=1), hashes)
    code, _, err = distill("cache", "verify", "smoke", *words)
    assert code == 3
    assert "the answers are not the teacher's" in err
    file.write(np.arange(40), packed, hashes + 1)
    code, _, err = distill("cache", "verify", "smoke", *words)
    assert code == 3
    assert "40 pictures are not those that the answers are of" in err
