"""The test part is read once by each run that is scored, after its training has ended, and by nothing else in the whole job."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field

import pytest

from distill.data.sources.base import Part
from distill.data.sources.synthetic import Synthetic
from distill.engine.trainer import Trainer

JOB = [
    "--recipe",
    "r50_to_r18",
    "teacher.recipe=r18_alone",
    "teacher.model=timm/test_resnet",
    "student.model=timm/test_resnet",
    "data.source=synthetic",
    "data.workers=0",
]
JOB += ["data.arguments={num_train: 64, num_val: 24, num_test: 24, noise: 0.1}", "data.global_batch_size=16", "train.precision=fp32"]
JOB += ["train.epochs=2", "train.warmup_epochs=0", "train.max_steps=5", "train.lr=0.02", "teacher.check=false"]
JOB += ["teacher.overrides={data: {global_batch_size: 16}, train: {epochs: 3, warmup_epochs: 0, lr: 0.02}}"]


@dataclass
class Looked:
    """How often each picture of a part was looked at while nothing was trained yet, in each training, and after each of them."""

    test: set[int] = field(default_factory=set)
    val: set[int] = field(default_factory=set)
    moments: list[tuple[str, Counter]] = field(default_factory=lambda: [("before", Counter())])

    def of(self, ids: set[int]) -> list[tuple[str, Counter]]:
        return [(moment, Counter({i: num for i, num in seen.items() if i in ids})) for moment, seen in self.moments]


@pytest.fixture
def looked(monkeypatch) -> Looked:
    found, make, picture, train = Looked(), Synthetic.__init__, Part.picture, Trainer.train

    @functools.wraps(make)
    def made(self, *arguments, **options) -> None:
        """Pictures that have to be asked for one by one, as those in files."""
        make(self, *arguments, **options)
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            setattr(self, name, Part(part.labels, part.sample_ids, read=part.pixels.__getitem__))
        found.test, found.val = (set(part.sample_ids.tolist()) for part in (self.test, self.val))

    def spied(self, position: int):
        found.moments[-1][1][int(self.sample_ids[position])] += 1
        return picture(self, position)

    def trained(self, *arguments) -> None:
        found.moments.append(("in", Counter()))
        train(self, *arguments)
        found.moments.append(("after", Counter()))

    monkeypatch.setattr(Synthetic, "__init__", made)
    monkeypatch.setattr(Part, "picture", spied)
    monkeypatch.setattr(Trainer, "train", trained)
    return found


def test_test_pictures_are_looked_at_once_a_run_and_only_after_its_training(distill, looked):
    code, _, err = distill("train", *JOB)
    assert code == 0, err
    moments = looked.of(looked.test)
    assert [moment for moment, _ in moments] == ["before", *["in", "after"] * 3]  # the teacher, the student alone, the distilled student
    for moment, seen in moments:
        assert seen == ({} if moment != "after" else dict.fromkeys(looked.test, 1)), moment
    assert len(looked.test) == 24


def test_val_pictures_are_what_a_run_is_watched_on(distill, looked):
    """The same spy on the other part, which shows that it sees what is looked at."""
    code, _, err = distill("train", *JOB)
    assert code == 0, err
    num_looks = [sum(seen.values()) / len(looked.val) for _, seen in looked.of(looked.val)]
    assert num_looks[0] == 0
    assert num_looks[1::2] == [3, 2, 2]  # an evaluation after each epoch
    assert num_looks[2::2] == [1, 1 + 3, 1]  # the scores; before the distilled student's training the teacher's, and those of both of its forms


def test_reused_teacher_and_control_do_not_look_again(distill, looked):
    for _ in range(2):
        assert distill("train", *JOB)[0] == 0
    assert sum(sum(seen.values()) for _, seen in looked.of(looked.test)) == 4 * 24
