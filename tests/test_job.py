"""The main job in this process: teacher trained once, control reused, names, folders, plug-ins, weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from distill import teacher_store
from distill.models.zoo import create_model

# An easy problem and a small network, so that the teacher passes its check after seconds.
EASY = ["data.source=synthetic", "data.arguments={num_train: 128, num_val: 32, num_test: 32, noise: 0.1}", "data.global_batch_size=16"]
EASY += ["teacher.model=resnet18", "train.epochs=1", "train.warmup_epochs=0", "train.lr=0.02", "train.max_steps=3"]
EASY += ["teacher.overrides={data: {global_batch_size: 16}, train: {epochs: 4, warmup_epochs: 0, optimizer: sgd, lr: 0.02, weight_decay: 5e-4}}"]


def summary(name: str) -> dict:
    return json.loads((Path("runs") / name / "summary.json").read_text())


def status(name: str) -> dict:
    return json.loads((Path("runs") / name / "status.json").read_text())


def test_second_run_reuses_teacher_and_control_and_takes_the_next_name(distill, tmp_path):
    code, out, err = distill("train", "--recipe", "r50_to_r18", *EASY)
    assert code == 0, err
    assert "train the teacher resnet18 for 4 epochs" in err
    teachers = [path for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir()]
    assert len(teachers) == 1
    first = summary("r50_to_r18-seed0")
    assert first["alone"]["run"] == "r50_to_r18-seed0-alone"
    assert first["verdict"] in out
    drawn = Path("runs/r50_to_r18-seed0/report.html").read_text()
    assert "<svg" in drawn
    assert all(f'<th scope="row">{name}</th>' in drawn for name in ("resnet18 alone", "r50_to_r18"))
    assert not Path("runs/r50_to_r18-seed0-alone/report.html").exists()  # it is in the other's

    code, out, err = distill("train", "--recipe", "r50_to_r18", *EASY)
    assert code == 0, err
    assert "is used again" in err
    assert "use the student alone again" in err
    second = summary("r50_to_r18-seed0-2")
    assert second["alone"]["run"] == "r50_to_r18-seed0-alone"
    assert second["distilled"]["test_top1"] == first["distilled"]["test_top1"]
    weights = [load_file(Path("runs") / name / "student.safetensors") for name in ("r50_to_r18-seed0", "r50_to_r18-seed0-2")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not Path("runs/r50_to_r18-seed0-2-alone").exists()

    code, out, err = distill("train", "--recipe", "r50_to_r18", *EASY, "seed=1")
    assert code == 0, err
    assert len([path for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir()]) == 1
    assert Path("runs/r50_to_r18-seed1-alone").exists()


def test_alone_and_distilled_start_from_the_same_student_and_see_the_same_pictures(distill):
    """With kd at weight 0 the distilled run is the run alone, bit for bit."""
    options = [*EASY, "teacher.weights=random", "losses.ce.weight=1", "losses.kd.weight=0"]
    assert distill("train", "--recipe", "r50_to_r18", *options)[0] == 0
    ours, theirs = (load_file(Path("runs") / name / "student.safetensors") for name in ("r50_to_r18-seed0", "r50_to_r18-seed0-alone"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    result = summary("r50_to_r18-seed0")
    assert result["difference"]["difference"] == 0
    assert "can't be told apart" in result["verdict"]


def test_student_file_loads_into_torchvision_strictly(distill):
    import torchvision

    assert distill("train", "--recipe", "smoke", "control=false")[0] == 0
    model = torchvision.models.resnet18(num_classes=4)
    model.load_state_dict(load_file("runs/smoke-seed0/student.safetensors"), strict=True)


def test_interrupted_teacher_is_gone_on_with_by_the_next_run(distill, tmp_path, monkeypatch):
    from distill.engine.trainer import Trainer

    original, calls = Trainer._update, []

    def interrupt(self):
        calls.append(self.step)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self)

    monkeypatch.setattr(Trainer, "_update", interrupt)
    code, _, err = distill("train", "--recipe", "r50_to_r18", *EASY, "train.checkpoint_every_steps=1")
    assert code == 130
    assert "to go on: distill train --resume runs/r50_to_r18-seed0" in err
    assert status("r50_to_r18-seed0") | {"pid": 0, "time": ""} == {
        "state": "interrupted",
        "exit_code": 130,
        "reason": "interrupted by the user",
        "pid": 0,
        "time": "",
    }
    assert [path.suffix for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir()] == [".unfinished"]
    monkeypatch.setattr(Trainer, "_update", lambda self: (calls.append(self.step), original(self)))
    code, _, err = distill("train", "--recipe", "r50_to_r18", *EASY, "control=false", "train.checkpoint_every_steps=1")
    assert code == 0, err
    assert calls[2:5] == [2, 2, 3]  # not from the beginning
    assert status("r50_to_r18-seed0")["state"] == "finished"  # the folder in which nothing was trained is used again
    (teacher,) = [path for path in (tmp_path / "cache" / "teachers").iterdir() if path.is_dir()]
    assert not (teacher / "checkpoints").exists()


def test_job_waits_for_another_that_trains_the_same_teacher(distill, tmp_path, monkeypatch):
    assert distill("train", "--recipe", "r50_to_r18", *EASY, "control=false")[0] == 0
    (lock_file,) = (tmp_path / "cache" / "teachers").glob("*.lock")
    lock = FileLock(lock_file, thread_local=False)
    lock.acquire()
    waits = [lambda: None, lock.release]  # the other job is done after the second look
    monkeypatch.setattr(teacher_store, "time", SimpleNamespace(sleep=lambda seconds: waits.pop(0)()))
    code, _, err = distill("train", "--recipe", "r50_to_r18", *EASY, "control=false")
    assert code == 0
    assert "another job is training it" in err
    assert "is used again" in err
    assert not waits


def test_teacher_may_start_from_weights_of_other_classes(distill):
    torch.manual_seed(0)
    torch.save({"state_dict": create_model("resnet18", num_classes=9).state_dict()}, "pretrained.pth")
    options = [*EASY, "control=false", "teacher.overrides.student={weights: pretrained.pth, new_head: true}"]
    code, _, err = distill("train", "--recipe", "r50_to_r18", *options)
    assert code == 0, err
    assert "its classifier is new" in err


def test_teacher_from_a_file_from_a_run_and_with_wrong_classes(distill):
    assert distill("train", "--recipe", "smoke", "control=false", "student.model=resnet34", "run_name=big")[0] == 0
    for weights in ("runs/big", "runs/big/student.safetensors"):
        code, _, err = distill(
            "train", "--recipe", "smoke", "control=false", "teacher.model=resnet34", f"teacher.weights={weights}", "teacher.check=false"
        )
        assert code == 0, err
    code, _, err = distill("train", "--recipe", "smoke", "teacher.model=resnet34", "teacher.weights=runs/big", "data.arguments.num_classes=5")
    assert code == 2
    assert "of the data's 5 classes it does not know 1: wave4" in err


def test_teacher_near_chance_is_refused_before_training(distill):
    torch.manual_seed(3)
    torch.save(create_model("resnet18", num_classes=4).state_dict(), "useless.pt")
    code, _, err = distill("train", "--recipe", "smoke", "teacher.model=resnet18", "teacher.weights=useless.pt")
    assert code == 3
    assert "near chance" in err
    assert status("smoke-seed0")["exit_code"] == 3
    assert not Path("runs/smoke-seed0/metrics.jsonl").exists()


def test_teacher_that_falls_short_of_its_claim_is_refused(distill):
    assert (
        distill("train", "--recipe", "r50_to_r18", *EASY, "control=false", "run_name=good", "teacher=null", "losses.kd=null", "train.max_steps=24")[0]
        == 0
    )
    options = [*EASY, "control=false", "teacher.weights=runs/good", "run_name=student"]
    shutil.rmtree("runs/student", ignore_errors=True)
    assert distill("train", "--recipe", "r50_to_r18", *options)[0] == 0
    code, _, err = distill("train", "--recipe", "r50_to_r18", *options, "run_name=other", "data.arguments.noise=0.97", "teacher.claimed_top1=0.99")
    assert code == 3
    assert "99.0% was claimed" in err or "near chance" in err


def test_plugin_loss_of_ones_own_is_used_and_logged(distill):
    Path("mine.py").write_text(
        "import torch.nn.functional as F\n"
        "from distill.losses.base import DistillLoss\n"
        "from distill.models.projector import Projector\n"
        "class Direction(DistillLoss):\n"
        "    def __init__(self, layer: str = 'layer4'):\n"
        "        super().__init__(layers=[layer])\n"
        "        self.layer = layer\n"
        "    def setup(self, student, teacher):\n"
        "        self.projector = Projector(student.shapes[self.layer], teacher.shapes[self.layer])\n"
        "    def forward(self, student, teacher, batch):\n"
        "        ours = self.projector(student.features[self.layer])\n"
        "        return 1 - F.cosine_similarity(ours, teacher.features[self.layer], dim=1).mean()\n"
    )
    Path("mine.yaml").write_text("extends: smoke\ncontrol: false\nlosses:\n  direction: {weight: 2.0, layer: layer3}\n  kd: null\n")
    code, _, err = distill("train", "--recipe", "mine.yaml", "--plugin", "mine.py")
    assert code == 0, err
    lines = [json.loads(line) for line in Path("runs/mine-seed0/metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[0]["direction"] < 2
    assert "kd" not in lines[0]
    code, _, err = distill("train", "--recipe", "mine.yaml")
    assert code == 2
    assert "--plugin" in err


def test_run_folder_in_use_is_refused(distill):
    from distill.record import RunFolder

    held = RunFolder(Path("runs/mine"))
    held.open()
    code, _, err = distill("train", "--recipe", "smoke", "run_name=mine")
    assert code == 3
    assert "runs/mine" in err
    held.close()
    assert distill("train", "--recipe", "smoke", "run_name=mine", "control=false")[0] == 0
    before = Path("runs/mine/summary.json").read_text()
    code, _, err = distill("train", "--recipe", "smoke", "run_name=mine")
    assert code == 3
    assert "holds a run already" in err
    assert Path("runs/mine/summary.json").read_text() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_precision_and_optimizer_trains_with_everything_on(distill, precision, optimizer):
    options = ["losses.fitnet.weight=1", "losses.at.weight=1", "train.ema_decay=0.9", "train.clip_norm=1.0", "train.accumulation=2", "train.lr=1e-3"]
    code, _, err = distill("train", "--recipe", "smoke", "control=false", f"train.precision={precision}", f"train.optimizer={optimizer}", *options)
    assert code == 0, err
    values = load_file("runs/smoke-seed0/student.safetensors").values()
    assert all(value.isfinite().all() for value in values if value.is_floating_point())


def test_dry_run_shows_values_and_their_origin_and_trains_nothing(distill):
    code, out, _ = distill("train", "--recipe", "r50_to_r18", "losses.kd.temperature=2", "--set", "train.epochs=3", "--dry-run")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "2" in rows["losses.kd.temperature"].split()[1]
    assert "override" in rows["losses.kd.temperature"]
    assert "default" in rows["train.log_every"]
    assert "r50_to_r18.yaml:" in rows["teacher.model"]
    assert not Path("runs").exists()


def test_method_without_a_teacher_is_compared_with_the_student_alone(distill):
    code, out, err = distill("train", "--recipe", "losses/tfkd", *EASY, "teacher=null")
    assert code == 0, err
    found = summary("losses-tfkd-seed0")
    assert "teacher" not in found
    assert found["alone"]["run"] == "losses-tfkd-seed0-alone"
    assert {"ce"} == set(json.loads(Path("runs/losses-tfkd-seed0-alone/metrics.jsonl").read_text().splitlines()[0])) & {"ce", "tfkd"}
    assert found["verdict"] in out
    assert {"ce", "tfkd"} <= set(json.loads(Path("runs/losses-tfkd-seed0/metrics.jsonl").read_text().splitlines()[0]))


def test_control_keeps_the_smoothing_of_cross_entropy_and_nothing_else(distill):
    code, _, err = distill(
        "train", "--recipe", "losses/tfkd", *EASY, "teacher=null", "losses.ce={weight: 0.3, label_smoothing: 0.1}", "run_name=smooth"
    )
    assert code == 0, err
    recipe = (Path("runs") / "smooth-alone" / "recipe.resolved.yaml").read_text()
    assert "label_smoothing: 0.1" in recipe
    assert "tfkd" not in recipe.split("losses:")[1].split("control")[0]
    assert "weight: 1.0" in recipe.split("losses:")[1].split("control")[0]
