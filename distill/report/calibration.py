"""Are a network's probabilities true? Of the answers that it is 80 % sure of, 80 % should be right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

NUM_BINS = 15


class Bins(NamedTuple):
    """Answers grouped by how sure they are, in bins of equal width over (0, 1]; empty bins have mean 0."""

    num: np.ndarray  # [bins] int64
    confidence: np.ndarray  # [bins] float64, mean
    accuracy: np.ndarray  # [bins] float64


def calibration_bins(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """confidences [N] in (0, 1], the probability of the answer; is_right [N] bool. A bin holds its upper end."""
    confidences = confidences.astype(np.float64)
    index = np.clip(np.ceil(confidences * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    num = np.bincount(index, minlength=num_bins)
    sums = (np.bincount(index, weights=values, minlength=num_bins) for values in (confidences, is_right.astype(np.float64)))
    return Bins(num, *(total / np.maximum(num, 1) for total in sums))


def expected_calibration_error(confidences: np.ndarray, is_right: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """The mean distance between confidence and accuracy over the bins, weighted by their answers.

    Source: Guo et al., 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599.
    """
    bins = calibration_bins(confidences, is_right, num_bins)
    return float((bins.num * np.abs(bins.confidence - bins.accuracy)).sum() / max(1, len(confidences)))
