"""Every mistake at the command line: one clear message that names the thing and the fix, the right exit code, nothing written over."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_failure
from safetensors.torch import save_file

from distill.models.zoo import create_model

FAST = ["teacher.model=resnet18", "control=false"]

RECIPES = {
    "an unknown recipe": (["--recipe", "r50_to_r81"], ["r50_to_r81", "did you mean"]),
    "no recipe": ([], ["--recipe"]),
    "an unknown key": (["--recipe", "smoke", "train.epoch=3"], ["train.epoch", "did you mean 'epochs'", "override"]),
    "an unknown loss": (["--recipe", "smoke", "losses.kdd.weight=1"], ["losses.kdd", "did you mean 'kd'", "--plugin"]),
    "an unknown loss argument": (["--recipe", "smoke", "losses.kd.temprature=2"], ["losses.kd.temprature", "did you mean 'temperature'"]),
    "a loss argument of the wrong type": (["--recipe", "smoke", "losses.kd.temperature=hot"], ["losses.kd.temperature", "'hot'"]),
    "a loss argument that is true": (["--recipe", "smoke", "losses.kd.temperature=true"], ["losses.kd.temperature", "true"]),
    "a loss argument that makes no sense": (["--recipe", "smoke", "losses.kd.temperature=0"], ["losses.kd", "temperature must be above 0"]),
    "a loss argument that is nan": (["--recipe", "smoke", "losses.kd.temperature=.nan"], ["losses.kd.temperature"]),
    "an unknown layer": (["--recipe", "smoke", *FAST, "losses.at={weight: 1, layers: [layer5]}"], ["losses.at", "layer5", "layer4"]),
    "a layer without an activation at its end": (
        ["--recipe", "smoke", *FAST, "losses.fitnet={weight: 1, layers: [layer4.0.conv1.pre]}"],
        ["losses.fitnet", "does not end in an activation"],
    ),
    "an unknown model": (["--recipe", "smoke", "student.model=resnet19"], ["student.model", "resnet19", "did you mean 'resnet18'"]),
    "an unknown model argument": (["--recipe", "smoke", *FAST, "student.arguments.widht=2"], ["widht"]),
    "a wrong type": (["--recipe", "smoke", "train.epochs=many"], ["train.epochs", "whole number", "'many'"]),
    "a negative seed": (["--recipe", "smoke", "seed=-1"], ["seed", "0 or more", "-1"]),
    "a learning rate that is nan": (["--recipe", "smoke", "train.lr=.nan"], ["train.lr", "nan"]),
    "a negative weight": (["--recipe", "smoke", "losses.kd.weight=-1"], ["losses.kd.weight", "0 or more"]),
    "a weight that is nan": (["--recipe", "smoke", "losses.kd.weight=.nan"], ["losses.kd.weight", "number"]),
    "a weight that is text": (["--recipe", "smoke", "losses.kd.weight=heavy"], ["losses.kd.weight", "must be a number", "'heavy'"]),
    "an auto weight without a number": (["--recipe", "smoke", "losses.kd.weight=auto"], ["losses.kd.weight", "auto(R)", "auto(0.5)"]),
    "an auto weight of 0": (["--recipe", "smoke", "losses.kd.weight=auto(0)"], ["losses.kd.weight", "above 0"]),
    "an unknown schedule": (
        ["--recipe", "smoke", "losses.kd.weight={schedule: warmdown, end: 1, epochs: 1}"],
        ["losses.kd.weight.schedule", "'warmup', 'linear', 'cosine' or 'stop_at'"],
    ),
    "a schedule without its end": (
        ["--recipe", "smoke", "losses.kd.weight={schedule: warmup, epochs: 1}"],
        ["losses.kd.weight", "end must be given"],
    ),
    "a schedule with an unknown key": (
        ["--recipe", "smoke", "losses.kd.weight={schedule: warmup, end: 1, epoch: 1}"],
        ["losses.kd.weight.epoch", "did you mean 'epochs'"],
    ),
    "a schedule longer than the run": (
        ["--recipe", "smoke", "losses.kd.weight={schedule: warmup, end: 1, epochs: 5}"],
        ["losses.kd.weight.epochs", "takes 5 epochs", "only 1 (train.epochs)"],
    ),
    "a scheduled argument longer than the run": (
        ["--recipe", "smoke", "losses.kd.temperature={schedule: linear, start: 4, end: 2, epochs: 5}"],
        ["losses.kd.temperature.epochs", "takes 5 epochs"],
    ),
    "a schedule that becomes negative": (
        ["--recipe", "smoke", "losses.kd.weight={schedule: linear, start: 1, end: -1}"],
        ["losses.kd.weight", "must not become negative"],
    ),
    "a schedule to a value that the loss refuses": (
        ["--recipe", "smoke", "losses.kd.temperature={schedule: linear, start: 4, end: 0}"],
        ["losses.kd", "temperature must be above 0, got 0"],
    ),
    "a schedule for what is no number": (
        ["--recipe", "smoke", "losses.kd.standardise={schedule: linear, start: 0, end: 1}"],
        ["losses.kd.standardise"],
    ),
    "a teacher of other classes for a loss on logits": (
        ["--recipe", "smoke", *FAST, "teacher.num_classes=7"],
        ["losses.kd", "the student has 4 classes and the teacher 7"],
    ),
    "a teacher of other classes that is to be trained": (
        ["--recipe", "smoke", *FAST, "teacher.num_classes=7", "teacher.weights=train"],
        ["teacher.num_classes", "needs teacher.weights to name the weights"],
    ),
    "a vector for a loss that compares places": (
        ["--recipe", "smoke", *FAST, "losses.at={weight: 1, layers: [pooled]}"],
        ["losses.at", "the student's 'pooled' is a vector, and this loss needs a feature map"],
    ),
    "an unknown source": (["--recipe", "smoke", "data.source=imagefoldr"], ["data.source", "did you mean 'imagefolder'"]),
    "an unknown source argument": (["--recipe", "smoke", "data.arguments.num_clases=3"], ["data.arguments.num_clases", "did you mean 'num_classes'"]),
    "a loss that needs a teacher where there is none": (["--recipe", "smoke", "teacher=null", "control=false"], ["losses.kd", "needs a teacher"]),
    "a batch that accumulation can't divide": (["--recipe", "smoke", *FAST, "train.accumulation=3"], ["data.global_batch_size=8", "multiple of 3"]),
    "a run name that leaves the folder": (["--recipe", "smoke", "run_name=../../x"], ["run_name"]),
    "an override without a value": (["--recipe", "smoke", "train.epochs"], ["train.epochs"]),
    "a plugin that is not there": (["--recipe", "smoke", "--plugin", "nothing.py"], ["nothing.py", "no such file"]),
    "fp16 on a CPU": (["--recipe", "smoke", *FAST, "train.precision=fp16"], ["fp16", "train.precision=auto"]),
    "no loss that trains the classifier": (
        ["--recipe", "smoke", *FAST, "losses.ce=null", "losses.kd=null", "losses.at.weight=1"],
        ["no loss reaches these parameters", "student.fc.weight"],
    ),
    "pictures too small for the network": (
        ["--recipe", "smoke", *FAST, "student.model=torchvision/alexnet", "data.image_size=16"],
        ["16 px", "too small"],
    ),
    "pictures too small for the teacher": (
        ["--recipe", "smoke", "control=false", "teacher.model=torchvision/alexnet", "teacher.image_size=16"],
        ["16 px", "too small"],
    ),
    "a teacher's size that is no size": (["--recipe", "smoke", "teacher.image_size=4"], ["teacher.image_size", "8 or more", "4"]),
    "a teacher's size in parts of pixels": (["--recipe", "smoke", "teacher.image_size=48.5"], ["teacher.image_size", "whole number", "48.5"]),
    "a size of the student's own": (["--recipe", "smoke", "student.image_size=48"], ["student.image_size", "unknown key"]),
    "labels of an unknown kind": (["--recipe", "smoke", "data.labels=some"], ["data.labels", "'given' or 'none'", "'some'"]),
    "an unknown way with bad pictures": (["--recipe", "smoke", "data.on_bad_image=ignore"], ["data.on_bad_image", "'error' or 'skip'", "'ignore'"]),
    "an unknown augmentation": (["--recipe", "smoke", "data.augment.mixupp=1"], ["data.augment.mixupp", "did you mean 'mixup'"]),
    "an unknown automatic augmentation": (
        ["--recipe", "smoke", "data.augment.auto=randaugment"],
        ["data.augment.auto", "'none', 'trivial' or 'rand'", "'randaugment'"],
    ),
    "no operations": (["--recipe", "smoke", "data.augment.num_ops=0"], ["data.augment.num_ops", "1 or more", "0"]),
    "too many operations": (["--recipe", "smoke", "data.augment.num_ops=6"], ["data.augment.num_ops", "5 or less", "6"]),
    "a magnitude out of range": (["--recipe", "smoke", "data.augment.magnitude=31"], ["data.augment.magnitude", "30 or less", "31"]),
    "a magnitude between two": (["--recipe", "smoke", "data.augment.magnitude=9.5"], ["data.augment.magnitude", "whole number", "9.5"]),
    "a jitter of more than all": (["--recipe", "smoke", "data.augment.brightness=1.5"], ["data.augment.brightness", "1 or less", "1.5"]),
    "a negative jitter": (["--recipe", "smoke", "data.augment.contrast=-0.1"], ["data.augment.contrast", "0 or more", "-0.1"]),
    "a jitter that is nan": (["--recipe", "smoke", "data.augment.saturation=.nan"], ["data.augment.saturation", "nan"]),
    "a turn of more than half the circle": (["--recipe", "smoke", "data.augment.hue=0.6"], ["data.augment.hue", "0.5 or less", "0.6"]),
    "a probability above one": (["--recipe", "smoke", "data.augment.erase=2"], ["data.augment.erase", "1 or less", "2"]),
    "a probability that is true": (["--recipe", "smoke", "data.augment.erase=true"], ["data.augment.erase", "not true or false"]),
    "an area range the wrong way round": (
        ["--recipe", "smoke", "data.augment.erase_scale=[0.5, 0.1]"],
        ["data.augment.erase_scale", "increasing order"],
    ),
    "an area range of one number": (["--recipe", "smoke", "data.augment.erase_scale=0.3"], ["data.augment.erase_scale", "list of 2 numbers"]),
    "an area range from zero": (["--recipe", "smoke", "data.augment.erase_scale=[0, 0.1]"], ["data.augment.erase_scale", "more than 0"]),
    "a negative alpha": (["--recipe", "smoke", "data.augment.mixup=-1"], ["data.augment.mixup", "0 or more", "-1"]),
    "an infinite alpha": (["--recipe", "smoke", "data.augment.cutmix=.inf"], ["data.augment.cutmix", "inf"]),
    "a share of mixed pictures above one": (["--recipe", "smoke", "data.augment.mix=1.5"], ["data.augment.mix", "1 or less", "1.5"]),
    "mixed pictures for a loss that wants one class": (
        ["--recipe", "smoke", *FAST, "data.augment.mixup=0.2", "losses.dkd={weight: 1}"],
        ["losses.dkd", "needs one class for each picture", "losses.dkd=null"],
    ),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a CPU")
@pytest.mark.parametrize("case", RECIPES)
def test_wrong_recipe_is_explained(case, distill):
    arguments, parts = RECIPES[case]
    code, _, err = distill("train", *arguments)
    check_failure(code, err, 2, parts)


def test_all_faults_are_told_at_once(distill):
    _, _, err = distill("train", "--recipe", "smoke", "seed=-1", "losses.kd.temprature=2", "student.model=resnet19", "train.lr=.inf")
    for part in ("seed", "losses.kd.temprature", "student.model", "train.lr"):
        assert part in err


def folder(classes: dict[str, int], root: str = "pictures", part: str = "train", size: int = 40) -> None:
    for name, count in classes.items():
        (Path(root) / part / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(root) / part / name / f"{number}.png")


def broken() -> None:
    folder({"cat": 20, "dog": 20})
    for name in ("3.png", "5.png"):  # whole files are needed to see that these two are cut short
        path = Path("pictures/train/cat") / name
        path.write_bytes(path.read_bytes()[:200])


FOLDERS = {
    "missing": (lambda: None, ["pictures", "no such folder"]),
    "a file": (lambda: Path("pictures").write_text(""), ["pictures", "a file, not a folder"]),
    "empty": (lambda: Path("pictures").mkdir(), ["pictures", "has no folders in it"]),
    "of one class": (lambda: folder({"cat": 20}), ["only one class", "cat"]),
    "with other classes in val": (
        lambda: (folder({"cat": 20, "dog": 20}), folder({"cat": 5, "cow": 5}, part="val")),
        ["val", "missing there: dog", "only there: cow"],
    ),
    "smaller than the batch": (lambda: folder({"cat": 4, "dog": 4}), ["fewer than one batch of 8", "data.global_batch_size="]),
    "with a class without pictures": (lambda: (folder({"cat": 20, "dog": 20}), Path("pictures/train/cow").mkdir()), ["cow", "no pictures"]),
    "with a broken picture": (broken, ["can't read the picture", ".png", "replace or remove"]),
}


@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_picture_folder_is_explained(case, workers, distill):
    make, parts = FOLDERS[case]
    make()
    options = [*FAST, "data.source=imagefolder", "data.root=pictures", "data.image_size=32", f"data.workers={workers}", "train.max_steps=null"]
    code, _, err = distill("train", "--recipe", "smoke", *options)
    check_failure(code, err, 3, parts)
    assert '"exit_code": 3' in Path("runs/smoke-seed0/status.json").read_text()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def truncated(path: str) -> None:
    save_file(create_model("resnet18", num_classes=4).state_dict(), "whole.safetensors")
    data = Path("whole.safetensors").read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def malicious(path: str) -> None:
    torch.save({"state_dict": Malicious()}, path)


def malicious_without_torch(path: str) -> None:
    with Path(path).open("wb") as file:
        pickle.dump({"state_dict": Malicious()}, file)


TEACHERS = {
    "missing": (lambda path: None, "teacher.pth", ["teacher.pth"]),
    "truncated": (truncated, "teacher.safetensors", ["teacher.safetensors"]),
    "of another architecture": (
        lambda path: torch.save(create_model("resnet34", num_classes=4).state_dict(), path),
        "teacher.pth",
        ["teacher.pth", "resnet34"],
    ),
    "of another class count": (
        lambda path: torch.save(create_model("resnet18", num_classes=7).state_dict(), path),
        "teacher.pth",
        ["7 classes", "4"],
    ),
    "a malicious pickle": (malicious, "teacher.pth", ["teacher.pth", "run code", "safetensors"]),
    "a malicious pickle of another making": (malicious_without_torch, "teacher.pth", ["teacher.pth"]),
    "no weights at all": (lambda path: Path(path).write_text("hello"), "teacher.pth", ["teacher.pth"]),
}


@pytest.mark.parametrize("case", TEACHERS)
def test_unusable_teacher_file_is_explained(case, distill):
    make, path, parts = TEACHERS[case]
    make(path)
    code, _, err = distill("train", "--recipe", "smoke", *FAST, f"teacher.weights={path}")
    check_failure(code, err, 3, parts)
    assert not Path("owned").exists()


def test_diverging_loss_stops_and_is_named(distill):
    code, _, err = distill("train", "--recipe", "smoke", *FAST, "train.lr=1e30", "train.max_steps=20", "train.epochs=5", "train.precision=fp32")
    check_failure(code, err, 4, ["step", "the loss", "nan", "train.lr"])
    assert '"exit_code": 4' in Path("runs/smoke-seed0/status.json").read_text()


def test_folder_that_may_not_be_written_is_explained(distill):
    Path("taken").write_text("a file")
    code, _, err = distill("train", "--recipe", "smoke", "runs_dir=taken")
    check_failure(code, err, 3, ["taken", "runs_dir="])
