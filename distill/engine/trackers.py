"""Follows a run in TensorBoard, trackio, Weights & Biases or MLflow, beside metrics.jsonl, which stays the truth."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from distill import record
from distill.engine.trackers_accelerate import open_tracker
from distill.errors import DistillError

TRACKING_FILE = "tracking.json"
_TAKES_BACK = ("tensorboard",)  # is told everything again when the run goes on; the others can't forget what they were told


class Trackers:
    """Takes the trainer's events and, at the end, the summary. To be used in a `with`, which closes the trackers however the run ends.

    A tracker is opened when there is something to tell it. It is then told what metrics.jsonl has and it has not been told yet, so that a run that
    was killed and gone on with is one run in it, without a point twice. What it has been told is in tracking.json. One that fails is named in a
    warning and left alone from then on; no event raises anything.
    """

    def __init__(self, names: Sequence[str], run_name: str, folder: Path, config: Mapping[str, Any], warn: Callable[[str], None]):
        """names: which trackers; none in all processes but the first. run_name: what they call the run. config: the recipe, nested as it is."""
        self.names, self.run_name, self.folder, self.config, self.warn = tuple(names), run_name, folder, config, warn
        self._open: dict[str, GeneralTracker] = {}
        self._has_begun = False
        self._notes: dict[str, dict[str, Any]] = {}  # name -> "key", and "sent": kind of event -> last step
        self._step = 0

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in tuple(self._open):
            with self._guarded(name):
                self._open[name].finish()
        self._open, self._has_begun = {}, True

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes one event of the trainer's log."""
        self._begin()
        self._step = max(self._step, event["step"])
        for name in tuple(self._open):
            with self._guarded(name):
                self._tell(name, event)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Takes the run's summary: its test numbers are points of the last step."""
        self._begin()
        row = summary.get("distilled") or summary.get("alone") or {}
        self({"event": "test", "step": self._step, **{key: value for key, value in row.items() if key.startswith("test_")}})

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun, kept = True, []
        if self.names:
            self._notes = _notes(self.folder / TRACKING_FILE)
            kept = list(kept_events(self.folder))
            self._step = max((event["step"] for event in kept), default=0)
        for name in self.names:
            with self._guarded(name):
                self._start(name, kept)

    def _start(self, name: str, kept: Sequence[Mapping[str, Any]]) -> None:
        note = self._notes.setdefault(name, {"key": uuid.uuid4().hex[:16], "sent": {}})
        if name not in _TAKES_BACK:
            self._write_notes()  # a key that is lost would be a second run
        self._open[name] = open_tracker(name, note["key"], self.run_name, self.folder, flat(self.config))
        for event in kept:
            self._tell(name, event)

    def _tell(self, name: str, event: Mapping[str, Any]) -> None:
        """Tells a tracker an event that it does not know. It is noted first: killed in between, a point is missing, and not there twice."""
        sent, kind, step = self._notes[name]["sent"], event["event"], event["step"]
        if step <= sent.get(kind, -1):
            return
        before, sent[kind] = sent.get(kind, -1), step
        try:
            if name not in _TAKES_BACK:
                self._write_notes()
            options = {"walltime": event["time"]} if name == "tensorboard" and "time" in event else {}
            self._open[name].log(points(event), step=step, **options)
        except BaseException:
            sent[kind] = before
            with contextlib.suppress(OSError):
                self._write_notes()
            raise

    def _write_notes(self) -> None:
        notes = {name: note for name, note in self._notes.items() if name not in _TAKES_BACK}
        if notes:
            record.write_text(self.folder / TRACKING_FILE, json.dumps(notes, indent=2) + "\n")

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Whatever goes wrong inside ends this tracker and not the run. What a tracker prints does not get among the results."""
        try:
            with contextlib.redirect_stdout(sys.stderr), _without_a_thread_s_traceback():
                yield
        except DistillError:  # a run that is asked to stop
            raise
        except Exception as error:
            self._open.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.warn(f"warning: {name} fails, and is not written to any more ({reason[:300]}); the run goes on, and metrics.jsonl has every number")


def points(event: Mapping[str, Any]) -> dict[str, float]:
    """An event as names of curves and their values: train/loss, val/top1, test/nll, weights/kd, gradients/kd/norm. What is no finite number is left
    out."""
    kind = event["event"]
    named: dict[str, Any] = {}
    for key, value in event.items():
        if key in ("event", "epoch", "step", "time"):
            continue
        if kind == "gradients" and key == "terms":
            named |= {f"gradients/{label}/{what}": number for label, numbers in value.items() for what, number in numbers.items()}
        elif kind in ("epoch", "test"):
            named[key.replace("_", "/", 1)] = value
        else:
            named[f"{kind}/{key}"] = value
    return {name: value for name, value in named.items() if isinstance(value, int | float) and math.isfinite(value)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A nested mapping as "a.b": number or text; null and lists as JSON. Letters that MLflow does not take in a name become _."""
    found: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        name = re.sub(r"[^\w./ :-]", "_", prefix + key)
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str | int | float) else json.dumps(value)
    return found


def kept_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events that metrics.jsonl has, with "images_per_second" and "time", in seconds, where timing.jsonl has them."""
    clock = {line["step"]: line for line in _lines(folder / record.TIMING_FILE)}  # the last of a step is that of the event that was kept
    time = None
    for event in _lines(folder / record.METRICS_FILE):
        if event["event"] == "train" and (line := clock.get(event["step"])):
            event["images_per_second"] = line["images_per_second"]
            time = datetime.fromisoformat(line["time"]).timestamp()
        yield event if time is None else {**event, "time": time}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _notes(path: Path) -> dict[str, dict[str, Any]]:
    """What tracking.json says; without what is not as it was written."""
    found = {}
    for name, note in record.read_json(path).items():
        if isinstance(note, dict) and re.fullmatch(r"[0-9a-f]{16}", str(note.get("key"))) and isinstance(note.get("sent"), dict):
            found[name] = {"key": note["key"], "sent": {kind: step for kind, step in note["sent"].items() if isinstance(step, int)}}
    return found


@contextlib.contextmanager
def _without_a_thread_s_traceback() -> Iterator[None]:
    """TensorBoard writes in a thread of its own, which prints what it raises beside handing it to us."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__module__.partition(".")[0] != "tensorboard":
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
