"""Methods on two real processes: in float64 and without batch norms, what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
ONE = [sys.executable, str(ROOT / "distill" / "run.py")]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "distill" / "run.py")]
EXACT = [*SMALL, "train.precision=fp64", "student.model=resnet18", "student.norm=group", "train.max_steps=3", "train.lr=0.01", "~teacher"]
EXACT += ["data.arguments={num_train: 16, num_val: 9, num_test: 9}"]
TEACHERS = "teachers=[{model: timm/test_resnet, weights: random}, {model: timm/test_efficientnet, weights: random}]"
METHODS = {"sampled": [TEACHERS, "answers=sampled"]}


def run(command: list[str], *arguments: str) -> None:
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_give_the_run_of_one(method):
    for command, name in ((ONE, "one"), (TWO, "two")):
        run(command, *EXACT, *METHODS[method], f"run_name={name}")
    files = [path.name for path in Path("runs/one").glob("*.safetensors")]
    assert "student.safetensors" in files
    for file in files:
        ours, theirs = (load_file(Path("runs") / name / file) for name in ("one", "two"))
        assert ours.keys() == theirs.keys()
        assert max((ours[key].double() - theirs[key].double()).abs().max().item() for key in ours) < 1e-12
