"""What `fast` decides, and that it is said, written down, and done again when a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, contents
from torch import nn

import distill.fast as fast
import distill.fast_compile as fast_compile
from distill.engine.compiling import Compiled
from distill.engine.network import Network
from distill.models.zoo import create_model

TEACHER = "teacher.pt"


@pytest.fixture
def teacher(distill):
    """The options of a run that learns from a teacher in a file, which is no random one: two steps of training are enough to be compared."""
    torch.manual_seed(0)
    model = create_model("timm/test_resnet", num_classes=4)
    torch.save(model.state_dict(), TEACHER)
    return [*SMALL, f"teacher.weights={TEACHER}", "train.max_steps=2", "run_name=run"]


def decided(run: str = "runs/run") -> dict:
    return json.loads(Path(run, "fast.json").read_text())


def test_teacher_is_folded_and_it_is_said_and_written_down(distill, teacher):
    code, _, err = distill("train", *teacher)
    assert code == 0, err
    assert "teacher: 15 of 15 batch norms folded; 100.00% of its answers are the same class" in err
    made = decided()
    assert made["fast"] == "auto"
    assert made["teacher"] == {"batch_norms": 15, "batch_norms_folded": 15, "weights": "as given", "agreement": 1.0, "why": []}
    assert made["compiled"]["teacher"]["is_compiled"] is False
    assert "pay from" in made["compiled"]["teacher"]["why"]
    assert made["compiled"]["teacher"]["why"] in " ".join(err.split())
    assert made["compiled"]["student"] == {"is_compiled": False, "why": "fast=auto; fast=compile compiles it"}


def test_in_bf16_its_weights_are_held_in_it(distill, teacher, monkeypatch):
    monkeypatch.setattr(fast, "LEAST_HALF", 0.0)  # one that has learned nothing changes its mind more easily
    assert distill("train", *teacher, "train.precision=bf16")[0] == 0
    assert decided()["teacher"]["weights"] == "bfloat16"


def test_fast_off_leaves_everything(distill, teacher):
    code, _, err = distill("train", *teacher, "fast=off")
    assert code == 0, err
    assert "folded" not in err
    assert decided()["teacher"] == {"batch_norms_folded": 0, "weights": "as given", "why": ["fast=off"]}
    assert decided()["compiled"]["teacher"] == {"is_compiled": False, "why": "fast=off"}


def network(dtype: torch.dtype | None = None) -> Network:
    torch.manual_seed(0)
    made = Network(create_model("timm/test_resnet", num_classes=4), mean=(0.5,) * 3, std=(0.25,) * 3, autocast_dtype=dtype)
    return made.eval().requires_grad_(False)


def norms(made: Network) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in made.modules())


@pytest.mark.parametrize("share, is_folded", [(0.999, True), (0.998, False)])
def test_folding_that_changes_answers_is_undone(share, is_folded):
    made = network()
    found = fast._folded(made, torch.zeros(2, 3, 32, 32), lambda: share)
    assert norms(made) == (0 if is_folded else 15)
    assert found["batch_norms_folded"] == (15 if is_folded else 0)
    assert ("batch norms are not folded: 99.80% of the pictures would get the same class, and 99.9% must" in found["why"]) is not is_folded


@pytest.mark.parametrize("share, is_half", [(0.99, True), (0.989, False)])
def test_half_precision_that_changes_answers_is_left(share, is_half):
    made, why = network(torch.bfloat16), []
    found = fast._halved(made, lambda: share, why)
    dtypes = {parameter.dtype for parameter in made.parameters()}
    assert (torch.bfloat16 in dtypes) is is_half
    assert made.autocast_dtype == (torch.bfloat16 if is_half else None)
    assert found == ({"weights": "bfloat16", "agreement": share} if is_half else {"weights": "float32"})
    assert why == ([] if is_half else ["it answers in float32: in bfloat16 98.90% of the pictures would get the same class, and 99% must"])


def test_both_forms_see_the_same_pictures_and_the_first_is_the_yardstick(distill, teacher, monkeypatch):
    """Two forwards give other classes in a quarter of the pictures: that is what is said."""
    found = [np.zeros(24, dtype=np.int64), np.array([1] * 6 + [0] * 18)]
    monkeypatch.setattr(fast, "predict", lambda *_: found.pop(0))
    code, _, err = distill("train", *teacher)
    assert code == 0, err
    assert "75.00% of the pictures would get the same class" in " ".join(err.split())
    assert decided()["teacher"]["batch_norms_folded"] == 0


def test_run_that_goes_on_does_what_it_did_before(distill, teacher, monkeypatch):
    """Also where a comparison, or the machine's speed, would decide otherwise now; and the result is that of a run without a break."""
    options = [option for option in teacher if not option.startswith(("train.max_steps", "run_name"))]
    options += ["train.max_steps=8", "train.checkpoint_every_steps=2", "teacher.cache.use=off"]
    assert distill("train", *options, "run_name=whole")[0] == 0
    from distill.engine.trainer import Trainer
    from distill.errors import StoppedError

    original = Trainer._save_or_stop

    def stop(self: Trainer) -> None:
        original(self)
        if self.step == 4:
            raise StoppedError("stopped")

    monkeypatch.setattr(Trainer, "_save_or_stop", stop)
    assert distill("train", *options, "run_name=broken")[0] == 75
    monkeypatch.setattr(Trainer, "_save_or_stop", original)
    monkeypatch.setattr(fast, "predict", lambda *_: pytest.fail("compared again"))
    monkeypatch.setattr(fast_compile, "_why_not", lambda *_: None)
    before = decided("runs/broken")
    assert distill("train", "--resume", "runs/broken")[0] == 0
    assert decided("runs/broken") == before
    assert contents("runs/broken") == contents("runs/whole")


