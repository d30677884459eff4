"""`distill eval`: scores against the run's own answers and numpy, two networks on the same pictures, other data, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

from distill import cli
from distill.engine import timing
from distill.engine.evaluation import Score
from distill.evaluating.measures import compared_with_own, confusion_counts, measures
from distill.evaluating.show import own_in_words, show

TRAIN = [*SMALL, "train.max_steps=12"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a distilled run `first`, another seed `second`, a student alone `alone`, and one of three classes, `three`."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILL_CACHE", str(folder / "cache"))
        patch.setattr(timing, "SECONDS", 0.0)
        common = ["train", *TRAIN, f"runs_dir={folder}"]
        assert cli.main([*common, "run_name=first"]) == 0
        assert cli.main([*common, "run_name=second", "seed=1"]) == 0
        assert cli.main([*common, "run_name=alone", "teacher=null", "losses.kd=null"]) == 0
        assert cli.main([*common, "run_name=three", "data.arguments.num_classes=3"]) == 0
    return folder


def found(distill, *words: str) -> dict:
    code, out, err = distill("eval", *map(str, words), "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("part", ["test", "val"])
def test_scores_of_a_run_are_those_of_its_own_answers(distill, trained, part):
    (ours,) = found(distill, trained / "first", "--part", part)["targets"]
    arrays = np.load(trained / "first" / "predictions.npz")
    answers, labels = arrays[part], arrays[f"{part}_labels"]
    assert ours["num_pictures"] == len(labels) == 24
    assert ours["top1"] == (answers == labels).mean()
    assert ours["own"] == {"top1": ours["top1"], "is_equal": True, "differing": {}, "also": ours["own"]["also"]}
    assert {"nll", "ece", "brier"} <= set(ours["own"]["also"])
    assert "top5" not in ours
    matrix = np.zeros((4, 4), dtype=int)
    np.add.at(matrix, (labels, answers), 1)
    assert ours["confusion_matrix"] == matrix.tolist()
    assert [(row["num_right"], row["num"]) for row in ours["classes"]] == list(zip(np.diag(matrix), matrix.sum(axis=1), strict=True))
    np.fill_diagonal(matrix, 0)
    assert sum(row["num"] for row in ours["confusions"]) == matrix.sum()
    assert ours["confusions"][0]["num"] == matrix.max()


def test_calibration_is_that_of_the_confidences_that_the_run_kept(distill, trained):
    (ours,) = found(distill, trained / "first")["targets"]
    arrays = np.load(trained / "first" / "predictions.npz")
    confidences, is_right = arrays["test_confidences"].astype(float), arrays["test"] == arrays["test_labels"]
    error = 0.0
    for row in ours["ece_bins"]:
        inside = (confidences > row["above"]) & (confidences <= row["up_to"])
        assert row["num"] == inside.sum()
        if inside.any():
            assert row["confidence"] == pytest.approx(confidences[inside].mean())
            assert row["top1"] == pytest.approx(is_right[inside].mean())
            error += inside.mean() * abs(confidences[inside].mean() - is_right[inside].mean())
    assert ours["ece"] == pytest.approx(error)
    assert sum(row["num"] for row in ours["ece_bins"]) == 24


def test_teacher_of_a_run_is_scored_and_has_its_own_number(distill, trained):
    (ours,) = found(distill, trained / "first", "--role", "teacher")["targets"]
    answers = np.load(trained / "first" / "predictions.npz")
    assert ours["top1"] == (answers["test_teacher"] == answers["test_labels"]).mean()
    assert ours["own"]["is_equal"]
    assert ours["weights"] == "random, of seed 0"


def test_teacher_that_was_trained_here_is_found_and_scores_as_then_also_when_other_data_are_named(distill):
    short = "teacher.overrides={train: {epochs: 1, max_steps: 2, warmup_epochs: 0, precision: fp32}, data: {global_batch_size: 8}}"
    code, _, err = distill("train", *TRAIN, "teacher.weights=train", "teacher.recipe=r18_alone", short, "run_name=taught")
    assert code == 0, err
    (ours,) = found(distill, "runs/taught", "--role", "teacher")["targets"]
    assert ours["own"]["is_equal"]
    assert Path(ours["weights"]).parent.parent == Path("cache/teachers").resolve()
    (other,) = found(distill, "runs/taught", "--role", "teacher", "data.arguments.noise=0.9")["targets"]
    assert (other["weights"], other["own"]) == (ours["weights"], None)
    assert other["nll"] != ours["nll"]


def test_weight_file_with_a_recipe_gives_the_runs_scores(distill, trained):
    weights = shutil.copy(trained / "first" / "student.safetensors", "weights.safetensors")
    (run,) = found(distill, trained / "first")["targets"]
    for recipe in ([str(trained / "first")], ["smoke", "data.arguments={num_train: 40, num_val: 24, num_test: 24}"]):
        if recipe[0] == "smoke":  # a recipe of one's own, as smoke has another model
            text = "extends: smoke\nstudent: {model: timm/test_resnet}\nteacher: {model: timm/test_resnet}\ntrain: {precision: fp32}\n"
            Path("mine.yaml").write_text(text)
            recipe[0] = "mine.yaml"
        (ours,) = found(distill, weights, "--recipe", *recipe)["targets"]
        assert (ours["nll"], ours["top1"], ours["classes"]) == (run["nll"], run["top1"], run["classes"])
        assert ours["own"] is None


def test_two_runs_are_compared_by_mcnemars_exact_test(distill, trained):
    report = found(distill, trained / "first", trained / "second")
    arrays = [np.load(trained / name / "predictions.npz") for name in ("first", "second")]
    ours, theirs = (one["test"] == one["test_labels"] for one in arrays)
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    difference = report["difference"]
    assert (difference["num_only_first_right"], difference["num_only_second_right"]) == (gained, lost)
    assert difference["difference"] == pytest.approx((gained - lost) / 24)
    assert difference["p_value"] == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)
    code, out, _ = distill("eval", str(trained / "first"), str(trained / "second"))
    assert code == 0
    assert f"exact McNemar test on the same 24 test pictures: {gained} of them only the first gets right, {lost} only the second" in out


def write_pictures(source_classes: dict[str, int], folder: Path) -> None:
    """Twelve pictures of each class as the synthetic source has them, as files. source_classes: folder's name -> class."""
    from distill.data.sources.synthetic import Synthetic

    part = Synthetic(num_train=48).train
    for name, label in source_classes.items():
        (folder / name).mkdir(parents=True)
        for row in np.flatnonzero(part.labels == label):
            Image.fromarray(part.pixels[row].permute(1, 2, 0).numpy()).save(folder / name / f"{row:02}.png")


