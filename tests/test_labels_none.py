"""data.labels=none: the student learns from the teacher alone, and whatever would need labels is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_failure

from distill.engine.trainer import Trainer
from distill.models.weight_files import save_weights
from distill.models.zoo import create_model

MODEL = "timm/test_resnet"
# The teacher's file holds random weights, which no check would let pass.
JOB = ["--recipe", "smoke", f"student.model={MODEL}", f"teacher.model={MODEL}", "teacher.weights=teacher.safetensors", "teacher.check=false"]
JOB += ["teacher.cache.use=off", "losses.ce=null", "control=false", "train.precision=fp32", "data.labels=none"]


@pytest.fixture(autouse=True)
def teacher_file() -> None:
    torch.manual_seed(1)
    save_weights(create_model(MODEL, num_classes=4).state_dict(), Path("teacher.safetensors"), {"model": MODEL})


def events(run: str = "smoke-seed0", kind: str = "train") -> list[dict]:
    lines = (Path("runs") / run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture
def batches(monkeypatch) -> list:
    """Every batch that a step begins with."""
    seen, original = [], Trainer._begin_step
    monkeypatch.setattr(Trainer, "_begin_step", lambda self, batch, teacher: (seen.append(batch), original(self, batch, teacher))[1])
    return seen


def test_student_learns_from_the_teacher_alone(distill, batches):
    code, out, err = distill(
        "train", *JOB, "train.epochs=3", "train.max_steps=40", "train.lr=0.05", "train.log_every=10", "data.global_batch_size=16"
    )
    assert code == 0, err
    assert len(batches) == 40
    assert all(batch.labels.tolist() == [-1] * 16 for batch in batches)
    log = events()
    assert all(set(event) == {"event", "epoch", "step", "lr", "loss", "kd", "gradient_norm"} for event in log)
    assert log[-1]["kd"] < 0.7 * log[0]["kd"]
    summary = json.loads(Path("runs/smoke-seed0/summary.json").read_text())
    assert 0 <= summary["distilled"]["test_top1"] <= 1  # the student is judged by labels all the same
    assert summary["distilled"]["agreement"] > 0.5  # of four classes: it has learned what the teacher says
    assert "distilled student" in out
    assert [set(event) >= {"val_top1", "val_nll"} for event in events(kind="epoch")] == [True] * 3


def test_labels_are_never_looked_at_in_training(distill, monkeypatch):
    """Wrong labels of the training pictures change nothing at all."""
    from distill.data.sources.synthetic import Synthetic

    assert distill("train", *JOB, "run_name=right")[0] == 0
    original = Synthetic.__init__

    def mislabelled(self, *arguments, **options):
        original(self, *arguments, **options)
        self.train.labels[:] = 3 - self.train.labels

    monkeypatch.setattr(Synthetic, "__init__", mislabelled)
    assert distill("train", *JOB, "run_name=wrong")[0] == 0
    for name in ("metrics.jsonl", "student.safetensors"):
        assert Path(f"runs/right/{name}").read_bytes() == Path(f"runs/wrong/{name}").read_bytes()


@pytest.mark.parametrize("augment", ["{mixup: 0.4}", "{cutmix: 1.0, auto: trivial, erase: 0.3}"])
def test_mixed_pictures_have_no_labels_either(distill, batches, augment):
    code, _, err = distill("train", *JOB, f"data.augment={augment}", "data.workers=0")
    assert code == 0, err
    assert all(batch.labels.tolist() == [-1] * 8 for batch in batches)
    assert "top1" not in events()[0]


def test_with_labels_the_training_accuracy_is_there(distill, batches):
    code, _, err = distill("train", *JOB, "data.labels=given", "train.unused=freeze")
    assert code == 0, err
    assert all((batch.labels >= 0).all() for batch in batches)
    assert "top1" in events()[0]


REFUSED = {
    "cross-entropy": (["losses.ce={weight: 0.5}"], ["losses.ce", "looks at labels, and data.labels is none", "losses.ce=null"]),
    "cross-entropy by another label": (["losses.hard={type: ce, weight: 0.5}"], ["losses.hard", "the loss 'ce' looks at labels", "losses.hard=null"]),
    "a loss that compares with the true class": (["losses.dkd={weight: 1}"], ["losses.dkd", "looks at labels"]),
    "the student alone": (["control=true"], ["control", "learns from labels", "control=false"]),
    "an auto weight": (["losses.kd.weight=auto(0.5)"], ["losses.kd.weight", "cross-entropy", "give a number"]),
    "gradients against cross-entropy's": (["train.log_gradients_every=5"], ["train.log_gradients_every", "cross-entropy", "set it to 0"]),
    "a teacher that is trained here": (
        ["teacher.weights=train", "teacher.recipe=r50_alone"],
        ["teacher.weights", "trained on labels", "name the weights"],
    ),
    "no teacher": (
        ["teacher=null", "losses.kd=null", "losses.ce={weight: 1}"],
        ["losses.ce", "looks at labels", "learns from a teacher alone, and the recipe has none"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_labels_is_refused_by_name(case, distill):
    options, parts = REFUSED[case]
    code, _, err = distill("train", *JOB, *options)
    check_failure(code, err, 2, parts)


def test_everything_that_needs_labels_is_told_at_once(distill):
    code, _, err = distill("train", *JOB, "losses.ce={weight: 1}", "control=true", "losses.kd.weight=auto(1)", "train.log_gradients_every=1")
    assert code == 2
    for part in ("losses.ce", "control", "losses.kd.weight", "train.log_gradients_every"):
        assert part in err


def test_the_same_is_allowed_with_labels(distill):
    code, _, err = distill("train", *JOB, "losses.ce={weight: 1}", "losses.kd.weight=auto(1)", "train.log_gradients_every=1", "data.labels=given")
    assert code == 0, err


def loose_pictures() -> None:
    """Twelve to train on in no class folders, and some in folders to be judged by."""
    for part, num in (("train", 12), ("val", 4), ("test", 4)):
        for number in range(num):
            kind = "" if part == "train" else ("cat", "dog", "cow", "hen")[number % 4]
            path = Path("pictures") / part / kind / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


FOLDER = ["data.source=imagefolder", "data.root=pictures", "data.image_size=32", "data.workers=0"]


def test_training_pictures_that_lie_in_no_class_folders_are_learned_from(distill, batches):
    loose_pictures()
    code, _, err = distill("train", *JOB, *FOLDER, "data.global_batch_size=6")
    assert code == 0, err
    assert sorted(torch.cat([batch.sample_ids for batch in batches]).tolist()) == list(range(12))
    assert all(batch.labels.tolist() == [-1] * 6 for batch in batches)


def test_such_pictures_are_refused_where_labels_are_asked_for(distill):
    loose_pictures()
    code, _, err = distill("train", *JOB, *FOLDER, "data.labels=given", "data.global_batch_size=6")
    check_failure(code, err, 3, ["pictures", "no labels", "data.labels=none"])
