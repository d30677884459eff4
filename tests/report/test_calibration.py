"""Calibration against a plain loop and values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distill.report.calibration import calibration_bins, expected_calibration_error


def test_four_answers_by_hand():
    confidences, is_right = np.array([0.95, 0.85, 0.85, 0.45]), np.array([True, True, False, False])
    bins = calibration_bins(confidences, is_right, num_bins=10)
    assert bins.num.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 2, 1]
    assert bins.accuracy[[4, 8, 9]].tolist() == [0, 0.5, 1]
    assert bins.confidence[[4, 8, 9]] == pytest.approx([0.45, 0.85, 0.95])
    assert expected_calibration_error(confidences, is_right, num_bins=10) == pytest.approx((0.45 + 2 * 0.35 + 0.05) / 4)


@pytest.mark.parametrize("seed", range(20))
def test_error_is_that_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    confidences, is_right = rng.uniform(0.1, 1, 300), rng.random(300) < 0.7
    total = 0.0
    for number in range(15):
        inside = (confidences > number / 15) & (confidences <= (number + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidences[inside].mean() - is_right[inside].mean())
    assert expected_calibration_error(confidences, is_right) == pytest.approx(total / 300, abs=1e-12)


def test_certainty_is_in_the_last_bin_and_nothing_gives_no_error():
    assert calibration_bins(np.array([1.0, 1.0 + 1e-7]), np.array([True, True])).num[-1] == 2
    assert expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) == 0.0
