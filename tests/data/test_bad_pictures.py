"""data.on_bad_image=skip: which picture stands in for one that can't be read, how that is said and counted, and when it is too much."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from distill.data.bad_pictures import BadPictures, Failure, read_or_replace
from distill.data.loader import EvaluationLoader, TrainingLoader
from distill.data.mixing import Mixing
from distill.data.random_rows import ViewTables
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.views import Views, plain_view
from distill.engine.metrics import StepLog
from distill.engine.trainer import Trainer
from distill.errors import DataError
from distill.structures import Batch, HostKeys, StepOutput

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores

CPU = torch.device("cpu")
NUM, SIZE = 2000, 6
VIEWS = Views(SIZE, crop="padded", padding=1, flip=0.5)


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (NUM, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Reader:
    """Reads pictures, but for those that are bad."""

    def __init__(self, *bad: int):
        self.pixels, self.bad = pixels(), bad

    def __call__(self, position: int) -> torch.Tensor:
        if position in self.bad:
            raise DataError(f"can't read the picture {position}.png")
        return self.pixels[position]


def part(*bad: int) -> Part:
    """2000 pictures of four classes in turn, with ids that are not their positions."""
    return Part(np.arange(NUM) % 4, np.arange(NUM) + 100, read=Reader(*bad))


def few(labels: list[int], *bad: int) -> Part:
    return Part(np.array(labels), np.arange(len(labels)), read=Reader(*bad))


@pytest.mark.parametrize(
    "bad, position, substitute, failed",
    [
        ((1,), 0, 0, []),  # fine itself
        ((1,), 1, 3, [1]),  # the next of its class
        ((1, 3), 1, 6, [1, 3]),  # which may be bad too
        ((6,), 6, 1, [6]),  # after the last comes the first
        ((6, 1), 6, 3, [6, 1]),
        ((3, 6), 3, 1, [3, 6]),
    ],
)
def test_next_readable_picture_of_the_class_stands_in(bad, position, substitute, failed):
    labels = [0, 1, 0, 1, 2, 0, 1, 0]
    picture, failures = read_or_replace(few(labels, *bad), position)
    assert torch.equal(picture, pixels()[substitute])
    assert failures == [Failure(number, f"can't read the picture {number}.png") for number in failed]


def test_class_of_which_nothing_can_be_read_is_an_error_about_the_picture_that_was_asked_for():
    with pytest.raises(DataError, match=r"can't read the picture 3\.png"):
        read_or_replace(few([0, 1, 0, 1, 2, 0, 1, 0], 1, 3, 6), 3)


def test_substitute_is_looked_for_only_when_a_picture_is_bad(monkeypatch):
    from distill.data import bad_pictures

    monkeypatch.setattr(bad_pictures.np, "flatnonzero", lambda values: pytest.fail("looked for"))
    assert read_or_replace(few([0, 0, 1, 1], 1), 0)[1] == []


@pytest.mark.parametrize(
    "num, num_bad, is_too_many", [(1000, 1, False), (999, 1, True), (1000, 2, True), (1999, 2, True), (2000, 2, False), (10, 1, True), (10, 0, False)]
)
def test_at_most_one_in_a_thousand_may_be_bad(num, num_bad, is_too_many):
    warnings = []
    bad = BadPictures(Part(np.zeros(num), np.arange(num), read=Reader()), warnings.append)
    failures = [Failure(number, f"can't read {number}.png") for number in range(num_bad)]
    if is_too_many:
        with pytest.raises(DataError) as caught:
            bad.note(failures)
        message = str(caught.value)
        assert f"{num_bad} of {num:,} pictures can't be read, more than the 0.1%" in message
        assert "can't read 0.png" in message
        assert "distill data check" in message
    else:
        bad.note(failures)
        bad.note(failures)  # the same pictures in the next epoch
    assert len(warnings) == num_bad


def test_only_some_of_many_bad_pictures_are_listed():
    bad = BadPictures(part(), lambda message: None)
    with pytest.raises(DataError) as caught:
        bad.note([Failure(number, f"can't read {number}.png") for number in range(40)])
    assert str(caught.value).count(".png") == 5


def training(chosen: Part, views: Views = VIEWS, *, workers: int = 0, batch: int = 250, warn=lambda message: None, **options) -> TrainingLoader:
    sampler = StepSampler(len(chosen), batch, seed=1)
    how = {"view_seed": 7, "num_views": 3, "device": CPU, "workers": workers, "num_classes": 4, "bad_pictures": BadPictures(chosen, warn)}
    return TrainingLoader(chosen, views, sampler, **how | options)


def found_in(batches) -> dict[int, torch.Tensor]:
    return {int(i): image for batch in batches for i, image in zip(batch.sample_ids, batch.images, strict=True)}


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("epoch", [0, 1])
def test_substitute_is_shown_in_the_view_of_the_missing_picture_under_its_id_and_label(workers, epoch):
    shown = list(training(part(500), workers=workers).epoch(epoch))
    row = ViewTables(7, epoch, NUM + 100).of(np.array([600]))
    assert torch.equal(found_in(shown)[600], VIEWS.apply(pixels()[504:505], row)[0])
    (batch,) = (batch for batch in shown if 600 in batch.sample_ids)
    assert batch.labels[batch.sample_ids == 600].tolist() == [0]
    assert [batch.host.num_replaced for batch in shown] == [int(600 in batch.sample_ids) for batch in shown]
    others = found_in(training(part()).epoch(epoch))
    assert all(torch.equal(image, others[i]) for i, image in found_in(shown).items() if i != 600)


def test_bad_picture_is_warned_of_once_in_all_epochs():
    warnings = []
    loading = training(part(500), warn=warnings.append)
    for epoch in range(3):
        assert sum(batch.host.num_replaced for batch in loading.epoch(epoch)) == 1
    assert warnings == ["can't read the picture 500.png; another picture of its class stands in for it (data.on_bad_image=skip)"]


def test_bad_partner_is_replaced_and_counted_too():
    views = Views(SIZE, mixing=Mixing(mixup=1.0))
    shown = list(training(part(500), views).epoch(0))
    assert sum(batch.host.num_replaced for batch in shown) == 2  # once itself and once as somebody's partner
    replaced = part()
    replaced._read.pixels[500] = pixels()[504]
    expected = training(replaced, views).epoch(0)
    assert all(torch.equal(one.images, other.images) for one, other in zip(shown, expected, strict=True))


def test_too_many_bad_pictures_end_the_epoch():
    warnings = []
    with pytest.raises(DataError, match=r"3 of 2,000 pictures can't be read"):
        list(training(part(500, 600, 1700), warn=warnings.append).epoch(0))
    assert len(warnings) == 3


def test_without_skipping_a_bad_picture_is_an_error():
    with pytest.raises(DataError, match=r"can't read the picture 500\.png"):
        list(training(part(500), bad_pictures=None).epoch(0))


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_shows_the_substitute_unvaried_and_warns_once(workers):
    warnings, chosen = [], part(500)
    loading = EvaluationLoader(chosen, SIZE, batch_size=300, device=CPU, workers=workers, bad_pictures=BadPictures(chosen, warnings.append))
    for _ in range(2):
        shown = found_in(batch for _, batch in loading)
        assert torch.equal(shown[600], plain_view(pixels()[504:505], SIZE)[0])
        assert torch.equal(shown[601], pixels()[501])
    assert len(shown) == NUM
    assert len(warnings) == 1


def test_evaluation_ends_where_too_many_pictures_are_bad():
    chosen = part(1, 2, 3)
    with pytest.raises(DataError, match="3 of 2,000"):
        list(EvaluationLoader(chosen, SIZE, batch_size=300, device=CPU, bad_pictures=BadPictures(chosen, lambda message: None)))


def noted(*counts: int) -> StepLog:
    log = StepLog(["ce"], counts_replaced=True)
    for count in counts:
        host = HostKeys(np.array([0]), 0, count)
        one = torch.ones(())
        log.add(StepOutput(one, {"ce": one}, torch.ones(1, 2)), Batch(torch.zeros(1), torch.zeros(1, dtype=torch.int64), one, one, host))
    return log


def processes(num: int) -> SimpleNamespace:
    """An accelerator of `num` processes that have all noted the same."""
    return SimpleNamespace(num_processes=num, process_index=0, device=CPU, gather=lambda rows: rows.repeat(num, 1, 1))


def test_replaced_pictures_are_added_up_over_steps_and_processes():
    log = noted(0, 2, 1)
    means = log.means(log.rows(processes(2)))
    assert means["num_replaced"] == 6
    assert isinstance(means["num_replaced"], int)
    assert means["loss"] == means["ce"] == means["top1"] == 1.0


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 3), (4, 4)])
def test_number_of_replaced_pictures_survives_another_number_of_processes(before, after):
    log = noted(0, 2, 1)
    state = json.loads(json.dumps(log.state(log.rows(processes(before)))))
    other = StepLog(["ce"], counts_replaced=True)
    other.restore(state, processes(after))
    means = other.means(other.rows(processes(after)))
    assert means["num_replaced"] == 3 * before
    assert means["loss"] == 1.0


@pytest.fixture
def folder() -> Path:
    """1010 tiny pictures to train on, one of them bad, and a few to judge by; two classes that can be told apart."""
    root = Path("pictures")
    for name, num in (("train", 1010), ("val", 20), ("test", 20)):
        for number in range(num):
            path = root / name / ("cat", "dog")[number % 2] / f"{number:04}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(number).integers(0, 128, (8, 8, 3)) + 100 * (number % 2)
            Image.fromarray(values.astype(np.uint8)).save(path)
    (root / "train" / "cat" / "0500.ppm").write_bytes(b"not a picture")
    return root


JOB = ["--recipe", "smoke", "student.model=timm/test_resnet", "teacher=null", "losses.kd=null", "data.source=imagefolder", "data.root=pictures"]
JOB += ["data.image_size=8", "data.workers=0", "data.global_batch_size=202", "train.max_steps=null", "train.epochs=2", "train.log_every=4"]
JOB += ["train.precision=fp32", "data.on_bad_image=skip", "data.arguments={}"]


def events(run: str) -> list[dict]:
    return [json.loads(line) for line in (Path("runs") / run / "metrics.jsonl").read_text().splitlines()]


def test_run_that_is_cut_off_and_gone_on_with_counts_the_same_pictures(distill, folder, monkeypatch):
    """The bad picture comes once in each of the two epochs, in which every picture is seen."""
    code, out, err = distill("train", *JOB, "run_name=whole")
    assert code == 0, out + err
    assert err.count("0500.ppm") == 1
    assert "stands in for it" in " ".join(err.split())
    whole = [event for event in events("whole") if event["event"] == "train"]
    assert sum(event["num_replaced"] for event in whole) == 2
    assert all(math.isfinite(event["ce"]) for event in whole)
    where = [event["step"] for event in whole if event["num_replaced"]]

    class Killed(BaseException):
        pass

    sampler = StepSampler(1010, 202, seed=0)
    bad = next(step for step in range(5) if 500 // 2 in sampler.global_batch(0, step))  # cats come first, so 0500 is the 250th
    assert where[0] == 4 * (bad // 4 + 1)
    calls, original = [], Trainer._save_or_stop

    def killed(self) -> None:
        calls.append(self.step)
        if self.step == bad + 2:
            raise Killed
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_or_stop", killed)
        with pytest.raises(Killed):
            distill("train", *JOB, "run_name=resumed", "train.checkpoint_every_steps=1")
    code, _, err = distill("train", *JOB, "run_name=resumed", "--resume")
    assert code == 0, err
    assert f"going on from step-{bad + 1:08d}" in err
    assert (Path("runs") / "resumed" / "metrics.jsonl").read_bytes() == (Path("runs") / "whole" / "metrics.jsonl").read_bytes()


def test_without_skip_the_same_folder_stops_with_3_and_with_it_too_few_pictures_do(distill, folder):
    code, _, err = distill("train", *JOB, "data.on_bad_image=error", "train.epochs=1")
    assert code == 3
    assert "0500.ppm" in err
    assert not any("num_replaced" in event for event in events("smoke-seed0"))
    (folder / "val" / "dog" / "0003.ppm").write_bytes(b"")  # one of 20
    code, _, err = distill("train", *JOB, "run_name=val", "train.max_steps=1")
    assert code == 3
    assert "1 of 20 pictures can't be read, more than the 0.1%" in " ".join(err.split())
    assert "Traceback" not in err
