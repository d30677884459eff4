"""Run folders as a finished run leaves them, with numbers of our choice: comparisons are tested without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distill.recipe import Recipe
from distill.recipe_files import to_yaml
from distill.student_alone import is_alone

NUM_TEST, CLASSES = 1000, ["cat", "dog", "emu"]
LABELS = np.arange(NUM_TEST) % 3
TEACHER_RIGHT = 900


def answers(num_right: int, seed: int = 0) -> np.ndarray:
    """[N] with as many right, at random places."""
    order = np.random.default_rng(seed).permutation(NUM_TEST)
    found = (LABELS + 1) % 3
    found[order[:num_right]] = LABELS[order[:num_right]]
    return found.astype(np.int32)


def recipe(seed: int = 0, **losses: dict[str, Any]) -> dict[str, Any]:
    """Of ResNet-18 with these losses from ResNet-50, or alone."""
    values = {"seed": seed, "student": {"model": "resnet18"}, "data": {}, "train": {"epochs": 3, "lr": 0.1}, "losses": losses or {"ce": {}}}
    return values | ({"teacher": {"model": "resnet50", "recipe": "r50_alone"}} if losses else {})


def write_run(name: str, num_right: int, values: dict[str, Any], **changes: Any) -> Path:
    """runs/NAME. changes: on top of the summary's own keys; `data` on top of its part of it."""
    path, checked = Path("runs") / name, Recipe.model_validate(values)
    path.mkdir(parents=True)
    role = "alone" if is_alone(checked) else "distilled"
    student = answers(num_right, checked.seed)
    teacher = answers(TEACHER_RIGHT, seed=99)
    row = {"model": "resnet18", "val_top1": 0.8, "test_top1": num_right / NUM_TEST, "test_nll": 0.5, "test_ece": 0.04, "test_brier": 0.3}
    row |= {"num_parameters": 11_000_000, "gmacs": 1.8, "images_per_second": 1000.0}
    summary = {"format": 2, "run_name": name, "seed": checked.seed, "created": "2026-11-01T00:00:00+00:00", "seconds": 60.0}
    summary |= {"fingerprint": name, "recipe": checked.model_dump(mode="json")}
    summary["data"] = {"source": "sample", "fingerprint": "same", "num_classes": 3, "class_names": CLASSES, "num_test": NUM_TEST, "note": ""}
    if role == "distilled":
        fidelity = {
            "agreement": float((student == teacher).mean()),
            "agreement_on_mistakes": 0.25,
            "kl": 0.125,
            "cka": {"layer1": 0.9, "layer4": 0.5},
        }
        summary["teacher"] = {"model": "resnet50", "test_top1": TEACHER_RIGHT / NUM_TEST, "gmacs": 4.1, "num_parameters": 25_000_000}
        row |= fidelity
    summary[role] = row
    summary["data"] |= changes.pop("data", {})
    summary |= changes
    arrays = {"test": student, "test_labels": LABELS.astype(np.int32), "test_confidences": np.full(NUM_TEST, 0.85, dtype=np.float32)}
    arrays |= {"test_teacher": teacher} if role == "distilled" else {}
    np.savez_compressed(path / "predictions.npz", **arrays)
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "recipe.resolved.yaml").write_text(to_yaml(checked))
    (path / "status.json").write_text(json.dumps({"state": "finished", "exit_code": 0, "reason": None}))
    environment = {"precision": "fp32", "device": "cpu", "num_processes": 1, "processor": "a", "num_cores": 2, "versions": {"torch": "2.14"}}
    (path / "environment.json").write_text(json.dumps(environment))
    lines = [{"event": "train", "epoch": 1, "step": 1, "loss": 1.5, "ce": 1.0, "kd": 0.5, "lr": 0.1}]
    lines += [{"event": "epoch", "epoch": epoch, "step": epoch, "val_top1": top1, "val_nll": 0.6} for epoch, top1 in ((1, 0.7), (2, 0.82), (3, 0.8))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_study(alone: dict[int, int], **rows: dict[int, int]) -> None:
    """seed -> how many of the 1,000 test pictures are right, of the student alone and of each loss."""
    for seed, num_right in alone.items():
        write_run(f"alone-seed{seed}", num_right, recipe(seed))
    for loss, by_seed in rows.items():
        for seed, num_right in by_seed.items():
            write_run(f"{loss}-seed{seed}", num_right, recipe(seed, ce={}, **{loss: {}}))
