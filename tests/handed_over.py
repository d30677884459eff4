"""Finished runs whose students are handed over: one of timm's network with the student alone beside it, one of ours on pictures in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import SMALL

from distill import cli
from distill.engine import timing

CLASSES = ("ant", "bee", "cow")


def write_pictures(folder: Path) -> None:
    """Twelve pictures of each class, none square and none like another: stripes along one direction for each class, in noise."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            height, width = 41 + 3 * (number % 5), 47 + 2 * (number % 7)
            down, across = np.mgrid[:height, :width] / 6
            wave = np.sin((down, across, down + across)[label] + generator.uniform(0, 6))
            pixels = 127 + 90 * wave[..., None] + generator.normal(0, 20, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:02}.png")


def train_runs(folder: Path) -> Path:
    """folder/small and folder/ours, and folder/pictures, which ours was trained on."""
    write_pictures(folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_CACHE", str(folder / "cache"))
        patch.setattr(timing, "SECONDS", 0.0)
        patch.setattr(timing, "LEAST_CALLS", 1)
        common = ["train", *SMALL, f"runs_dir={folder}"]
        assert cli.main([*common, "train.max_steps=12", "run_name=small", "control=true"]) == 0
        ours = ["student.model=resnet18", "teacher=null", "losses.kd=null", "train.max_steps=30", "data.global_batch_size=8", "train.epochs=15"]
        data = [
            "data.source=imagefolder",
            "~data.arguments",
            f"data.root={folder / 'pictures'}",
            "data.image_size=32",
            "data.val_fraction=0.25",
            "data.workers=0",
        ]
        assert cli.main([*common, *ours, *data, "run_name=ours"]) == 0
    return folder
