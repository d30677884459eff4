"""`distill predict`: the run's own answers to the bit, exports alike, plain torchvision alike, and bad pictures named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from handed_over import CLASSES
from PIL import Image

from distill.build.loaders import evaluation_loader
from distill.data.sources.imagefolder import ImageFolder
from distill.data.sources.sample import Sample
from distill.engine.runtime import make_accelerator
from distill.engine.stopping import Stopper
from distill.evaluating.networks import build_network
from distill.evaluating.options import Words
from distill.evaluating.targets import read_targets
from distill.handover.predict import Answerer, _picture, answered, open_answerer
from distill.handover.words import PredictWish
from distill.report.console import make_console
from distill.resolve import Catalogue
from distill.running import Job

ROOT = Path(__file__).resolve().parent.parent
PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def job():
    make_accelerator()
    return Job(Catalogue(), PartialState(), make_console(is_main=True), Stopper())


def wish(source: Path) -> PredictWish:
    return PredictWish(str(source), [], 1, 64, False, False, ())


def predicted(distill, *words: object) -> dict:
    code, out, err = distill("predict", *map(str, words), "--json")
    assert code == 0, err
    return json.loads(out)


def val_files(runs: Path) -> tuple[ImageFolder, list[Path]]:
    source = ImageFolder(str(runs / "pictures"), 32, 0.25)
    files = sorted((runs / "pictures").rglob("*.png"))
    return source, [files[row] for row in source.val.sample_ids]


def test_logits_of_val_pictures_are_the_evaluations_own_to_the_bit(runs, job):
    source, files = val_files(runs)
    (target,) = read_targets(Words([str(runs / "ours")], [], None, "val", "student", 1), Catalogue())
    network, _ = build_network(target, source, job)
    ((positions, batch),) = evaluation_loader(target.recipe, source, source.val, make_accelerator())
    with torch.no_grad():
        expected = network(batch.images).logits
    ((found, logits, failed),) = answered(open_answerer(wish(runs / "ours"), job), [files[position] for position in positions], 64)
    assert len(found) == len(source.val) == 9
    assert failed == []
    assert torch.equal(logits, expected)


def test_classes_are_those_of_the_runs_own_answers(distill, runs):
    _, files = val_files(runs)
    answers = [CLASSES[one] for one in np.load(runs / "ours" / "predictions.npz")["val"]]
    found = predicted(distill, runs / "ours", *files)
    assert [one["classes"][0]["name"] for one in found["pictures"]] == answers
    assert [one["picture"] for one in found["pictures"]] == [str(file) for file in files]


def test_grey_pictures_of_the_sample_are_prepared_to_the_same_bytes(job, runs):
    source, shown = Sample(), []
    for row in range(3):
        Image.fromarray(source.val.pixels[row, 0].numpy(), mode=None).save(f"{row}.png")
    known = open_answerer(wish(runs / "ours"), job)

    def network(images):
        shown.append(images)
        return known.network(images)

    network.mean = known.network.mean
    list(answered(Answerer(network, known.class_names, 28, known.decoder), [Path(f"{row}.png") for row in range(3)], 2))
    assert torch.equal(torch.cat(shown), source.val.pixels[:3])


@pytest.mark.parametrize("to", ["safetensors", "timm", "torch-export"])
def test_an_export_answers_as_the_run_does_and_so_do_the_lines_of_its_card(distill, runs, to, monkeypatch, capsys):
    assert distill("export", str(runs / "ours"), "--to", to, "-o", "student")[0] == 0
    ours = predicted(distill, "student", runs / "pictures", "--top", 3, *(["--trust"] if to == "torch-export" else []))["pictures"]
    theirs = predicted(distill, runs / "ours", runs / "pictures", "--top", 3)["pictures"]
    assert len(ours) == 36
    assert [[one["name"] for one in answer["classes"]] for answer in ours] == [[one["name"] for one in answer["classes"]] for answer in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert [entry["probability"] for entry in one["classes"]] == pytest.approx([entry["probability"] for entry in other["classes"]], abs=1e-5)
        assert sum(entry["probability"] for entry in one["classes"]) == pytest.approx(1)
    monkeypatch.chdir("student")
    shutil.copy(ours[20]["picture"], "picture.png")
    (lines,) = re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.DOTALL | re.MULTILINE)
    exec(lines, {})
    assert capsys.readouterr().out.split() == [ours[20]["classes"][0]["name"]]


def test_docs_lines_of_plain_torchvision_name_the_same_classes(distill, runs, job, capsys):
    """And prepare each picture to the same bytes but for a grey level at most, as the docs say."""
    assert distill("export", str(runs / "ours"), "--to", "safetensors", "-o", "student")[0] == 0
    files = val_files(runs)[1][::2]
    expected = [one["classes"][0]["name"] for one in predicted(distill, "student", *files)["pictures"]]
    assert len(set(expected)) > 1
    (lines,) = [text for text in PYTHON if "torchvision.models" in text]
    assert "distill" not in lines
    answerer = open_answerer(wish(runs / "ours"), job)
    for file in files:
        scope = {}
        shutil.copy(file, "picture.png")
        exec(lines, scope)
        assert np.abs(np.array(scope["picture"]).astype(int) - _picture(answerer, file).permute(1, 2, 0).numpy()).max() <= 1
    assert capsys.readouterr().out.split() == expected


def test_docs_lines_for_timm_name_the_same_class(distill, runs, capsys):
    assert distill("export", str(runs / "small"), "--to", "timm", "-o", "student-timm")[0] == 0
    file = runs / "pictures" / "ant" / "00.png"
    (expected,) = predicted(distill, "student-timm", file)["pictures"]
    shutil.copy(file, "picture.png")
    (lines,) = [text for text in PYTHON if "import timm" in text]
    exec(lines, {})
    assert capsys.readouterr().out.split() == [expected["classes"][0]["name"]]


def test_bad_pictures_are_named_and_the_others_done(distill, runs):
    good = sorted((runs / "pictures" / "ant").glob("*.png"))[:3]
    Path("broken.png").write_bytes(good[0].read_bytes()[:200])
    Path("words.jpg").write_text("no picture")
    code, out, err = distill("predict", str(runs / "ours"), str(good[0]), "broken.png", str(good[1]), "nothing.png", "words.jpg", str(good[2]))
    assert code == 3
    assert "3 of 6 can't be read; the others are done" in err
    assert all(name in err for name in ("broken.png", "nothing.png: there is no such file", "words.jpg"))
    assert all(str(file) in out for file in good)
    code, out, err = distill("predict", str(runs / "ours"), "broken.png", "--json")
    assert code == 3
    assert json.loads(out)["pictures"] == []
    assert "broken.png" in json.loads(out)["unreadable"][0]


def test_batches_give_the_same_answers_and_each_picture_once(distill, runs):
    folder = runs / "pictures"
    together = predicted(distill, runs / "ours", folder)["pictures"]
    apart = predicted(distill, runs / "ours", folder / "ant" / "00.png", folder, "--batch-size", 5)["pictures"]
    names = [{one["picture"]: one["classes"][0]["name"] for one in found} for found in (together, apart)]
    assert names[0] == names[1]
    assert len(apart) == len(together) == 36


def test_table_has_a_row_for_each_picture(distill, runs):
    code, out, _ = distill("predict", str(runs / "ours"), str(runs / "pictures" / "bee"), "--top", "2")
    assert code == 0
    rows = [line for line in out.splitlines() if ".png" in line]
    assert len(rows) == 12
    assert all("%" in row for row in rows)
    assert "next" in out


def test_the_data_of_the_run_need_not_be_there(distill, runs):
    shutil.copytree(runs / "ours", "ours")
    for name in ("summary.json", "recipe.resolved.yaml"):
        Path("ours", name).write_text(Path("ours", name).read_text().replace(str(runs / "pictures"), "/nowhere"))
    file = runs / "pictures" / "cow" / "03.png"
    assert predicted(distill, "ours", file)["pictures"] == predicted(distill, runs / "ours", file)["pictures"]


def test_program_is_not_loaded_without_trust(distill, runs):
    assert distill("export", str(runs / "small"), "--to", "safetensors", "-o", "student")[0] == 0
    config = json.loads(Path("student/config.json").read_text()) | {"format": "torch-export", "file": "model.pt2"}
    Path("student/config.json").write_text(json.dumps(config))
    Path("student/model.pt2").write_bytes(b"anything")
    picture = str(runs / "pictures" / "ant" / "00.png")
    code, _, err = distill("predict", "student", picture)
    assert code == 2
    assert "add --trust if you know who made it" in err
    code, _, err = distill("predict", "student", picture, "--trust")
    assert code == 3
    assert "model.pt2 can't be read" in err


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.update(format="tflite"), "the format 'tflite', which is not known"),
        (lambda config: config.update(file="weights.safetensors"), "weights.safetensors is missing"),
        (lambda config: config["model"].update(name="os.system"), "model 'os.system' is unknown"),
        (lambda config: config["model"].update(name="timm/test_convnext"), "do not fit student.model=timm/test_convnext"),
        (lambda config: config["model"].update(arguments={"pretrained": True}), "arguments can't set pretrained"),
    ],
)
def test_export_of_a_stranger_is_refused_by_what_is_wrong(distill, runs, change, message):
    assert distill("export", str(runs / "small"), "--to", "safetensors", "-o", "student", "--no-check")[0] == 0
    config = json.loads(Path("student/config.json").read_text())
    change(config)
    Path("student/config.json").write_text(json.dumps(config))
    code, _, err = distill("predict", "student", str(runs / "pictures" / "ant" / "00.png"))
    assert code in (2, 3)
    assert message in err


@pytest.mark.parametrize(
    "words, code, message",
    [
        ([], 2, "which pictures?"),
        (["runs/a"], 2, "such as distill predict runs/a cat.jpg"),
        (["empty", "a.png"], 3, "empty is no run's folder, and no export of one"),
        (["nothing", "a.png"], 3, "there is no such folder"),
        (["a", "b", "--top", "0"], 2, "--top 0: a whole number, 1 or more"),
        (["a", "b", "--batch-size", "0"], 2, "--batch-size 0"),
    ],
)
def test_words_that_make_no_sense(distill, words, code, message):
    Path("empty").mkdir()
    found, _, err = distill("predict", *words)
    assert found == code
    assert message in err


def test_folder_without_pictures_is_named(distill, runs):
    Path("empty").mkdir()
    code, _, err = distill("predict", str(runs / "ours"), "empty")
    assert code == 3
    assert "empty has no pictures in it" in err
