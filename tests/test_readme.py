"""What the README says is run: its loss, its recipe, its commands, its way to load the student."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from fake_hub import TOKEN, serving
from fake_runs import write_study
from PIL import Image
from runs import SMALL

from distill.doctor import measures
from distill.recipe_files import load_recipe, to_yaml
from distill.resolve import Catalogue

ROOT = Path(__file__).resolve().parent.parent

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
QUICK = ["data.source=synthetic", "data.root=null", "data.image_size=32", "data.global_batch_size=8", "train.max_steps=2", "control=false"]
QUICK += ["teacher.weights=random"]


def block(language: str, containing: str) -> str:
    (found,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return found


def commands() -> list[str]:
    lines = "\n".join(text for kind, text in BLOCKS if kind == "bash").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("distill")]


def train_commands() -> list[str]:
    return [command for command in commands() if command.startswith("distill train")]


_APART = ("distill train", "distill compare", "distill export", "distill predict", "distill push")


def other_commands() -> list[str]:
    return [command for command in commands() if not command.startswith(_APART) and "--replay" not in command]


def make_pictures(folder: Path) -> None:
    """What a reader has at ~/pictures: a folder per class, no two pictures alike."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / label / f"{index}.png")


def test_readmes_loss_works_from_its_own_file_and_is_short(distill):
    loss = block("python", "class Direction")
    assert len([line for line in loss.splitlines() if line.strip()]) <= 15
    Path("direction.py").write_text(loss)
    Path("direction.yaml").write_text(block("yaml", "direction"))
    code, _, err = distill("train", "--recipe", "direction.yaml", "--plugin", "direction.py", *QUICK)
    assert code == 0, err
    first = json.loads(Path("runs/direction-seed0/metrics.jsonl").read_text().splitlines()[0])
    assert {"ce", "direction"} <= set(first)
    assert "kd" not in first


@pytest.mark.parametrize("command", train_commands())
def test_each_train_command_of_the_readme_is_valid(command, distill):
    Path("direction.py").write_text(block("python", "class Direction"))
    Path("direction.yaml").write_text(block("yaml", "direction"))
    Path("runs/r50_to_r18-seed0").mkdir(parents=True)
    Path("runs/r50_to_r18-seed0/recipe.resolved.yaml").write_text(to_yaml(load_recipe("r50_to_r18")))  # a run, for the command that goes on with it
    arguments = [part for part in shlex.split(command)[1:] if part != "--dry-run"]
    code, out, err = distill(*arguments, "--dry-run")
    assert code == 0, err
    assert "student.model" in out


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("distill compare")])
def test_each_compare_command_of_the_readme_is_valid(command, distill):
    write_study({0: 800, 1: 810}, kd={0: 830, 1: 836})
    words = [str(path) for word in shlex.split(command)[1:] for path in (sorted(Path().glob(word)) if "*" in word else [word])]
    code, out, err = distill(*words, *(["--plan"] if "--seeds" in words else []))
    assert code == 0, err
    assert "distill train --recipe r50_to_r18" in out if "--seeds" in words else "kd beats the same student alone" in out


@pytest.mark.parametrize("command", other_commands())
def test_each_other_command_of_the_readme_runs(command, distill, monkeypatch):
    monkeypatch.setattr(measures, "_SECONDS_MEASURED", 0.0)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    make_pictures(Path("pictures"))
    Path("direction.py").write_text(block("python", "class Direction"))
    code, out, err = distill(*shlex.split(command)[1:])
    assert code == 0, err
    assert out


def test_readmes_command_to_replay_a_batch_runs(distill, monkeypatch):
    monkeypatch.setenv("DISTILL_PLUGINS", str(ROOT / "tests" / "odd_losses.py"))
    assert distill("train", *SMALL, "losses.not_finite={weight: 1, sample_id: 7, view: 1}", "run_name=NAME")[0] == 4
    (command,) = [command for command in commands() if "--replay" in command]
    code, out, err = distill(*shlex.split(command)[1:])
    assert code == 0, err
    assert "not_finite" in out


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own
def test_readmes_commands_to_hand_over_the_student_run(distill, runs, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    shutil.copytree(runs / "ours", "runs/r50_to_r18-seed0")
    shutil.copytree(runs / "pictures", "pictures")
    export, predict, push = [command for command in commands() if command.startswith(_APART[2:])]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for command, said in ((export, "9 val pictures"), (predict, "cow/11.png"), (push, hub.address)):
            code, out, err = distill(*shlex.split(command)[1:])
            assert code == 0, err
            assert said in out
    assert "model.safetensors" in hub.files["main"]


def test_readmes_combination_of_losses_trains(distill):
    Path("combined.yaml").write_text(block("yaml", "log_gradients_every"))
    code, _, err = distill("train", "--recipe", "combined.yaml", *QUICK, "train.log_gradients_every=1", "train.log_every=1")
    assert code == 0, err
    events = [json.loads(line) for line in Path("runs/combined-seed0/metrics.jsonl").read_text().splitlines()]
    assert {"ce", "kd", "shallow", "deep"} == set(next(event for event in events if event["event"] == "gradients")["terms"])
    assert next(event for event in events if event["event"] == "weights")["shallow"] > 0


def test_readme_names_every_loss():
    table = README.split("## The losses")[1].split("```")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(Catalogue().names("losses")) - {"ce"}


def test_readmes_way_to_load_the_student_works(distill, monkeypatch):
    options = ["data.source=synthetic", "data.arguments.num_classes=10", "data.global_batch_size=8", "train.max_steps=1", "control=false"]
    assert distill("train", "--recipe", "r50_to_r18", "teacher.weights=random", *options)[0] == 0
    scope: dict = {}
    exec(block("python", "load_file"), scope)
    assert scope["model"].fc.out_features == 10


def test_readme_begins_with_the_two_commands():
    assert "pip install -e . && accelerate launch distill/run.py --recipe r50_to_r18" in README
    assert 'pip install -e ".[dev]" && pytest' in README
