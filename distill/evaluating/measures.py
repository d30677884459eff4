"""Everything that the answers of one network say of it. Fractions and counts; needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.engine.evaluation import Score
from distill.report.calibration import NUM_BINS, calibration_bins, expected_calibration_error
from distill.report.statistics import paired_difference

MOST_IN_MATRIX = 20  # classes up to which the whole matrix is given


def measures(score: Score, class_names: Sequence[str]) -> dict[str, Any]:
    """top1, top5 (above five classes), nll in nats, brier, ece, ece_bins, classes, confusions (all of them, the most frequent first) and, up to 20
    classes, confusion_matrix [label][answer]."""
    is_right = score.predictions == score.labels
    found: dict[str, Any] = {"num_pictures": len(score.labels), "num_right": int(is_right.sum()), "top1": score.top1}
    if len(class_names) > 5:
        found["top5"] = score.top5
    found |= {"nll": score.nll, "brier": score.brier, "ece": expected_calibration_error(score.confidences, is_right)}
    found |= {"ece_bins": _bins(score.confidences, is_right), "classes": _classes(score.labels, is_right, class_names)}
    counts = confusion_counts(score.labels, score.predictions)
    wrong = sorted(((pair, num) for pair, num in counts.items() if pair[0] != pair[1]), key=lambda entry: (-entry[1], entry[0]))
    found["confusions"] = [{"label": class_names[label], "answer": class_names[answer], "num": num} for (label, answer), num in wrong]
    if len(class_names) <= MOST_IN_MATRIX:
        every = range(len(class_names))
        found["confusion_matrix"] = [[counts.get((label, answer), 0) for answer in every] for label in every]
    return found


def confusion_counts(labels: np.ndarray, predictions: np.ndarray) -> dict[tuple[int, int], int]:
    """(label, answer) -> pictures, of the pairs that occur; both [N] int64."""
    pairs, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    return {(int(label), int(answer)): int(num) for (label, answer), num in zip(pairs.T, counts, strict=True)}


def difference(first: Score, second: Score) -> dict[str, Any]:
    """How much more often the first is right on the same pictures, with McNemar's exact test."""
    ours, theirs = first.predictions == first.labels, second.predictions == second.labels
    found = paired_difference(ours, theirs)
    counts: dict[str, float] = {"num_only_first_right": int((ours & ~theirs).sum()), "num_only_second_right": int((~ours & theirs).sum())}
    counts |= {"num_both_right": int((ours & theirs).sum()), "num_pictures": len(ours), "agreement": first.agreement(second)}
    return {**found._asdict(), **counts}


def compared_with_own(ours: Mapping[str, float], theirs: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    """The scores against those that the run wrote down of itself; None where it has none. Both by name, such as test_top1."""
    shared = [name for name in ours if name.startswith(part) and isinstance(theirs.get(name), int | float)]
    if f"{part}_top1" not in shared:
        return None
    differing = {name.removeprefix(f"{part}_"): theirs[name] for name in shared if ours[name] != theirs[name]}
    also = [name.removeprefix(f"{part}_") for name in shared if not name.endswith("_top1")]
    return {"top1": theirs[f"{part}_top1"], "is_equal": not differing, "differing": differing, "also": also}


def _bins(confidences: np.ndarray, is_right: np.ndarray) -> list[dict[str, Any]]:
    bins = calibration_bins(confidences, is_right)
    rows = zip(bins.num.tolist(), bins.confidence.tolist(), bins.accuracy.tolist(), strict=True)
    return [
        {
            "above": index / NUM_BINS,
            "up_to": (index + 1) / NUM_BINS,
            "num": num,
            "confidence": confidence if num else None,
            "top1": right if num else None,
        }
        for index, (num, confidence, right) in enumerate(rows)
    ]


def _classes(labels: np.ndarray, is_right: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """In the order of the classes; top1 is None for a class without pictures."""
    nums = np.bincount(labels, minlength=len(class_names)).tolist()
    rights = np.bincount(labels[is_right], minlength=len(class_names)).tolist()
    rows = zip(class_names, rights, nums, strict=True)
    return [{"name": name, "num_right": right, "num": num, "top1": right / num if num else None} for name, right, num in rows]