def test_other_data_are_normalised_and_sized_as_in_training(distill, trained):
    write_pictures({f"wave{label}": label for label in range(4)}, Path("pictures"))
    report = found(distill, trained / "first", "data.source=imagefolder", "data.root=pictures", "data.val_fraction=0.25")
    (ours,) = report["targets"]
    assert (ours["data"]["source"], ours["data"]["image_size"], ours["own"], ours["notes"]) == ("imagefolder", 32, None, [])
    assert ours["num_pictures"] == 12
    # independently: the same weights in timm's network, the pictures of the test part, the training data's mean 0.5 and spread 0.25
    import timm

    from distill.data.sources.imagefolder import ImageFolder

    model = timm.create_model("test_resnet", num_classes=4).eval()
    model.load_state_dict(load_file(trained / "first" / "student.safetensors"))
    test = ImageFolder("pictures", 32, 0.25).test
    pixels = torch.stack([test.picture(row) for row in range(len(test))]).float().div(255).sub(0.5).div(0.25)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(model(pixels), torch.from_numpy(test.labels))
    assert ours["nll"] == pytest.approx(losses.item(), rel=1e-5)


def test_classes_in_another_order_are_matched_by_name_and_other_names_are_noted(distill, trained):
    for folder in ("first", "swapped"):
        shutil.copytree(trained / "first", folder)
    summary = json.loads(Path("swapped/summary.json").read_text())
    summary["data"]["class_names"] = ["wave1", "wave0", "wave2", "wave3"]
    Path("swapped/summary.json").write_text(json.dumps(summary))
    (ours,), (swapped,) = (found(distill, name)["targets"] for name in ("first", "swapped"))
    assert [row[1::-1] + row[2:] for row in ours["confusion_matrix"]] == swapped["confusion_matrix"]
    assert "matched by name" in swapped["notes"][0]
    write_pictures({"ant": 0, "bee": 1, "cow": 2, "dog": 3}, Path("pictures"))
    (named,) = found(distill, "first", "data.source=imagefolder", "data.root=pictures", "data.val_fraction=0.25")["targets"]
    assert "'ant' is taken for 'wave0'" in named["notes"][0]


