"""`distill export`: the file is the run's student, its card says what the run says, and nothing half-made or other is ever put in place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from handed_over import CLASSES
from safetensors.torch import load_file
from scipy.stats import binomtest

from distill.handover import formats, safetensors_file
from distill.models.zoo import create_model


def exported(distill, *words: str) -> str:
    code, out, err = distill("export", *map(str, words))
    assert code == 0, err
    return out


def student(run: Path) -> torch.nn.Module:
    """The run's network as its recipe says, with its weights."""
    name, num_classes = ("resnet18", 3) if run.name == "ours" else ("timm/test_resnet", 4)
    model = create_model(name, num_classes=num_classes).eval()
    model.load_state_dict(load_file(run / "student.safetensors"))
    return model


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("cache", "taken"))


def test_safetensors_are_the_runs_weights_and_load_in_torchvision(distill, runs):
    exported(distill, runs / "ours", "--to", "safetensors", "-o", "student")
    ours, theirs = load_file("student/model.safetensors"), load_file(runs / "ours" / "student.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    torchvision.models.resnet18(num_classes=3).load_state_dict(ours)
    config = json.loads(Path("student/config.json").read_text())
    assert config["label_names"] == list(CLASSES)
    assert config["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert config["preprocessing"]["image_size"] == 32
    assert left(Path()) == ["student"]


def test_timm_loads_the_folder_in_a_process_that_never_heard_of_distill(distill, runs):
    torch.save(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "pictures.pt")
    lines = ["import sys, timm, torch", "torch.set_num_threads(1)", "pictures = torch.load('pictures.pt')", "with torch.no_grad():"]
    for name in ("ours", "small"):
        exported(distill, runs / name, "--to", "timm", "-o", name)
        assert not list(Path(name).glob("*.bin"))
        lines += [f"    model = timm.create_model('local-dir:{name}', pretrained=True).eval()", f"    torch.save(model(pictures), '{name}.pt')"]
        lines += [f"    torch.save(model.pretrained_cfg, '{name}.cfg')"]
    lines += ["assert not [name for name in sys.modules if name.partition('.')[0] == 'distill']"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("ours", "small"):
        with torch.no_grad():
            assert torch.allclose(torch.load(f"{name}.pt"), student(runs / name)(torch.load("pictures.pt")), atol=1e-6)
        picture = torch.load(f"{name}.cfg")
        assert picture["label_names"] == (list(CLASSES) if name == "ours" else ["wave0", "wave1", "wave2", "wave3"])
        assert tuple(picture["mean"]) == ((0.485, 0.456, 0.406) if name == "ours" else (0.5, 0.5, 0.5))
        assert (tuple(picture["input_size"]), picture["crop_pct"], picture["interpolation"]) == ((3, 32, 32), 1.0, "bilinear")


def test_program_of_torch_export_takes_any_number_of_pictures(distill, runs):
    exported(distill, runs / "small", "--to", "torch-export", "-o", "student")
    assert "`distill predict FOLDER picture.png --trust`" in Path("student/README.md").read_text()
    program, model = torch.export.load("student/model.pt2").module(), student(runs / "small")
    for num in (1, 5):
        pictures = torch.randn(num, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(program(pictures), model(pictures), atol=1e-5)


def test_card_says_what_the_run_says_and_nothing_of_this_machine(distill, runs):
    out = exported(distill, runs / "small", "--to", "safetensors", "-o", "student")
    summary, found = (json.loads(path.read_text()) for path in (runs / "small" / "summary.json", Path("student/export.json")))
    card = Path("student/README.md").read_text()
    for row in ("teacher", "alone", "distilled"):
        for part in ("val", "test"):
            top1, said = summary[row][f"{part}_top1"], found["results"][row][part]
            interval = binomtest(round(24 * top1), 24).proportion_ci(method="wilson")
            assert (said["top1"], said["num_pictures"]) == (top1, 24)
            assert (said["low"], said["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)
            assert f"{100 * top1:.2f} ({100 * said['low']:.2f} to {100 * said['high']:.2f}; n = 24)" in card
    assert found["check"]["num_agreeing"] == found["check"]["num_pictures"] == 24
    assert found["check"]["run_top1"] == found["check"]["export_top1"] == summary["distilled"]["val_top1"]
    assert "the same class for 24 (100.00%) of the 24 val pictures" in out
    assert found["recipe"]["losses"].keys() == {"ce", "kd"}
    for text in (card, Path("student/export.json").read_text(), Path("student/config.json").read_text()):
        assert str(runs) not in text
        assert str(Path.cwd()) not in text


def test_licence_of_the_teachers_weights_is_timms(distill, runs):
    shutil.copytree(runs / "small", "taught")
    summary = json.loads(Path("taught/summary.json").read_text())
    summary["recipe"]["teacher"] |= {"model": "resnet50", "weights": "timm:resnet50.a1_in1k", "num_classes": 1000}
    Path("taught/summary.json").write_text(json.dumps(summary))
    exported(distill, "taught", "--to", "safetensors", "-o", "student")
    assert "the teacher is resnet50, timm:resnet50.a1_in1k: timm gives the licence apache-2.0." in Path("student/README.md").read_text()
    summary["recipe"]["teacher"]["weights"] = "/home/somebody/secret/best.pth"
    Path("taught/summary.json").write_text(json.dumps(summary))
    exported(distill, "taught", "--to", "safetensors", "-o", "student")
    card = Path("student/README.md").read_text() + Path("student/export.json").read_text()
    assert "the teacher is resnet50, best.pth: weights from a file or run, whose licence is not known here." in card
    assert "secret" not in card


LINEAGES = {
    "from resnet50, which learned from resnet101 (": {"teacher": {"model": "resnet50", "teacher": {"model": "resnet101", "recipe": "r50_alone"}}},
    "from resnet50 and resnet101 (": {
        "teacher": None,
        "teachers": [{"model": "resnet50", "recipe": "r50_alone"}, {"model": "resnet101", "weights": "hf-hub:org/them"}],
    },
    "from resnet50 and resnet34, one of them drawn for each view of a picture": {
        "teacher": None,
        "teachers": [{"model": "resnet50", "weights": "a.pth"}, {"model": "resnet34", "weights": "random"}],
        "answers": "sampled",
    },
    "from the moving average of its own weights": {"teacher": None, "method": "ema_teacher", "train": {"ema_decay": 0.9}},
    "together with resnet34, each from the other": {"teacher": None, "method": "mutual", "peer": {"model": "resnet34"}},
    "from labels alone": {"teacher": None, "losses": {"ce": {"weight": 1.0}}},
}


@pytest.mark.parametrize(("said", "changed"), LINEAGES.items())
def test_card_says_whom_the_student_learned_from(distill, runs, said, changed):
    shutil.copytree(runs / "small", "taught")
    summary = json.loads(Path("taught/summary.json").read_text())
    recipe = summary["recipe"]
    train = recipe["train"] | changed.get("train", {})
    summary["recipe"] = recipe | changed | {"train": train}
    Path("taught/summary.json").write_text(json.dumps(summary))
    exported(distill, "taught", "--to", "safetensors", "-o", "student", "--no-check")
    card = Path("student/README.md").read_text()
    assert f"that learned {said}" in card
    assert ("- licence: the teacher is resnet101, hf-hub:org/them: its page on the hub" in card) is ("hf-hub" in str(changed))


def spoil(monkeypatch, change) -> None:
    """From now on the weights are changed while they are written."""
    write = safetensors_file.write

    def spoilt(model, folder, image_size, calibration):
        path = write(model, folder, image_size, calibration)
        tensors = load_file(path)
        change(tensors)
        path.unlink()
        model.load_state_dict(tensors)
        written = write(model, folder, image_size, calibration)
        model.load_state_dict({name: tensor.clone() for name, tensor in before.items()})
        return written

    before = {}
    monkeypatch.setattr(safetensors_file, "write", lambda model, *rest: before.update(_copy(model)) or spoilt(model, *rest))


def _copy(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def answering(change):
    """A format's `load`, whose answers are changed."""
    load = safetensors_file.load

    def changed(path, plugins):
        answer = load(path, plugins)
        return lambda pictures: change(answer(pictures))

    return changed


def test_file_that_answers_otherwise_is_not_put_in_place(distill, runs, monkeypatch):
    exported(distill, runs / "small", "--to", "safetensors", "-o", "student")
    before = {path.name: path.read_bytes() for path in Path("student").iterdir()}
    spoil(monkeypatch, lambda tensors: tensors["fc.weight"].neg_())
    for folder in ("student", "other"):
        code, _, err = distill("export", str(runs / "small"), "--to", "safetensors", "-o", folder)
        assert code == 1
        assert "model.safetensors is not the student of" in err
        assert "Nothing was put in place" in err
    assert {path.name: path.read_bytes() for path in Path("student").iterdir()} == before
    assert left(Path()) == ["student"]


def test_difference_of_a_logit_alone_is_enough(distill, runs, monkeypatch):
    spoil(monkeypatch, lambda tensors: tensors["fc.bias"].add_(0.05))
    code, _, err = distill("export", str(runs / "small"), "--to", "safetensors", "-o", "student")
    assert code == 1
    assert "a logit differs by" in err
    assert "agrees" not in err.splitlines()[0]
    exported(distill, runs / "small", "--to", "safetensors", "-o", "student", "--min-agreement", "1")


def test_answers_that_are_not_finite_are_refused(distill, runs, monkeypatch):
    monkeypatch.setattr(safetensors_file, "load", answering(lambda logits: logits / 0))
    code, _, err = distill("export", str(runs / "small"), "--to", "safetensors", "-o", "student", "--min-agreement", "0.01")
    assert code == 1
    assert "nan or infinite" in err
    assert left(Path()) == []


def test_int8_gets_normalised_training_pictures_and_has_its_own_limits(distill, runs, monkeypatch):
    given = {}

    def write(model, folder, image_size, calibration):
        given["pictures"] = calibration
        return safetensors_file.write(model, folder, image_size, calibration)

    stand_in = types.SimpleNamespace(write=write, load=answering(lambda logits: logits + 0.01))
    monkeypatch.setattr(formats, "_module", lambda name: stand_in)
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: object())
    exported(distill, runs / "small", "--to", "int8", "-o", "student")
    assert given["pictures"].shape == (40, 3, 32, 32)
    assert given["pictures"].dtype == torch.float32
    assert abs(given["pictures"].mean()) < 1 < given["pictures"].max()  # of normalised pictures, not of pixels
    stand_in.load = answering(lambda logits: -logits)
    code, _, err = distill("export", str(runs / "small"), "--to", "int8", "-o", "other")
    assert code == 1
    assert "98.00% is the least" in err
    code, _, err = distill("export", str(runs / "small"), "--to", "int8", "-o", "other", "--no-check")
    assert code == 2
    assert "leave out --no-check" in err


def test_missing_package_is_named_with_the_extra(distill, runs, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    code, _, err = distill("export", str(runs / "small"), "--to", "onnx", "-o", "student")
    assert code == 2
    assert 'onnx needs onnxscript, which is not installed here: pip install "distill[onnx]"' in err


def test_disk_that_fills_up_leaves_nothing(distill, runs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_file, "write", full)
    code, _, err = distill("export", str(runs / "small"), "--to", "safetensors", "-o", "student")
    assert code == 3
    assert "No space left on device" in err
    assert left(Path()) == []


def test_folder_is_taken_only_where_nothing_is_lost(distill, runs):
    command = ("export", str(runs / "small"), "--to", "safetensors", "-o")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    Path("file").write_text("")
    Path("empty").mkdir()
    for folder, message in (("mine", "mine is not empty, and is no earlier export"), ("file", "file is a file")):
        code, _, err = distill(*command, folder)
        assert code == 3
        assert message in err
    assert distill(*command, "empty")[0] == 0
    assert distill(*command[:3], "timm", "-o", "empty")[0] == 0
    assert json.loads(Path("empty/config.json").read_text())["architecture"] == "test_resnet"
    Path("empty/notes.txt").write_text("mine")
    code, _, err = distill(*command, "empty")
    assert code == 3
    assert "has other files in it (notes.txt)" in err
    assert Path("empty/notes.txt").read_text() == "mine"


def test_data_that_have_moved_are_asked_for(distill, runs):
    shutil.copytree(runs / "ours", "ours")
    shutil.copytree(runs / "pictures", "moved")
    summary = Path("ours/summary.json").read_text().replace(str(runs / "pictures"), "/nowhere")
    Path("ours/summary.json").write_text(summary)
    recipe = Path("ours/recipe.resolved.yaml")
    recipe.write_text(recipe.read_text().replace(str(runs / "pictures"), "/nowhere"))
    command = ("export", "ours", "--to", "safetensors", "-o", "student")
    code, _, err = distill(*command)
    assert code == 3
    assert "Name them with data.root=FOLDER" in err
    assert distill(*command, "data.root=moved")[0] == 0
    code, out, err = distill(*command, "--no-check")
    assert code == 0, err
    assert "Not checked" in out
    assert "**Not checked**" in Path("student/README.md").read_text()
    assert json.loads(Path("student/config.json").read_text())["preprocessing"]["mean"] == [0.485, 0.456, 0.406]


def test_other_pictures_are_noted_and_other_classes_refused(distill, runs):
    shutil.copytree(runs / "pictures", "more")
    shutil.copy("more/ant/00.png", "more/ant/99.png")
    command = ("export", str(runs / "ours"), "--to", "safetensors", "-o", "student", "data.root=more")
    code, _, err = distill(*command)
    assert code == 0
    assert "note: checked on other pictures than the run's own" in err
    assert "Note: checked on other pictures" in Path("student/README.md").read_text()
    Path("more/ant").rename("more/zebra")
    code, _, err = distill(*command)
    assert code == 3
    assert "knows 3 classes (ant, bee, cow, ...)" in err


def test_val_top1_of_the_check_is_that_of_the_runs_own_answers(distill, runs):
    exported(distill, runs / "ours", "--to", "safetensors", "-o", "student")
    arrays = np.load(runs / "ours" / "predictions.npz")
    check = json.loads(Path("student/export.json").read_text())["check"]
    assert check["export_top1"] == (arrays["val"] == arrays["val_labels"]).mean()
    assert check["difference"] == 0


@pytest.mark.parametrize(
    "change, code, message",
    [
        (lambda run: run / "student.safetensors", 2, "is a file; name the folder of a finished run"),
        (lambda run: run / "nothing", 3, "there is no such folder"),
        (lambda run: run.parent, 3, "no run's folder"),
        (lambda run: _with_status(run, "stopped", "stopped by SIGTERM"), 3, "it is not finished (stopped by SIGTERM)"),
        (lambda run: _with_status(run, "running", None), 3, "it is still going, or was killed"),
        (lambda run: _of_a_teacher(run), 3, "holds a teacher that distill has trained for other runs"),
        (lambda run: _without_weights(run), 3, "there is no such file"),
    ],
)
def test_what_is_no_finished_run_is_refused(distill, runs, change, code, message):
    run = Path(shutil.copytree(runs / "small", "taken/small"))
    found, _, err = distill("export", str(change(run)), "--to", "safetensors", "-o", "student")
    assert found == code
    assert message in err
    assert left(Path()) == []


def _with_status(run: Path, state: str, reason: str | None) -> Path:
    (run / "status.json").write_text(json.dumps({"state": state, "exit_code": None, "reason": reason}))
    return run


def _of_a_teacher(run: Path) -> Path:
    summary = json.loads((run / "summary.json").read_text()) | {"run_name": "teacher resnet50"}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def _without_weights(run: Path) -> Path:
    (run / "student.safetensors").unlink()
    return run


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "which run?"),
        (["a", "b"], "2 runs (a, b): one at a time"),
        (["a", "train.epochs=3"], "only data.KEY=VALUE can be changed"),
        (["a", "--min-agreement", "98"], "a share between 0 and 1"),
        (["a", "--min-agreement", "0.9", "--no-check"], "take one of them"),
    ],
)
def test_words_that_make_no_sense(distill, words, message):
    code, _, err = distill("export", *words, "--to", "timm", "-o", "student")
    assert code == 2
    assert message in err


def test_unknown_format_is_answered_with_those_that_there_are(distill, capsys):
    with pytest.raises(SystemExit) as ended:
        distill("export", "runs/a", "--to", "onxx", "-o", "student")
    assert ended.value.code == 2
    assert "onnx" in capsys.readouterr().err


def test_onnx_file_holds_its_classes_and_answers_as_the_run(distill, runs):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported(distill, runs / "small", "--to", "onnx", "-o", "student")
    config = json.loads(Path("student/config.json").read_text())
    path = Path("student") / config["file"]
    facts = {one.key: json.loads(one.value) for one in onnx.load(path).metadata_props}
    assert facts == {"label_names": ["wave0", "wave1", "wave2", "wave3"], "preprocessing": config["preprocessing"]}
    images = torch.randn(5, 3, 32, 32)
    (answer,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(answer), student(runs / "small")(images), atol=1e-4)


def test_int8_file_is_smaller_and_asked_by_predict(distill, runs):
    pytest.importorskip("torchao")
    out = exported(distill, runs / "small", "--to", "int8", "-o", "student", "--min-agreement", "0.5")
    assert "int8" in out
    found = json.loads(Path("student/export.json").read_text())
    assert found["check"]["export_bytes"] < 0.5 * found["check"]["run_bytes"]  # of so small a network half is text; 0.27 of a ResNet-18
    picture = next((runs / "pictures").rglob("*.png"))
    code, out, err = distill("predict", "student", str(picture), "--trust", "--json")
    assert code == 0, err
    assert "wave" in out
