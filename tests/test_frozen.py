"""What no loss reaches, and what the recipe keeps as it is; and runs that give the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import EVERYTHING, SMALL, contents
from safetensors.torch import load_file

FEATURES_ONLY = ["losses.ce=null", "losses.kd=null", "losses.at={weight: 100, layers: [layer2, layer3]}"]
TIMINGS = ("images_per_second", "training_images_per_second", "latency_ms")  # of a summary's rows: the clock's, not the run's


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"runs/{run}/student.safetensors")


def test_parameters_that_no_loss_reaches_stop_the_run_by_name_before_training(distill):
    code, _, err = distill("train", *SMALL, *FEATURES_ONLY)
    assert code == 2
    for words in ("no loss reaches these parameters", "student.layer4.0.conv1.weight", "and 5 more", "train.unused=freeze"):
        assert words in err
    assert not Path("runs/smoke-seed0/metrics.jsonl").exists()


def test_unused_freeze_says_so_and_leaves_them_as_they_were(distill):
    code, _, err = distill("train", *SMALL, *FEATURES_ONLY, "train.unused=freeze", "run_name=long")
    assert code == 0, err
    assert "no loss reaches student.layer4.0.conv1.weight" in err
    assert "train.unused=freeze" in err
    assert distill("train", *SMALL, *FEATURES_ONLY, "train.unused=freeze", "run_name=short", "train.max_steps=1")[0] == 0
    short, long = weights("short"), weights("long")
    moved = {name for name in long if not torch.equal(short[name], long[name]) and "running" not in name and "num_batches" not in name}
    assert not {name for name in moved if name.startswith(("layer4", "fc"))}
    assert {name.split(".")[0] for name in moved} == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_frozen_parts_keep_weights_and_batch_statistics(distill):
    options = [*SMALL, "student.frozen=[conv1, bn1, layer1]"]
    assert distill("train", *options, "run_name=long")[0] == 0
    assert distill("train", *options, "run_name=short", "train.max_steps=1")[0] == 0
    short, long = weights("short"), weights("long")
    still = {name for name in long if torch.equal(short[name], long[name])}
    assert still == {name for name in long if name.startswith(("conv1", "bn1", "layer1"))}


def test_unknown_frozen_part_is_named(distill):
    code, _, err = distill("train", *SMALL, "student.frozen=[layer9]")
    assert code == 2
    assert "student.frozen: the model has no part 'layer9'; it has conv1, bn1" in err


def test_deterministic_runs_are_equal_byte_for_byte(distill, monkeypatch):
    from distill.engine.trainer import Trainer

    original, asked = Trainer._update, []
    monkeypatch.setattr(Trainer, "_update", lambda self: (asked.append(torch.are_deterministic_algorithms_enabled()), original(self))[1])
    for name in ("first", "second"):
        assert distill("train", *SMALL, *EVERYTHING, "deterministic=true", f"run_name={name}")[0] == 0
    assert contents("runs/first") == contents("runs/second")
    assert all(asked)
    assert not torch.are_deterministic_algorithms_enabled()
    summaries = [json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in ("first", "second")]
    for summary in summaries:
        for key in ("run_name", "created", "seconds"):
            del summary[key]
        del summary["recipe"]["run_name"]
        for role in ("teacher", "distilled"):
            summary[role] = {key: value for key, value in summary[role].items() if key not in TIMINGS}
    assert summaries[0] == summaries[1]


def test_operation_without_a_deterministic_form_is_named(distill):
    Path("mine.py").write_text(
        "import torch\n"
        "from distill.losses.base import DistillLoss\n"
        "class Scattered(DistillLoss):\n"
        "    def __init__(self):\n"
        "        super().__init__(layers=[])\n"
        "    def forward(self, student, teacher, batch):\n"
        "        if torch.are_deterministic_algorithms_enabled():\n"
        "            raise RuntimeError('scatter_cuda_ does not have a deterministic implementation, but you set ...')\n"  # as torch says on a GPU
        "        return student.logits.mean()\n"
    )
    options = [*SMALL, "losses.scattered={weight: 0.1}", "--plugin", "mine.py"]
    code, _, err = distill("train", *options, "deterministic=true")
    assert code == 2
    assert "deterministic: true can't be kept: scatter_cuda_ does not have" in err
    assert distill("train", *options)[0] == 0


@pytest.mark.parametrize("value", ["freezes", "true", "1"])
def test_other_values_of_unused_are_refused(value, distill):
    code, _, err = distill("train", *SMALL, f"train.unused={value}")
    assert code == 2
    assert "train.unused" in err
    assert "'error' or 'freeze'" in err
