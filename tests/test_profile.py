"""distill doctor --profile: every part of a step is named and timed, costs are those that can be worked out by hand, and the picture is whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console
from runs import SMALL
from torch import nn

from distill.data.loader import TrainingLoader
from distill.data.sampler import StepSampler
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.doctor import ceilings, measures
from distill.doctor.ceilings import Ceilings, Traffic
from distill.doctor.findings import Findings
from distill.doctor.marks import OTHER, TRANSFER, Meter, _Transfers, parts_of
from distill.doctor.profile import _counts, _times, profile
from distill.doctor.profile_picture import draw
from distill.doctor.profile_show import bar, milliseconds, show_profile
from distill.engine.distiller import Distiller
from distill.engine.network import Network
from distill.engine.optim import make_optimizer
from distill.engine.runtime import make_accelerator
from distill.engine.teacher import Teacher
from distill.engine.trainer import Trainer
from distill.losses.ce import CrossEntropy
from distill.losses.kd import KD
from distill.structures import Outputs

NORMAL = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
PARTS = ["loader", "transfer", "teacher", "student", "loss ce", "loss kd", "backward", "gradient check", "optimizer", "other"]
PIXELS, CLASSES, BATCH = 3 * 32 * 32, 4, 8


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(measures, "_SECONDS_MEASURED", 0.0)
    monkeypatch.setattr(ceilings, "_ON_CPU", (64, (2, 8, 8), 1 << 16))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def linear_trainer(accumulation: int = 1) -> Trainer:
    """Networks of one linear layer each, whose costs can be counted by hand."""
    source, accelerator = Synthetic(num_train=24, num_val=8, num_test=8), make_accelerator()
    student, teacher = (Network(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)), channels_last=False, **NORMAL) for _ in range(2))
    distiller = Distiller(student, {"ce": CrossEntropy(), "kd": KD()}, {"ce": 0.5, "kd": 0.5})
    sampler = StepSampler(24, BATCH, seed=0, accumulation=accumulation)
    return Trainer(
        accelerator=accelerator,
        distiller=distiller,
        teacher=Teacher(teacher),
        optimizer=make_optimizer(distiller, name="sgd", lr=0.1, weight_decay=0.0),
        loader=TrainingLoader(source.train, Views(32, crop="none", flip=0.0), sampler, view_seed=0, num_views=9, device=accelerator.device),
        schedule=lambda step: 0.1,
        num_steps=100,
        evaluate=lambda check: {"val_top1": 0.0},
        log=lambda event: None,
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_flops_are_those_of_the_matrix_products(accumulation):
    counts = _counts(linear_trainer(accumulation))
    product = 2 * BATCH * PIXELS * CLASSES  # of the whole batch, in however many parts
    assert {part: flops for part, (flops, _) in counts.items() if flops} == {"teacher": product, "student": product, "backward": product}
    assert set(counts) == set(PARTS) - {"transfer"}


def test_profile_adds_up_and_leaves_the_networks_as_they_were():
    trainer = linear_trainer()
    before = {name: tensor.clone() for name, tensor in trainer.trained.distiller.state_dict().items()}
    report = profile(trainer, "fp32", None, found := Findings())
    assert [part["part"] for part in report["parts"]] == PARTS == parts_of(trainer)
    assert math.fsum(part["share"] for part in report["parts"]) == pytest.approx(1)
    assert math.fsum(part["seconds"] for part in report["parts"]) >= 0.999 * report["seconds_per_step_in_parts"]
    assert report["flops"] == 3 * 2 * BATCH * PIXELS * CLASSES
    assert report["bytes"] == sum(part["bytes"] for part in report["parts"])
    measured = report["ceilings"]
    floor = max(report["flops"] / measured["flops_per_second"], report["bytes"] / measured["bytes_per_second"])
    assert report["floor_seconds"] == pytest.approx(floor)
    assert report["share_of_floor"] == pytest.approx(floor / report["seconds_per_step"])
    assert not found.warnings
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.trained.distiller.state_dict().items())
    modules = list(trainer.trained.distiller.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert isinstance(trainer.teacher, Teacher)
    assert "epoch" not in vars(trainer.loader)


def test_networks_whose_operators_are_not_counted_are_warned_of():
    trainer = linear_trainer()
    trainer.teacher = lambda batch: Outputs(torch.zeros(len(batch.images), CLASSES), {})
    profile(trainer, "fp32", None, found := Findings())
    assert [warning.partition(" has ")[0] for warning in found.warnings] == ["the teacher"]


def test_steps_can_be_timed_together_and_without_parts():
    trainer = linear_trainer()
    rows = _times(trainer, 2, 3, tells_parts=False)  # 8 steps, of 3 in an epoch
    assert [list(row) for row in rows] == [[OTHER]] * 3
    assert trainer.step == 8
    assert len(_times(trainer, 2, 3)) == 3


def test_meter_gives_each_part_what_came_until_the_next_mark():
    meter = Meter(iter(np.array([[0], [1], [3], [10], [20], [21], [25], [30]])).__next__, every=2)
    meter.start()  # 0
    meter.mark("first")  # 1
    meter.mark("second")  # 3
    meter.pause()  # 10
    meter.end_step()
    meter.start()  # 20
    meter.mark("first")  # 21
    meter.end_step()  # 25
    assert [{part: value.item() for part, value in row.items()} for row in meter.rows] == [{OTHER: 1.0, "first": 3.0, "second": 3.5}]


def test_transfers_are_told_from_other_conversions():
    meter = Meter(lambda: np.zeros(1))
    seen = []
    meter.mark = seen.append
    with _Transfers(meter):
        torch.ones(2).to(torch.float64).to(torch.device("cpu"))
        assert seen == []
        torch.ones(2).to(torch.device("meta"), non_blocking=True)
    assert seen == [TRANSFER, "loader"]


@pytest.mark.parametrize(
    "work, num_bytes",
    [
        (lambda a, b: a + b, 3 * 4 * 24),
        (lambda a, b: a.view(-1)[3:].detach(), 0),
        (lambda a, b: torch.empty(1000), 0),
        (lambda a, b: a.mul_(2), 2 * 4 * 24),
        (lambda a, b: a @ b.T, 4 * (24 + 24 + 16)),
        (lambda a, b: b[:1].expand(4, 6) * a, 4 * (6 + 24 + 24)),  # a row that is seen four times lies there once
        (lambda a, b: a.to(torch.bfloat16), (4 + 2) * 24),
    ],
)
def test_bytes_of_one_operator_are_its_tensors(work, num_bytes):
    a, b = torch.rand(4, 6), torch.rand(4, 6)
    with Traffic() as traffic:
        work(a, b)
    assert traffic.num_bytes == num_bytes


def test_floor_is_the_larger_of_both():
    device = Ceilings(flops_per_second=100.0, flops_of="", bytes_per_second=10.0)
    assert device.floor(200, 10) == (2.0, "arithmetic")
    assert device.floor(200, 50) == (5.0, "memory")


def test_ceilings_are_measured():
    measured = ceilings.measure_ceilings(torch.device("cpu"), torch.float32)
    assert measured.flops_of in ("matrix product", "3x3 convolution")
    assert 0 < measured.flops_per_second < math.inf
    assert 0 < measured.bytes_per_second < math.inf


def test_command_reports_the_recipes_own_parts_and_writes_nothing(distill):
    extra = ["losses.fitnet={weight: 1, layers: [layer2]}", "train.ema_decay=0.9", "train.accumulation=2", "train.clip_norm=1"]
    code, out, err = distill("doctor", *SMALL, "--profile", "--json", *extra)
    assert (code, err) == (0, "")
    report = json.loads(out)["profile"]
    names = [part["part"] for part in report["parts"]]
    assert names == [*PARTS[:6], "loss fitnet", *PARTS[6:-1], "moving average", "other"]
    assert all(part["seconds"] > 0 for part in report["parts"] if part["part"] not in ("transfer", "other"))
    assert report["images_per_step"] == 8
    assert list(Path().iterdir()) == []


def test_recipe_without_a_teacher_has_no_such_part(distill):
    code, out, _ = distill("doctor", *SMALL, "--profile", "--json", "teacher=null", "losses.kd=null", "control=false")
    assert code == 0, out
    assert "teacher" not in [part["part"] for part in json.loads(out)["profile"]["parts"]]


@pytest.mark.parametrize("columns", [80, 120])
def test_command_draws_on_the_terminal_and_into_a_file(columns, distill, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = distill("doctor", *SMALL, "--profile-picture", "step.svg")
    assert code == 0
    assert err == "written: step.svg\n"
    shown = out[out.index("Where the time of a step goes") :]
    for part in (*PARTS, "step", "This device at most", "Floor"):
        assert f"\n  {part}" in shown
    assert "█" in shown
    assert max(map(len, shown.splitlines())) <= columns
    assert [path.name for path in Path().iterdir()] == ["step.svg"]
    words = [element.text for element in ElementTree.parse("step.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert set(PARTS) <= set(words)


def test_picture_shows_each_part_to_scale_and_escapes_names():
    report = profile(linear_trainer(), "fp32", None, Findings())
    report["parts"][2] |= {"part": "loss <b> & so on, at length"}
    root = ElementTree.fromstring(draw("a<b>", report))
    bars = root.findall("{http://www.w3.org/2000/svg}rect[@class='bar s1']")
    widths = [float(element.get("width")) for element in bars]
    seconds = [part["seconds"] for part in report["parts"]]
    assert len(bars) == len(PARTS)
    assert np.array(widths) / max(widths) == pytest.approx(np.array(seconds) / max(seconds), abs=0.002)
    assert root.find("{http://www.w3.org/2000/svg}title").text.startswith("a<b>")


def test_bars_are_in_eighths_or_plain():
    assert bar(1.0, 10, is_ascii=False) == "█" * 10
    assert bar(0.25, 10, is_ascii=False) == "██▌"
    assert bar(1e-9, 10, is_ascii=False) == "▏"
    assert bar(0.0, 10, is_ascii=False) == ""
    assert (bar(0.25, 10, is_ascii=True), bar(1e-9, 10, is_ascii=True), bar(0.0, 10, is_ascii=True)) == ("##", "#", "")
    assert [milliseconds(value) for value in (1.2345, 0.0123, 0.00045, 1e-9, 0.0)] == ["1,234", "12.3", "0.45", "<0.01", "0.00"]


def test_output_that_is_not_utf_8_gets_ascii_only(tmp_path):
    report = profile(linear_trainer(), "fp32", None, Findings())
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        show_profile(report, Console(file=file, width=80))
    assert "#" in (tmp_path / "out").read_text(encoding="ascii")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--profile"], ["--profile measures a recipe's training step", "distill doctor NAME --profile"]),
        (["--profile-picture", "a.svg"], ["--profile-picture measures a recipe's"]),
        (["--replay", "runs/x", "--profile"], ["leave out one of them"]),
        (["smoke", "--profile-picture", "no/a.svg"], ["--profile-picture no/a.svg", "there is no folder no", "mkdir -p no"]),
        (["smoke", "--profile-picture", "a.png"], ["--profile-picture a.png", "such as a.svg"]),
        (["smoke", "--profile-picture", "."], ["this is a folder", "profile.svg"]),
        (["smoke", "--profile-picture", "/proc/a.svg"], ["--profile-picture /proc/a.svg", "can't be written", "elsewhere"]),
        (["smoke", "--profile-picture", f"{'a' * 300}.svg"], ["can't be written", "elsewhere"]),
    ],
)
def test_what_can_not_work_is_said_at_once(arguments, parts, distill, monkeypatch):
    monkeypatch.setattr("distill.doctor.diagnose._Examination.of", lambda *_: pytest.fail("it began"))
    code, out, err = distill("doctor", *arguments)
    assert (code, out) == (2, "")
    for part in parts:
        assert part in err
    assert list(Path().iterdir()) == []
