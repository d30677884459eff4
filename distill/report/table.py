"""The table that ends a run, and what it says in one sentence. Reads what the run has written; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from distill.record import PREDICTIONS_FILE
from distill.report.runs import read_arrays
from distill.report.statistics import PairedDifference, paired_difference
from distill.report.verdicts import p_in_words

# what several teachers answer as one; of drawn answers the mean is scored, in probabilities
_TOGETHER = {"mean": "their mean", "weighted": "their weighted mean", "sampled": "one, drawn (mean)"}


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(title, row) of those that the summary has."""
    chain = summary.get("chain", [])
    several = summary.get("teachers", [])
    yield from ((f"teacher {number}", row) for number, row in enumerate(several, start=1))
    if several:
        yield _TOGETHER.get(summary["teacher"].get("answers_as_one"), "together"), summary["teacher"]
    taught = [] if several else [*chain, *([summary["teacher"]] if "teacher" in summary else [])]
    for number, row in enumerate(taught):
        yield "assistant" if number else "teacher", row
    for key, title in (("peer", "its peer"), ("alone", "student alone"), ("distilled", "distilled student")):
        if key in summary:
            yield title, summary[key]


def _title(summary: Mapping[str, Any]) -> str:
    title = f"{summary['run_name']}: last epoch, seed {summary['seed']}"
    if chain := summary.get("chain"):
        names = [row["model"] for row in [*chain, summary["teacher"], summary.get("distilled", {"model": "student"})]]
        title += f"; each learned from the one before: {', '.join(names)}"
    if summary.get("method") == "ema_teacher":
        title += "; it learned from the average of its own weights"
    if summary.get("method") == "mutual":
        title += "; it and its peer learned from each other"
    return title


def result_table(summary: Mapping[str, Any]) -> Table:
    """Teacher, student alone, distilled student: those that the summary has; of a chain, also the assistants."""
    table = Table(title=_title(summary), title_justify="left")
    for number, heading in enumerate(("", "model", "val top-1", "test top-1", "agrees with teacher", "parameters", "GMACs", "images/s")):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for title, row in _rows(summary):
        agreement = row.get("agreement")
        table.add_row(
            title,
            row["model"],
            f"{row['val_top1']:.2%}" if "val_top1" in row else "other classes",
            f"{row['test_top1']:.2%}" if "test_top1" in row else "other classes",
            "" if agreement is None else f"{agreement:.1%}",
            f"{row['num_parameters'] / 1e6:.2f} M",
            f"{row['gmacs']:.3f}",
            f"{row['images_per_second']:,.0f}",
            style="bold" if row is summary.get("distilled") else "",
        )
    return table


def compare_runs(distilled: Path, alone: Path) -> PairedDifference:
    """How much the distilled run's student beats the one alone on the test part, from the predictions that both runs have kept."""
    (ours, labels), (theirs, _) = _test_answers(distilled), _test_answers(alone)
    return paired_difference(ours == labels, theirs == labels)


def _test_answers(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """(the student's answers, the labels)."""
    arrays = read_arrays(run / PREDICTIONS_FILE, ("test", "test_labels"))
    return arrays["test"], arrays["test_labels"]


def verdict(summary: Mapping[str, Any], difference: PairedDifference) -> str:
    """One sentence: what was gained over the student alone, and whether that is more than noise."""
    student, points = summary["distilled"]["model"], 100 * difference.difference
    scores = f"{summary['distilled']['test_top1']:.2%} against {summary['alone']['test_top1']:.2%}"
    pictures = f"{summary['data']['num_test']:,} test pictures, one seed"
    if difference.p_value > 0.05:
        return (
            f"The distilled {student} and the same student alone can't be told apart: {scores} ({points:+.2f} points, within noise, "
            f"{p_in_words(difference.p_value)}; {pictures})."
        )
    direction = "better" if points > 0 else "worse"
    return (
        f"The distilled {student} is {abs(points):.2f} points {direction} than the same student alone: {scores} (95 % interval "
        f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}, {p_in_words(difference.p_value)}; {pictures}, so other seeds may differ)."
    )
