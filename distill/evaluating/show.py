"""What `distill eval` found, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from distill.report.console import make_console, print_result, printable
from distill.report.verdicts import p_in_words

_WORDS = {"top1": "top-1", "top5": "top-5", "nll": "NLL", "brier": "Brier", "ece": "ECE"}
_MOST_CLASSES, _WORST, _BEST, _CONFUSIONS = 30, 20, 5, 10


def show(report: Mapping[str, Any]) -> None:
    """One network in detail; two in short, and whether they differ."""
    targets = report["targets"]
    if len(targets) == 1:
        _show_one(targets[0], report)
    else:
        _show_table(_short(targets, report["part"]))
        _say("")
        for found in targets:
            if sentence := own_in_words(found, report["part"]):
                _say(f"{found['target']}: {sentence}")
        _say(difference_in_words(targets, report["difference"], report["part"]))
    _say(f"Timed on {_hardware(report)}; from uint8 pictures on the device to logits, without reading or copying them.")
    for found in targets:
        for note in found["notes"]:
            make_console(is_main=True).print(f"note: {found['target']}: {printable(note)}", style="yellow", soft_wrap=True)


def _show_one(found: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    data, timed = found["data"], found["latency"]
    _say(f"{found['target']}: {found['role']} {found['model']}, {found['num_parameters'] / 1e6:.2f} M parameters, {found['precision']}")
    pictures = f"{found['num_pictures']:,} {report['part']} pictures of {data['source']}"
    _say(f"{pictures}, {data['image_size']} px, {data['num_classes']} classes" + (f" ({data['note']})" if data["note"] else ""))
    _say("")
    top5 = f", top-5 {found['top5']:.2%}" if "top5" in found else ""
    _say(f"top-1 {found['top1']:.2%} ({found['num_right']:,} of {found['num_pictures']:,}){top5}")
    _say(f"NLL {found['nll']:.4f} nats, Brier {found['brier']:.4f}, ECE {found['ece']:.4f}")
    if sentence := own_in_words(found, report["part"]):
        _say(sentence)
    for table in (_bins(found), _classes(found), _confusions(found), *_matrix(found)):
        _say("")
        _show_table(table)
    _say("")
    batch = f"{timed['batch_ms']:.2f} ms for {timed['batch_size']} ({timed['batch_ms'] / timed['batch_size']:.3f} ms a picture)"
    _say(f"Latency: {timed['one_picture_ms']:.2f} ms for one picture, {batch}; medians.")


def own_in_words(found: Mapping[str, Any], part: str) -> str | None:
    """Whether the score is the run's own; None where it has none of these pictures."""
    own = found["own"]
    if own is None:
        return None
    if own["is_equal"]:
        also = f", and so do {', '.join(_WORDS.get(name, name) for name in own['also'])}" if own["also"] else ""
        return f"This equals the run's own {part} top-1, {own['top1']:.2%}{also}, to the last bit."
    others = ", ".join(f"{_WORDS.get(name, name)} {found[name]:.9g} now, {value:.9g} then" for name, value in own["differing"].items())
    then = ", ".join(f"{name} {value}" for name, value in own["machine_then"].items() if value is not None)
    which = "This equals the run's own top-1, but other numbers differ" if "top1" not in own["differing"] else "This is not the run's own number"
    return f"{which}: {others}. On the same machine they must be equal; the run had {then or 'a machine that it does not name'}."


def difference_in_words(targets: Sequence[Mapping[str, Any]], found: Mapping[str, Any], part: str) -> str:
    """Exact McNemar in a sentence."""
    first, second = (target["target"] for target in targets)
    only = f"{found['num_only_first_right']:,} of them only the first gets right, {found['num_only_second_right']:,} only the second"
    p_value = p_in_words(found["p_value"])
    interval = f"95 % interval {100 * found['low']:+.2f} to {100 * found['high']:+.2f}"
    test = f"exact McNemar test on the same {found['num_pictures']:,} {part} pictures: {only}"
    points = 100 * found["difference"]
    if found["p_value"] > 0.05:
        return f"{first} and {second} can't be told apart: {points:+.2f} points ({interval}, {p_value}; {test})."
    direction = "better" if points > 0 else "worse"
    return f"{first} is {abs(points):.2f} points {direction} than {second} ({interval}, {p_value}; {test}). Other seeds may differ."


Cell = Callable[[Mapping[str, Any]], str]  # what a network's column says in a row


def _four_digits(key: str) -> Cell:
    return lambda found: f"{found[key]:.4f}"