def test_teacher_is_scored_as_it_was_given_and_not_in_the_form_in_which_it_taught(distill, teacher):
    scores = []
    for fast_key in ("auto", "off"):
        assert distill("train", *teacher, f"run_name={fast_key}", f"fast={fast_key}")[0] == 0
        scores.append(json.loads(Path(f"runs/{fast_key}/summary.json").read_text())["teacher"])
    assert decided("runs/auto")["teacher"]["batch_norms_folded"] == 15
    assert [found["test_nll"] for found in scores] == [scores[0]["test_nll"]] * 2


def test_teacher_whose_file_is_gone_by_then_is_scored_as_it_taught(distill, teacher, monkeypatch):
    from distill.engine.trainer import Trainer

    original = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, *arguments: (original(self, *arguments), Path(TEACHER).unlink()))
    code, _, err = distill("train", *teacher)
    assert code == 0, err
    assert "teacher: it is scored as it taught, because its weights are not what they were" in err


def test_kept_answers_of_another_form_are_not_taken(distill, teacher):
    for number, options in enumerate(([], [], ["fast=off"])):
        assert distill("train", *teacher, f"run_name=run{number}", "teacher.cache.use=on", *options)[0] == 0
    answers = [json.loads(Path(f"runs/run{number}/summary.json").read_text())["teacher"]["answers"] for number in range(3)]
    assert [found["num_asked"] for found in answers] == [answers[0]["num_asked"], 0, answers[0]["num_asked"]]
    assert answers[0]["folder"] == answers[1]["folder"] != answers[2]["folder"]


def test_no_compiler_is_announced_and_the_run_goes_on(distill, teacher, monkeypatch):
    def none(*_):
        raise RuntimeError("Failed to find C++ compiler. Please specify via CXX environment variable.\nmore")

    monkeypatch.setattr(fast_compile, "compile_teacher", none)
    monkeypatch.setattr(fast_compile, "compile_distiller", none)
    code, _, err = distill("train", *teacher, "fast=compile")
    assert code == 0, err
    words = "torch.compile can't (RuntimeError: Failed to find C++ compiler. Please specify via CXX environment variable.); not compiled it computes"
    assert err.count(words) == 2
    assert not decided()["compiled"]["teacher"]["is_compiled"]
    assert not decided()["compiled"]["student"]["is_compiled"]


def test_what_is_compiled_is_said_with_its_break_even(distill, teacher, monkeypatch):
    monkeypatch.setattr(fast_compile, "compile_teacher", lambda *_: Compiled(60.0, 0.005, 0.003))
    monkeypatch.setattr(fast_compile, "compile_distiller", lambda *_: Compiled(60.0, 0.005, 0.006))
    code, _, err = distill("train", *teacher, "fast=compile")
    assert code == 0, err
    pays = "compiled in 60 s, 5 -> 3 ms a picture: pays from 30,000 pictures on, and this run has 40"  # one view: the rest is read from the cache
    assert f"teacher: {pays}" in err
    assert "student and losses: compiled in 60 s, 5 -> 6 ms a picture: not faster here, fast=auto leaves it out" in err
    assert decided()["compiled"]["teacher"] == {"is_compiled": True, "why": pays}


@pytest.mark.parametrize("compiled", [0.003, 0.006])
def test_auto_uses_only_what_is_faster(distill, teacher, monkeypatch, compiled):
    def compile_teacher(teacher, batch):
        teacher.answer = lambda images: pytest.fail("answered by the slower form") if compiled > 0.005 else teacher.network(images)
        return Compiled(60.0, 0.005, compiled)

    monkeypatch.setattr(fast_compile, "compile_teacher", compile_teacher)
    monkeypatch.setattr(fast_compile, "_why_not", lambda *_: None)
    code, _, err = distill("train", *teacher)
    assert code == 0, err
    assert decided()["compiled"]["teacher"]["is_compiled"] is (compiled < 0.005)
    assert ("teacher: compiled in 60 s, 5 -> 6 ms a picture: not faster here, so it is not used" in err) is (compiled > 0.005)


LONG = [("cuda", 0.001, 156_775, True), ("cuda", 0.001, 156_774, False), ("mps", 1.0, 10**9, False)]


@pytest.mark.parametrize("device, seconds, asked, is_compiled", LONG)
def test_long_run_is_compiled(device, seconds, asked, is_compiled):
    """60 s / (1 ms - 1 ms / 1.62) = 156,774.2 pictures."""
    from distill.recipe_files import load_recipe

    assert (fast_compile._why_not(load_recipe("smoke", []), asked, seconds, device) is None) is is_compiled
