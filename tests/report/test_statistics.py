"""The statistics of a comparison against scipy's and statsmodels', and what they promise in simulated comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from distill.report.statistics import (
    holm,
    mean_interval,
    paired_difference,
    paired_seeds,
    sampling_error,
    seeds_needed,
    share_interval,
    unpaired_seeds,
)

CASES = [(seed, num) for seed in range(40) for num in (2, 3, 5, 11)]


def accuracies(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.8, 0.01, shape)


@pytest.mark.parametrize("seed, num", CASES)
def test_interval_of_a_mean_is_scipys(seed, num):
    values = accuracies(seed, num)
    low, high = stats.t.interval(0.95, num - 1, values.mean(), stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx((values.mean(), low, high, num), rel=1e-9)


@pytest.mark.parametrize("num_right, num", [(0, 24), (24, 24), (13, 24), (1, 1), (1740, 2000)])
def test_interval_of_a_share_is_wilsons_by_scipy(num_right, num):
    expected = stats.binomtest(num_right, num).proportion_ci(method="wilson")
    assert share_interval(num_right, num) == pytest.approx((expected.low, expected.high), abs=1e-7)


@pytest.mark.parametrize("seed, num", CASES)
def test_paired_difference_over_seeds_is_scipys(seed, num):
    first, second = accuracies(seed, 2, num)
    expected = stats.ttest_rel(first, second)
    found = paired_seeds(first, second)
    low, high = expected.confidence_interval(0.95)
    assert found[:5] == pytest.approx(((first - second).mean(), low, high, expected.pvalue, num), rel=1e-9, abs=1e-12)
    assert found.is_paired


@pytest.mark.parametrize("seed, num", CASES)
def test_difference_of_other_seeds_is_welchs(seed, num):
    first, second = accuracies(seed, num), accuracies(seed + 1000, num + 1)
    expected = stats.ttest_ind(first, second, equal_var=False)
    found = unpaired_seeds(first, second)
    low, high = expected.confidence_interval(0.95)
    assert found[:5] == pytest.approx((first.mean() - second.mean(), low, high, expected.pvalue, num), rel=1e-9, abs=1e-12)
    assert not found.is_paired


@pytest.mark.parametrize("seed", range(40))
def test_holm_is_statsmodels(seed):
    p_values = np.random.default_rng(seed).uniform(0, 0.2, 1 + seed % 9).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


def test_holm_passes_over_what_could_not_be_tested():
    found = holm([0.03, math.nan, 0.01])
    assert found == pytest.approx([0.03, math.nan, 0.02], nan_ok=True)
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(60))
def test_mcnemar_is_scipys_and_statsmodels(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 50 + 10 * seed)) < rng.uniform(0.5, 0.9, (2, 1))
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    found = paired_difference(first, second)
    assert found.p_value == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-9)
    table = [[int((first & second).sum()), gained], [lost, int((~first & ~second).sum())]]
    assert found.p_value == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_mcnemar_of_two_that_never_differ_is_1():
    same = np.array([True, False])
    assert paired_difference(same, same) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("spread, effect", [(0.4, 0.3), (0.2, 0.3), (0.31, 0.5), (1.0, 0.3), (0.05, 0.3), (0.01, 0.3), (0.4, -0.3)])
def test_seeds_needed_are_those_of_statsmodels(spread, effect):
    found = seeds_needed(spread, effect)
    power = [TTestPower().power(abs(effect) / spread, nobs=num, alpha=0.05) for num in (found, max(2, found - 1))]
    assert power[0] >= 0.8
    assert power[1] < 0.8 or found == 2


def test_seeds_needed_for_the_unreachable_is_none():
    assert seeds_needed(1.0, 1e-4) is None
    assert seeds_needed(1.0, 0.0) is None


def test_one_seed_has_no_interval_and_no_p_value():
    assert mean_interval([0.7])[0] == 0.7
    assert all(map(math.isnan, mean_interval([0.7])[1:3]))
    assert all(map(math.isnan, paired_seeds([0.7], [0.6])[1:4]))
    assert all(map(math.isnan, unpaired_seeds([0.7, 0.8], [0.6])[1:4]))
    assert mean_interval([]).num == 0


def test_differences_that_are_all_equal_say_nothing_of_the_noise():
    found = paired_seeds([0.7, 0.8, 0.9], [0.6, 0.7, 0.8])
    assert (found.mean, found.spread) == pytest.approx((0.1, 0), abs=1e-12)
    assert all(map(math.isnan, found[1:4]))
    assert all(map(math.isnan, unpaired_seeds([0.7, 0.7], [0.6, 0.6])[1:4]))


def test_sampling_error_of_one_seed_is_that_of_a_binomial():
    right = np.arange(1000) < 800
    assert sampling_error(right[None]) == pytest.approx(math.sqrt(0.8 * 0.2 / 999), rel=1e-12)
    assert sampling_error(right[None], right[None]) == 0.0


def simulated(seed: int, gain: float, num_rows: int, num_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 of a student alone [seeds] and of rows [rows, seeds]: noise of the seed's own that pairs share, and more of each run."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.85, 0.005, num_seeds)
    return shared + rng.normal(0, 0.004, num_seeds), gain + shared + rng.normal(0, 0.004, (num_rows, num_seeds))


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_interval_covers_the_truth_in_19_of_20_simulated_comparisons(num_seeds):
    gain, covered = 0.003, 0
    for seed in range(2000):
        alone, rows = simulated(seed, gain, 1, num_seeds)
        found = paired_seeds(rows[0], alone)
        covered += found.low <= gain <= found.high
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_six_rows_without_a_gain_give_a_false_alarm_in_one_of_20_studies_at_most(num_seeds):
    alarms = 0
    for seed in range(2000):
        alone, rows = simulated(seed, 0.0, 6, num_seeds)
        alarms += min(holm([paired_seeds(row, alone).p_value for row in rows])) < 0.05
    assert alarms / 2000 <= 0.06
