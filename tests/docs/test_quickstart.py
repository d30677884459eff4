"""docs/quickstart.md from its first command to its last, with a reader's pictures and small networks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.doctor import measures

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
LINES = "".join(re.findall(r"^ *```bash\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)).splitlines()
COMMANDS = [line.split("#")[0].strip() for line in LINES]
SMALL = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "teacher.weights=random", "data.global_batch_size=8"]
SMALL += ["train.max_steps=2", "data.image_size=32", "data.workers=0"]
FASTER = {"distill train --recipe pictures.yaml": SMALL, "distill doctor pictures.yaml": SMALL, "distill compare pictures.yaml": ["--plan"]}


def options(command: str) -> list[str]:
    return next((words for start, words in FASTER.items() if command.startswith(start)), [])


@pytest.fixture
def reader(monkeypatch) -> None:
    """A home folder with pictures, and the recipe of the page."""
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setattr(measures, "_SECONDS_MEASURED", 0.0)
    generator = np.random.default_rng(0)
    for folder, number in (("pictures/cat", 20), ("pictures/dog", 20), ("new_pictures", 2)):
        Path(folder).mkdir(parents=True)
        for index in range(number):
            Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(f"{folder}/{index}.png")
    Path("pictures.yaml").write_text(re.search(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE).group(1))


@pytest.mark.usefixtures("reader")
def test_the_commands_lead_from_pictures_to_predictions(distill):
    said = {}
    for command in COMMANDS:
        if command.startswith("pip ") or "IMAGENET1K_V2" in command:
            continue
        code, out, err = distill(*shlex.split(command)[1:], *options(command))
        assert code == 0, f"{command}: {err}"
        said[command] = out
    assert "student alone" in said["distill train --recipe pictures.yaml"]
    assert (Path("student") / "model.safetensors").exists()
    assert len(re.findall(r"new_pictures/\d\.png", next(out for command, out in said.items() if "predict" in command))) == 2


@pytest.mark.usefixtures("reader")
def test_published_weights_may_start_the_teacher(distill):
    (command,) = [command for command in COMMANDS if "IMAGENET1K_V2" in command]
    code, out, err = distill(*shlex.split(command)[1:], "--dry-run")
    assert code == 0, err
    assert "IMAGENET1K_V2" in out
