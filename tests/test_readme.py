"""What the README says beyond its blocks, which tests/docs/test_code_blocks.py runs: what its loss and its combination of losses do in a training."""

from __future__ import annotations

import json
import re
from pathlib import Path

from doc_pages import README, block

from distill.resolve import Catalogue

TEXT = README.read_text(encoding="utf-8")
QUICK = ["data.source=synthetic", "data.root=null", "data.image_size=32", "data.global_batch_size=8", "train.max_steps=2", "control=false"]
QUICK += ["teacher.weights=random"]


def test_readmes_loss_works_from_its_own_file_and_is_short(distill):
    loss = block(README, "python", "class Direction")
    assert len([line for line in loss.splitlines() if line.strip()]) <= 15
    Path("direction.py").write_text(loss)
    Path("direction.yaml").write_text(block(README, "yaml", "direction"))
    code, _, err = distill("train", "--recipe", "direction.yaml", "--plugin", "direction.py", *QUICK)
    assert code == 0, err
    first = json.loads(Path("runs/direction-seed0/metrics.jsonl").read_text().splitlines()[0])
    assert {"ce", "direction"} <= set(first)
    assert "kd" not in first


def test_readmes_combination_of_losses_trains(distill):
    Path("combined.yaml").write_text(block(README, "yaml", "log_gradients_every"))
    code, _, err = distill("train", "--recipe", "combined.yaml", *QUICK, "train.log_gradients_every=1", "train.log_every=1")
    assert code == 0, err
    events = [json.loads(line) for line in Path("runs/combined-seed0/metrics.jsonl").read_text().splitlines()]
    assert {"ce", "kd", "shallow", "deep"} == set(next(event for event in events if event["event"] == "gradients")["terms"])
    assert next(event for event in events if event["event"] == "weights")["shallow"] > 0


def test_readme_names_every_loss():
    table = TEXT.split("## The losses")[1].split("```")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(Catalogue().names("losses")) - {"ce"}


def test_readme_begins_with_the_two_commands():
    assert "pip install -e . && accelerate launch distill/run.py --recipe r50_to_r18" in TEXT
    assert 'pip install -e ".[dev]" && pytest' in TEXT