def test_a_score_that_is_not_the_runs_own_is_said(distill, trained):
    shutil.copytree(trained / "first", "first")
    summary = json.loads(Path("first/summary.json").read_text())
    summary["distilled"]["test_top1"] *= 0.5
    Path("first/summary.json").write_text(json.dumps(summary))
    code, out, _ = distill("eval", "first")
    assert code == 0
    assert "This is not the run's own number: top-1 " in out
    assert compared_with_own({"test_top1": 0.5, "test_nll": 1.0}, {"test_top1": 0.5, "test_nll": 1.5}, "test")["differing"] == {"nll": 1.5}
    assert compared_with_own({"test_top1": 0.5}, {}, "test") is None


def made_up(num_classes: int) -> dict:
    """Class k has k + 1 pictures, of which the first is wrong: taken for the next class."""
    labels = np.repeat(np.arange(num_classes), np.arange(1, num_classes + 1))
    answers = labels.copy()
    answers[np.flatnonzero(np.diff(labels, prepend=-1))] = (np.arange(num_classes) + 1) % num_classes
    half = np.full(len(labels), 0.5, dtype=np.float32)
    return measures(Score(answers, half, half, half, labels == labels, None, labels), [f"class {number:02}" for number in range(num_classes)])


def shown(ours: dict, capsys) -> str:
    ours |= {"target": "run", "role": "student", "model": "m", "precision": "fp32", "num_parameters": 1, "own": None, "notes": []}
    ours |= {"data": {"source": "sample", "image_size": 32, "num_classes": len(ours["classes"]), "note": ""}}
    ours |= {"latency": {"batch_size": 64, "one_picture_ms": 1.0, "batch_ms": 2.0}}
    machine = {"processor": "a processor", "num_cores": 2, "device": "cpu", "precision": "fp32", "versions": {"torch": "2"}}
    show({"part": "test", "targets": [ours], "difference": None, "machine": machine})
    return capsys.readouterr().out


def test_of_many_classes_the_worst_and_best_are_shown_and_the_others_counted(capsys):
    out = shown(made_up(40), capsys)
    classes = out[out.index("accuracy by class") : out.index("most frequent confusions")]
    assert "the worst 20 and the best 5; 15 between them are left out" in classes
    names = [line.split("│")[1].strip() for line in classes.splitlines() if "│" in line]
    assert names == [f"class {number:02}" for number in [*range(20), *range(35, 40)]]
    assert "the 10 most frequent confusions of 40" in out
    assert "confusion matrix" not in out
    assert "top-5 100.00%" in out


@pytest.mark.parametrize("columns", [80, 120])
def test_matrix_of_twenty_classes_fits_a_narrow_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    out = shown(made_up(20), capsys)
    rows = [line for line in out[out.index("confusion matrix") :].splitlines() if "class 07" in line]
    cells = [cell.strip() for line in rows for cell in line.split("│")[2:-1]]
    assert cells == ["."] * 7 + ["7", "1"] + ["."] * 11
    assert all(len(line) <= columns for line in out.splitlines() if "│" in line)


def test_confusions_are_counted_by_label_and_answer():
    assert confusion_counts(np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0])) == {(0, 1): 2, (1, 1): 1, (2, 0): 1}


def refused(distill, expected_code: int, *words: str) -> str:
    code, out, err = distill("eval", *map(str, words))
    assert code == expected_code, err
    assert out == ""
    assert err.startswith("error: ")
    return err


def test_words_that_make_no_sense_are_refused(distill, trained, monkeypatch):
    run = trained / "first"
    assert "what is to be scored?" in refused(distill, 2)
    assert "3 targets" in refused(distill, 2, run, run, run)
    assert "--part tests: must be test or val; did you mean 'test'?" in refused(distill, 2, run, "--part", "tests")
    assert "--role pupil: must be student or teacher" in refused(distill, 2, run, "--role", "pupil")
    assert "--batch-size 0" in refused(distill, 2, run, "--batch-size", "0")
    assert "train.epochs=3: only data.KEY=VALUE can be changed" in refused(distill, 2, run, "train.epochs=3")
    assert "did you mean data.root=there?" in refused(distill, 2, run, "root=there")
    assert "is for a weight file" in refused(distill, 2, run, "--recipe", "smoke")
    assert "data.size" in refused(distill, 2, run, "data.size=3")
    assert "num_test" in refused(distill, 2, run, "data.arguments.num_test=many")
    assert "did you mean 'sample'?" in refused(distill, 2, run, "data.source=samples")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "works in one process, and 2 were started" in refused(distill, 2, run)


