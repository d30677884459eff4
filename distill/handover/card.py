"""README.md of an export: a model card for people, and for the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distill.handover.config import Config
from distill.handover.provenance import ROWS
from distill.handover.usage import usage
from distill.report.console import printable


def card(found: Mapping[str, Any], config: Config) -> str:
    """found: what is written to export.json."""
    parts = [_front_matter(found), _title(found, config), "## Use", usage(config), *_pictures(config)]
    parts += ["## How good it is", _results(found), "## The file beside the run", checked(found["check"]), "## Where it is from", _origin(found)]
    return printable("\n\n".join(parts)) + "\n"


def _front_matter(found: Mapping[str, Any]) -> str:
    model = found["student"]["model"]
    tags = ["image-classification", "knowledge-distillation", "distill", model.rpartition("/")[2]]
    lines = ["pipeline_tag: image-classification", f"tags: {json.dumps(tags)}"]
    if found["to"] == "timm":
        lines.insert(0, "library_name: timm")
    return "\n".join(["---", *lines, "---"])


def _title(found: Mapping[str, Any], config: Config) -> str:
    student, learned = found["student"], f"that learned {_learned(found)}"
    size = f"{student['num_parameters'] / 1e6:.2f} M parameters, {config.num_classes} classes, pictures of {config.image_size} px"
    average = " These weights are the moving average of its training." if student["is_average"] else ""
    return f"# {found['run']['name']}\n\nA {student['model']} {learned} ({size}), in the form `{found['to']}`.{average} Made by {found['made_by']}."


def _learned(found: Mapping[str, Any]) -> str:
    if found["method"] == "ema_teacher":
        return "from the moving average of its own weights"
    if found["method"] == "mutual":
        return f"together with {found['peer']}, each from the other"
    answers = {"sampled": ", one of them drawn for each view of a picture"}.get(found["answers"], "")
    return "from " + (" and ".join(map(_lineage, found["teachers"])) or "labels alone") + answers


def _lineage(teacher: Mapping[str, Any]) -> str:
    before = teacher.get("teacher")
    return teacher["model"] if before is None else f"{teacher['model']}, which learned from {_lineage(before)}"


def _pictures(config: Config) -> list[str]:
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (config.mean, config.std))
    some = ", ".join(config.class_names[:20]) + (f", ... ({config.num_classes})" if config.num_classes > 20 else "")
    square = f"The central square of a picture, upright and in RGB, resized to {config.image_size} px (bilinear, antialiased)"
    return [
        "## Pictures and classes",
        f"{square}, in [0, 1], minus mean ({mean}), divided by std ({std}). `config.json` has all of it, and the classes in order: {some}.",
    ]


def _results(found: Mapping[str, Any]) -> str:
    lines = ["| | model | val top-1, % | test top-1, % |", "|---|---|---|---|"]
    for key, title in ROWS:
        if row := found["results"].get(key):
            lines.append(f"| {title} | {row['model']} | {_share(row.get('val'))} | {_share(row.get('test'))} |")
    seed = f"One run, seed {found['run']['seed']}, its last epoch; other seeds differ, about which the intervals say nothing."
    intervals = "In brackets the 95 % interval from the drawing of these pictures (Wilson), and how many they are."
    note = f" Data: {found['data']['note']}." if found["data"].get("note") else ""
    return "\n".join(lines) + f"\n\n{intervals} {seed}{note}"


def _share(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return "-"
    return f"{100 * part['top1']:.2f} ({100 * part['low']:.2f} to {100 * part['high']:.2f}; n = {part['num_pictures']:,})"


def checked(check: Mapping[str, Any] | None) -> str:
    """What the check has found, as Markdown."""
    if check is None:
        return "**Not checked**: this was exported with `--no-check`, so nobody has seen it answer as the run's student does."
    rows = [
        ("val top-1, %", *(f"{100 * check[f'{who}_top1']:.2f}" for who in ("run", "export"))),
        ("size, MB", *(f"{check[f'{who}_bytes'] / 1e6:.2f}" for who in ("run", "export"))),
        ("ms, one picture", *(f"{check[f'{who}_ms']:.2f}" for who in ("run", "export"))),
        ("ms a picture, of 64", *(f"{check[f'{who}_batch_ms']:.3f}" for who in ("run", "export"))),
    ]
    table = "\n".join(["| | run | this file |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])
    notes = "".join(f" Note: {note}." for note in check["notes"])
    machine = f"{check['machine']['processor']}, {check['machine']['num_cores']} core(s)"
    return f"{table}\n\n{agreement_in_words(check)} Both were asked by distill on the same CPU ({machine}), the run's weights in float32.{notes}"


def agreement_in_words(check: Mapping[str, Any]) -> str:
    """How near the two are, in a sentence."""
    num, agreeing = check["num_pictures"], check["num_agreeing"]
    which = f"of the {num:,} val pictures" if num == check["num_val"] else f"of {num:,} of the {check['num_val']:,} val pictures"
    ties = f" ({check['num_ties']:,} of the others are ties but for rounding)" if check["num_ties"] else ""
    same = f"Both name the same class for {agreeing:,} ({agreeing / num:.2%}) {which}{ties}"
    if not check["difference"]:
        return f"{same}; no logit differs."
    return f"{same}; the largest difference of a logit is {check['difference']:.1e} of the largest logit."


def _origin(found: Mapping[str, Any]) -> str:
    run, data, student, recipe = found["run"], found["data"], found["student"], found["recipe"]
    losses = ", ".join(f"{label} ({entry['weight']})" for label, entry in recipe["losses"].items())
    train, num = recipe["train"], recipe["data"]["global_batch_size"]
    lines = [
        f"- run: {run['name']}, {run['created']}, seed {run['seed']}",
        f"- data: {data.get('source')}, {data.get('num_train')} / {data.get('num_val')} / {data.get('num_test')} pictures for train / val / test",
        f"- student: {student['model']}, began with {student['began_with']}",
        *(f"- teacher: {_teacher(teacher)}" for teacher in found["teachers"]),
        f"- losses, with weights: {losses}",
        f"- training: {train['epochs']} epochs, {train['optimizer']}, learning rate {train['lr']:g}, {num} pictures a step",
        f"- versions then: {_versions(found['environment'].get('versions') or {})}",
        f"- versions of the export: {_versions(found['versions'])}",
    ]
    lines += [f"- licence: {sentence}" for sentence in found["licences"]]
    lines.append("- `export.json` has the whole recipe, the environment and a sha256 of each file")
    return "\n".join(lines)


def _teacher(teacher: Mapping[str, Any]) -> str:
    if "teacher" in teacher:
        return f"{teacher['model']}, trained as the student was, by the teacher {_teacher(teacher['teacher'])}"
    if teacher["weights"] != "train":
        return f"{teacher['model']}, weights {teacher['weights']}"
    return f"{teacher['model']}, trained by the recipe {teacher['recipe']}, from {teacher['began_with'] or 'what that recipe says'}"


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not known"