def _short(targets: Sequence[Mapping[str, Any]], part: str) -> Table:
    data = targets[0]["data"]
    table = Table(title=f"{targets[0]['num_pictures']:,} {part} pictures of {data['source']}, {data['num_classes']} classes")
    table.add_column("")
    for found in targets:
        table.add_column(printable(found["target"]), justify="right", overflow="fold")
    rows: list[tuple[str, Cell]] = [("network", lambda found: f"{found['role']} {found['model']}"), ("top-1", lambda found: f"{found['top1']:.2%}")]
    if "top5" in targets[0]:
        rows.append(("top-5", lambda found: f"{found['top5']:.2%}"))
    rows += [(name, _four_digits(key)) for name, key in (("NLL", "nll"), ("Brier", "brier"), ("ECE", "ece"))]
    rows.append(("parameters", lambda found: f"{found['num_parameters'] / 1e6:.2f} M"))
    rows.append(("one picture", lambda found: f"{found['latency']['one_picture_ms']:.2f} ms"))
    rows.append((f"a batch of {targets[0]['latency']['batch_size']}", lambda found: f"{found['latency']['batch_ms']:.2f} ms"))
    for name, cell in rows:
        table.add_row(name, *(cell(found) for found in targets))
    return table


def _bins(found: Mapping[str, Any]) -> Table:
    table = _table("calibration: how sure, and how often right (empty bins left out)", "probability of the answer", "pictures", "mean", "right")
    for row in found["ece_bins"]:
        if row["num"]:
            table.add_row(f"{row['above']:.3f} to {row['up_to']:.3f}", f"{row['num']:,}", f"{row['confidence']:.1%}", f"{row['top1']:.1%}")
    return table


def _classes(found: Mapping[str, Any]) -> Table:
    classes = sorted((row for row in found["classes"] if row["num"]), key=lambda row: (row["top1"], row["name"]))
    empty, title = len(found["classes"]) - len(classes), "accuracy by class, the worst first"
    if len(classes) > _MOST_CLASSES:
        left_out = len(classes) - _WORST - _BEST
        title = f"accuracy by class: the worst {_WORST} and the best {_BEST}; {left_out:,} between them are left out (--json has all)"
        classes = [*classes[:_WORST], *classes[-_BEST:]]
    table = _table(title + (f"; {empty:,} without pictures" if empty else ""), "class", "right", "of", "top-1")
    for row in classes:
        table.add_row(printable(row["name"]), f"{row['num_right']:,}", f"{row['num']:,}", f"{row['top1']:.1%}")
    return table


def _confusions(found: Mapping[str, Any]) -> Table:
    shown = found["confusions"][:_CONFUSIONS]
    title = f"the {len(shown)} most frequent confusions of {len(found['confusions']):,}" if shown else "no confusions: every answer is right"
    table = _table(title, "class", "taken for", "times")
    table.columns[1].justify = "left"
    for row in shown:
        table.add_row(printable(row["label"]), printable(row["answer"]), f"{row['num']:,}")
    return table


def _matrix(found: Mapping[str, Any]) -> Iterator[Table]:
    """The full matrix; its columns are shared among several tables where the terminal is narrow."""
    matrix = found.get("confusion_matrix")
    if matrix is None:
        return
    names = [f"{number} {printable(row['name'])}" for number, row in enumerate(found["classes"])]
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in names]
    cell = max(len(f"{value:,}") for row in matrix for value in row) + 3
    console = Console()
    width = console.width if console.is_terminal else 1000
    per_table = max(1, (width - max(map(len, names)) - 6) // max(cell, 5))
    for start in range(0, len(names), per_table):
        answers = range(start, min(start + per_table, len(names)))
        some = "" if per_table >= len(names) else f" {answers[0]} to {answers[-1]}"
        table = _table(f"confusion matrix: rows are classes, columns the answers{some}", "", *map(str, answers))
        for name, row in zip(names, matrix, strict=True):
            table.add_row(name, *(f"{row[answer]:,}" if row[answer] else "." for answer in answers))
        yield table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table


def _show_table(table: Table) -> None:
    """Under its title, which rich would break at the table's own width."""
    _say(str(table.title))
    table.title = None
    print_result(table, is_main=True)


def _hardware(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    device = f"{machine['processor']}, {machine['num_cores']} core(s)" if machine["device"] in ("cpu", "mps") else machine["device"]
    return f"{device}, torch {machine['versions']['torch']}, {machine['precision']}"


def _say(text: str) -> None:
    Console(highlight=False, markup=False, emoji=False).print(printable(text), soft_wrap=True)