def test_folders_that_are_no_finished_run_are_refused(distill, trained):
    assert "nowhere: there is no such folder or file" in refused(distill, 3, "nowhere")
    shutil.copytree(trained / "first", "first")
    status = json.loads(Path("first/status.json").read_text())
    Path("first/status.json").write_text(json.dumps(status | {"state": "stopped", "reason": "SIGTERM"}))
    assert "it is not finished (SIGTERM)" in refused(distill, 3, "first")
    Path("empty").mkdir()
    assert "has no summary.json" in refused(distill, 3, "empty")
    Path("first/status.json").write_text(json.dumps(status))
    Path("first/student.safetensors").unlink()
    assert "student.safetensors': there is no such file" in refused(distill, 3, "first")


def test_teachers_that_are_not_there_are_refused(distill, trained):
    assert "it has no teacher" in refused(distill, 2, trained / "alone", "--role", "teacher")
    for name, changes in (("gone", {"weights": "train"}), ("other", {"num_classes": 10, "weights": "teacher.safetensors"})):
        shutil.copytree(trained / "first", name)
        summary = json.loads(Path(name, "summary.json").read_text())
        summary["recipe"]["teacher"] |= changes
        Path(name, "summary.json").write_text(json.dumps(summary))
    assert "its teacher is not there any more" in refused(distill, 3, "gone", "--role", "teacher")
    assert "its teacher knows 10 classes, not these 4" in refused(distill, 3, "other", "--role", "teacher")


def test_weights_of_another_network_are_refused(distill, trained):
    weights, run = trained / "first" / "student.safetensors", trained / "first"
    assert "add --recipe NAME" in refused(distill, 2, weights)
    assert "its weights are of 'timm/test_resnet', and the recipe's model is resnet18" in refused(distill, 3, weights, "--recipe", "smoke")
    three = trained / "three" / "student.safetensors"
    assert "weights know 3 classes, and the data has 4" in refused(distill, 3, three, "--recipe", run)
    assert "knows 4 classes, and the data has 3" in refused(distill, 3, run, "data.arguments.num_classes=3")
    with safe_open(weights, framework="pt") as file:
        assert file.metadata()["model"] == "timm/test_resnet"  # what the refusal above goes by
    save_file({"something": torch.zeros(3)}, "else.safetensors")
    assert "do not fit student.model=timm/test_resnet" in refused(distill, 3, "else.safetensors", "--recipe", run)
    Path("text.safetensors").write_text("this is no such file")
    assert "not a safetensors file" in refused(distill, 3, "text.safetensors", "--recipe", run)
    Path("notes.txt").write_text("text")
    assert "the ending '.txt' is unknown" in refused(distill, 3, "notes.txt", "--recipe", run)


def test_two_runs_on_other_pictures_are_refused_with_the_difference(distill, trained):
    err = refused(distill, 3, trained / "first", trained / "three")
    assert "the classes differ: wave0, wave1, wave2, wave3 (4) and wave0, wave1, wave2 (3)" in err
    assert "data.arguments: " in err
    shutil.copytree(trained / "first", "more")
    for name in ("summary.json", "recipe.resolved.yaml"):
        text = Path("more", name).read_text()
        Path("more", name).write_text(text.replace('"num_test": 24', '"num_test": 32').replace("num_test: 24", "num_test: 32"))
    assert "can't be compared on test: 24 and 32 pictures" in refused(distill, 3, trained / "first", "more")


def test_unchanged_data_that_are_no_longer_the_runs_are_noted(distill, trained):
    shutil.copytree(trained / "first", "first")
    text = Path("first/recipe.resolved.yaml").read_text()
    Path("first/recipe.resolved.yaml").write_text(text.replace("num_test: 24", "num_test: 32"))
    (ours,) = found(distill, "first")["targets"]
    assert ours["own"] is None
    assert ours["notes"] == ["the data are not those that the run had: they have changed since"]


def test_only_what_an_older_run_wrote_down_is_said_to_be_equal():
    own = compared_with_own({"test_top1": 0.8, "test_nll": 0.5, "test_ece": 0.02}, {"test_top1": 0.8}, "test")
    assert own_in_words({"own": own}, "test") == "This equals the run's own test top-1, 80.00%, to the last bit."
