"""Real pictures, real training, for minutes."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_student_alone_learns_the_sample_in_two_epochs(distill):
    code, out, err = distill("train", "--recipe", "r18_alone", "train.epochs=2", "train.warmup_epochs=0.5")
    assert code == 0, err
    assert "student alone" in out
    summary = json.loads(Path("runs/r18_alone-seed0/summary.json").read_text())
    assert summary["alone"]["test_top1"] > 0.6  # chance is 0.1
    assert summary["data"]["num_train"] == 7000
