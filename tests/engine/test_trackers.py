"""What a tracker is told of a run, and what becomes of the run when a tracker fails. The trackers are stand-ins for Accelerate's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from accelerate.tracking import GeneralTracker

from distill import record
from distill.engine import trackers, trackers_accelerate
from distill.engine.trackers import Trackers, flat, kept_events, points
from distill.errors import StoppedError


def train(step: int, loss: float = 1.0) -> dict:
    return {"event": "train", "epoch": 1, "step": step, "lr": 0.5, "loss": loss, "kd": 2.0, "top1": 0.25, "images_per_second": 100.0}


def epoch(step: int) -> dict:
    return {"event": "epoch", "epoch": 1, "step": step, "val_top1": 0.5, "val_nll": 3.0}


class Told(GeneralTracker):
    """Keeps what it is told in a list that outlives it, as a server does."""

    name, requires_logging_directory, tracker = "told", False, None

    def __init__(self, log: list, fails_at: int | None = None):
        super().__init__()
        self.told, self.fails_at, self.is_finished = log, fails_at, False

    def log(self, values, step=None, **options):
        if step == self.fails_at:
            raise OSError(28, "No space left on device")
        self.told.append((step, dict(values)))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def server(monkeypatch):
    """server[name]: what the stand-in of this name was told by all of its trackers; server.opened: (name, key, run name) each time."""

    class Server(dict):
        opened, trackers, fails_at = [], [], {}

    found = Server({name: [] for name in ("tensorboard", "trackio", "wandb", "mlflow")})

    def open_tracker(name, key, run_name, folder, config):
        found.opened.append((name, key, run_name))
        if name == "tensorboard":
            found[name].clear()
        found.trackers.append(Told(found[name], found.fails_at.get(name)))
        return found.trackers[-1]

    found.opened, found.trackers, found.fails_at = [], [], {}
    monkeypatch.setattr(trackers, "open_tracker", open_tracker)
    return found


def follow(events: list[dict], *names: str, summary: dict | None = None) -> list[str]:
    """One attempt at a run in the working folder, whose events are written and followed; returns the warnings."""
    folder, warnings = record.RunFolder(Path.cwd()), []
    with Trackers(names, "run", folder.path, {"seed": 1}, warnings.append) as following:
        for event in events:
            folder.append(event)
            following(event)
        if summary is not None:
            following.finish(summary)
    return warnings


def cut(num_lines: int) -> None:
    """As when a run goes on from a checkpoint: what came after it is taken out of metrics.jsonl."""
    path = Path(record.METRICS_FILE)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:num_lines]))


def test_each_kind_of_event_has_its_names():
    assert points(train(20)) == {
        "train/lr": 0.5,
        "train/loss": 1.0,
        "train/kd": 2.0,
        "train/top1": 0.25,
        "train/images_per_second": 100.0,
    }
    assert points(epoch(20)) == {"val/top1": 0.5, "val/nll": 3.0}
    assert points({"event": "weights", "epoch": 1, "step": 0, "kd": 0.3}) == {"weights/kd": 0.3}
    gradients = {"event": "gradients", "epoch": 1, "step": 7, "cross_entropy_norm": 2.0, "terms": {"kd": {"norm": 1.0, "cosine": 0.5}}}
    assert points(gradients) == {"gradients/cross_entropy_norm": 2.0, "gradients/kd/norm": 1.0, "gradients/kd/cosine": 0.5}


def test_what_is_no_finite_number_is_no_point():
    assert points({"event": "train", "step": 1, "loss": float("nan"), "kd": None, "ce": float("inf"), "lr": 1}) == {"train/lr": 1}


def test_recipe_is_told_flat_as_numbers_and_text():
    nested = {"seed": 1, "teacher": None, "student": {"arguments": {}, "frozen": ["a", "b"]}, "data": {"arguments": {"odd=key": True, "x": "y"}}}
    assert flat(nested) == {
        "seed": 1,
        "teacher": "null",
        "student.arguments": "{}",
        "student.frozen": '["a", "b"]',
        "data.arguments.odd_key": True,
        "data.arguments.x": "y",
    }


def test_every_event_is_told_once_at_its_step_and_the_summary_s_test_numbers_at_the_last(server):
    assert follow([train(3), epoch(5)], "mlflow", summary={"distilled": {"test_top1": 0.75, "val_top1": 0.5, "model": "r"}, "teacher": {}}) == []
    assert server["mlflow"] == [(3, points(train(3))), (5, {"val/top1": 0.5, "val/nll": 3.0}), (5, {"test/top1": 0.75})]
    assert [tracker.is_finished for tracker in server.trackers] == [True]


def test_student_alone_has_test_numbers_too(server):
    follow([train(3)], "wandb", summary={"alone": {"test_top1": 0.5}})
    assert server["wandb"][-1] == (3, {"test/top1": 0.5})


def test_nothing_is_opened_where_no_tracker_is_named(server):
    follow([train(3)], summary={"alone": {"test_top1": 0.5}})
    assert server.opened == []
    assert not Path(trackers.TRACKING_FILE).exists()


def test_run_that_goes_on_is_the_same_run_and_no_point_is_there_twice(server):
    """It was at step 9, and its checkpoint is of step 5, before that step's evaluation."""
    follow([train(3), train(5), epoch(5), train(7), train(9)], "mlflow", "wandb", "trackio")
    cut(2)
    follow([epoch(5), train(7), train(9), train(10), epoch(10)], "mlflow", "wandb", "trackio")
    expected = [(3, "lr"), (5, "lr"), (5, "top1"), (7, "lr"), (9, "lr"), (10, "lr"), (10, "top1")]
    for name in ("mlflow", "wandb", "trackio"):
        assert [(step, next(iter(values)).partition("/")[2]) for step, values in server[name]] == expected
        assert len({key for opened, key, _ in server.opened if opened == name}) == 1
    assert len({key for _, key, _ in server.opened}) == 3


