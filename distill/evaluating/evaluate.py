"""Scores one network, or two on the same pictures, and says what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from distill import record
from distill.build.loaders import evaluation_loader
from distill.build.source import open_source
from distill.data.sources.base import DataSource
from distill.engine.evaluation import Score, score
from distill.engine.network import Network
from distill.engine.runtime import make_accelerator, only_deterministic, prepare_process, processes, resolve_precision
from distill.engine.stopping import Stopper
from distill.errors import DataError
from distill.evaluating.latency import latency
from distill.evaluating.measures import compared_with_own, difference, measures
from distill.evaluating.networks import build_network
from distill.evaluating.options import Words
from distill.evaluating.show import show
from distill.evaluating.targets import Target, read_targets
from distill.report.console import make_console
from distill.resolve import Catalogue
from distill.run_results import network_scores
from distill.running import Job
from distill.structures import Outputs

_FORMAT = 1  # of what --json prints


@dataclass(frozen=True)
class Opened:
    """A target with its pictures and its network."""

    target: Target
    source: DataSource
    network: Network
    weights: str
    notes: list[str] = field(default_factory=list)


def evaluate(words: Words, plugins: Sequence[str], *, as_json: bool = False) -> None:
    """Prints to standard output. Raises RecipeError or DataError."""
    catalogue = Catalogue(plugins)
    targets = read_targets(words, catalogue)
    prepare_process()
    state = processes()
    with Stopper() as stopper:
        job = Job(catalogue, state, make_console(is_main=True), stopper)
        sources = _sources(targets, job)
        if len(targets) == 2:
            _refuse_other_pictures(targets, sources, words.part)
        opened = [Opened(target, source, *build_network(target, source, job)) for target, source in zip(targets, sources, strict=True)]
        scores = [_scored(one, words.part, job) for one in opened]
        found = [_found(one, scored, words, job) for one, scored in zip(opened, scores, strict=True)]
    device = torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else state.device.type
    report = {"format": _FORMAT, "part": words.part, "targets": found, "difference": difference(*scores) if len(scores) == 2 else None}
    report["machine"] = record.environment(device, " and ".join(dict.fromkeys(one["precision"] for one in found)), 1)
    if as_json:
        print(json.dumps(report, indent=2, allow_nan=False))
    else:
        show(report)


def _sources(targets: Sequence[Target], job: Job) -> list[DataSource]:
    """Opened once where both name the same."""
    opened: list[tuple[dict[str, Any], DataSource]] = []
    for target in targets:
        key = target.recipe.data.model_dump(include={"source", "root", "image_size", "val_fraction", "arguments", "labels"})
        source = next((source for known, source in opened if known == key), None)
        opened.append((key, source or open_source(target.recipe.data, job.catalogue)))
    return [source for _, source in opened]


def _refuse_other_pictures(targets: Sequence[Target], sources: Sequence[DataSource], part: str) -> None:
    """Raises DataError unless both are scored on the same pictures with the same labels."""
    first, second = sources
    if first is second:
        return
    ours, theirs, reason = getattr(first, part), getattr(second, part), None
    if first.class_names != second.class_names:
        reason = f"the classes differ: {_some(first.class_names)} and {_some(second.class_names)}"
    elif len(ours) != len(theirs):
        reason = f"{len(ours):,} and {len(theirs):,} pictures"
    elif not np.array_equal(ours.sample_ids, theirs.sample_ids):
        reason = "other pictures of the source are in that part"
    elif not np.array_equal(ours.labels, theirs.labels):
        reason = f"{int((ours.labels != theirs.labels).sum()):,} of {len(ours):,} labels differ"
    elif first.fingerprint() != second.fingerprint():
        reason = "the pictures or how they are shared out differ"
    if reason is not None:
        names = ("source", "root", "image_size", "val_fraction", "arguments")
        pairs = [(name, *(getattr(target.recipe.data, name) for target in targets)) for name in names]
        listed = "".join(f"\n  data.{name}: {one} and {other}" for name, one, other in pairs if one != other)
        raise DataError(
            f"{targets[0].name} and {targets[1].name} can't be compared on {part}: {reason}{listed}\ndata.KEY=VALUE sets the same for both"
        )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} ({len(names)})"


def _scored(opened: Opened, part: str, job: Job) -> Score:
    own, source = opened.target.own, opened.source
    order = _order(opened)
    answer = opened.network if order is None else _InOrder(opened.network, order)
    accelerator = make_accelerator()
    loader = evaluation_loader(opened.target.recipe, source, getattr(source, part), accelerator, job.say)
    with only_deterministic(own.deterministic), job.console.status(f"scoring {opened.target.name}"):
        return score({"network": answer}, loader, accelerator, job.stopper.check)["network"]


class _InOrder:
    """The network's answers with the classes in the data's order."""

    def __init__(self, network: Network, order: Sequence[int]):
        self.network, self.order = network, list(order)

    def __call__(self, images: torch.Tensor) -> Outputs:
        outputs = self.network(images)
        return outputs._replace(logits=outputs.logits[:, self.order])


def _order(opened: Opened) -> list[int] | None:
    """For each class of the data its place among the run's; None where they are the same, or where the names say nothing."""
    known, names = (opened.target.run.data.get("class_names") if opened.target.run else None), opened.source.class_names
    if not isinstance(known, list) or known == names:
        return None
    if sorted(known) == sorted(names) and len(set(names)) == len(names):
        opened.notes.append("the data has the same classes in another order: they are matched by name")
        return [known.index(name) for name in names]
    both = next(f"{theirs!r} is taken for {ours!r}" for ours, theirs in zip(known, names, strict=True) if ours != theirs)
    opened.notes.append(f"the data's classes have other names than those that it was trained on: they are matched by their order, so {both}")
    return None


def _found(opened: Opened, scored: Score, words: Words, job: Job) -> dict[str, Any]:
    target, source, run = opened.target, opened.source, opened.target.run
    data = {"source": target.recipe.data.source, "root": target.recipe.data.root, "image_size": source.image_size}
    data |= {"num_classes": len(source.class_names), "fingerprint": source.fingerprint(), "note": source.note}
    found: dict[str, Any] = {"target": target.name, "role": target.role, "model": target.network.model, "weights": opened.weights, "data": data}
    found["precision"] = resolve_precision(target.own.train.precision, job.state.device)
    found["num_parameters"] = sum(parameter.numel() for parameter in opened.network.model.parameters())
    found |= measures(scored, source.class_names)
    own = None
    if run is not None and target.file is None:
        if (data["fingerprint"], data["image_size"]) == (run.data.get("fingerprint"), run.data.get("image_size")):
            row = run.teacher if target.role == "teacher" else run.row
            ours = network_scores({words.part: {target.role: scored}}, target.role, len(source.class_names))
            own = compared_with_own(ours, row, words.part)
        elif not words.overrides:
            opened.notes.append("the data are not those that the run had: they have changed since")
        if own is not None and not own["is_equal"]:
            own["machine_then"] = {key: run.environment.get(key) for key in ("processor", "device", "num_cores", "num_processes", "precision")}
    found |= {"own": own, "notes": opened.notes}
    with job.console.status(f"timing {target.name}"):
        found["latency"] = latency(opened.network, source.image_size, words.batch_size)
    return found