def test_tensorboard_is_told_again_what_was_kept_and_forgets_the_rest(server):
    follow([train(3), train(5, loss=9.0), train(7, loss=9.0)], "tensorboard")
    cut(1)
    follow([train(5, loss=2.0), train(7, loss=3.0)], "tensorboard")
    assert [(step, values["train/loss"]) for step, values in server["tensorboard"]] == [(3, 1.0), (5, 2.0), (7, 3.0)]
    assert server["tensorboard"][0][1]["train/images_per_second"] == 100.0


def test_time_of_a_kept_event_is_that_of_its_record():
    Path("metrics.jsonl").write_text(
        '{"event": "weights", "step": 0, "kd": 1}\n{"event": "train", "step": 3, "loss": 1}\n{"event": "epoch", "step": 5}\n'
    )
    lines = [(3, "2026-01-01T00:00:00+00:00", 50.0), (3, "2026-01-01T00:01:00+00:00", 60.0)]
    Path("timing.jsonl").write_text(
        "".join(json.dumps({"step": step, "time": time, "images_per_second": speed}) + "\n" for step, time, speed in lines)
    )
    weights, first, second = kept_events(Path.cwd())
    assert "time" not in weights
    assert (first["images_per_second"], first["time"]) == (60.0, 1767225660.0)  # 2026 begins 1,767,225,600 s after 1970
    assert second["time"] == first["time"]


def test_run_is_finished_though_a_checkpoint_of_its_last_step_left_nothing_to_train(server):
    follow([train(3), epoch(5)], "mlflow")
    follow([], "mlflow", summary={"distilled": {"test_top1": 0.75}})
    follow([], "mlflow", summary={"distilled": {"test_top1": 0.75}})
    assert server["mlflow"][2:] == [(5, {"test/top1": 0.75})]


def test_tracker_that_is_named_later_is_told_all_that_was_before(server):
    follow([train(3)], "mlflow")
    follow([train(5)], "mlflow", "wandb")
    assert [step for step, _ in server["mlflow"]] == [step for step, _ in server["wandb"]] == [3, 5]


def test_tracker_that_fails_is_named_once_and_the_others_go_on(server):
    server.fails_at = {"wandb": 5}
    warnings = follow([train(3), train(5), train(7)], "wandb", "mlflow")
    assert [step for step, _ in server["wandb"]] == [3]
    assert [step for step, _ in server["mlflow"]] == [3, 5, 7]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: wandb fails, and is not written to any more (OSError: [Errno 28] No space left on device)")
    server.fails_at = {}
    assert follow([train(9)], "wandb", "mlflow") == []
    assert [step for step, _ in server["wandb"]] == [3, 5, 7, 9]  # when the run goes on it is told what it missed


def test_tracker_that_can_not_be_opened_is_named_and_the_run_goes_on(server, monkeypatch):
    def refuse(*arguments):
        raise ConnectionError("nobody\nthere")

    monkeypatch.setattr(trackers, "open_tracker", refuse)
    warnings = follow([train(3), train(5)], "mlflow", summary={"alone": {"test_top1": 1.0}})
    assert warnings == [
        "warning: mlflow fails, and is not written to any more (ConnectionError: nobody there); the run goes on, and metrics.jsonl has every number"
    ]


def test_note_that_can_not_be_written_ends_the_tracker_and_not_the_run(server, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record, "write_text", full)
    warnings = follow([train(3), train(5)], "mlflow", "tensorboard")
    assert [warning.split()[1] for warning in warnings] == ["mlflow"]
    assert [step for step, _ in server["tensorboard"]] == [3, 5]


def test_request_to_stop_is_no_failure_of_a_tracker(server, monkeypatch):
    follow([train(3)], "mlflow")
    monkeypatch.setattr(Told, "log", lambda *arguments, **options: (_ for _ in ()).throw(StoppedError("asked to stop")))
    with pytest.raises(StoppedError):
        follow([train(5)], "mlflow")


def test_notes_of_a_stranger_are_taken_only_as_they_are_written(server):
    Path(trackers.TRACKING_FILE).write_text(
        '{"mlflow": {"key": "../../x", "sent": {}}, "wandb": {"key": "0123456789abcdef", "sent": {"train": "9"}}, "x": 1}'
    )
    assert follow([train(3)], "mlflow", "wandb") == []
    keys = {name: key for name, key, _ in server.opened}
    assert keys["mlflow"].isalnum()
    assert len(keys["mlflow"]) == 16
    assert keys["wandb"] == "0123456789abcdef"
    assert [step for step, _ in server["wandb"]] == [3]


def test_what_a_tracker_prints_is_not_among_the_results(server, monkeypatch, capsys):
    monkeypatch.setattr(Told, "log", lambda *arguments, **options: print("hello from the tracker"))
    follow([train(3)], "mlflow")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from the tracker" in captured.err


def test_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("wandb", "mlflow", "sqlalchemy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert trackers_accelerate.what_is_missing("wandb") == "the package wandb is not installed: pip install wandb, or set tracking=[]"
    (tmp_path / "wandb" / "run").mkdir(parents=True)  # W&B's own folder of runs, beside the program
    assert trackers_accelerate.what_is_missing("wandb") == "the package wandb is not installed: pip install wandb, or set tracking=[]"
    assert trackers_accelerate.what_is_missing("something else") is None


def test_mlflow_without_a_database_needs_a_server(monkeypatch, tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("mlflow", "sqlalchemy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "MLFLOW_TRACKING_URI" in trackers_accelerate.what_is_missing("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert trackers_accelerate.what_is_missing("mlflow") is None
