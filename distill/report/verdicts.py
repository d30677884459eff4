"""What a comparison shows, row by row, in words that claim no more than the seeds and pictures allow."""

from __future__ import annotations

import math

from distill.report.comparison import Comparison, Row, difference_of
from distill.report.statistics import ALPHA, Difference, seeds_needed

_WORTH_SEEING = 0.003  # of top-1: the difference for which needed seeds are named, where the one that was found is smaller
_SEEDS_FOR_AN_INTERVAL = 3


def verdicts(comparison: Comparison) -> list[str]:
    """A sentence for each row that is compared with another, and one for the two best of several."""
    said = [row for row in comparison.rows if row.reference is not None or not (row.student.is_alone or row.is_reference)]
    sentences = [verdict(row, comparison.num_test) for row in said]
    return sentences + _between_the_best(comparison)


def verdict(row: Row, num_test: int) -> str:
    """One sentence: more, less, or not to be told apart; and what limits the claim."""
    if row.reference is None:
        return f"{row.student.name}: {row.top1.mean:.2%}, without a control: the same student alone was not run, so no gain can be claimed."
    other = row.reference.name if not row.reference.is_alone else "the same student alone"
    if row.difference.num < 2 and row.pictures is not None:
        return _of_one_seed(row, other, num_test)
    if row.difference.num < 2:
        return (
            f"{row.student.name}: {100 * row.difference.mean:+.2f} points to {other}, but one of the two has a single seed, which the other lacks: "
            "nothing can be tested; run the same seeds of both."
        )
    return _of_seeds(row.student.name, other, row.difference, row.adjusted_p) + _limit(row, num_test) + "."


def points(value: float) -> str:
    """A difference of shares in points: 0.0144 -> 1.44."""
    return f"{100 * value:.2f}"


def p_in_words(value: float) -> str:
    """A p-value with two significant digits, such as "p = 0.021"."""
    return f"p = {value:.3f}".rstrip("0").rstrip(".") if value >= 0.0995 else f"p = {value:.2g}" if value >= 1e-4 else "p < 0.0001"


def _of_one_seed(row: Row, other: str, num_test: int) -> str:
    found, p_value = row.pictures, row.adjusted_pictures_p
    told_apart = "more than the drawing of these" if p_value < ALPHA else "not more than chance on these"
    adjusted = f", {p_in_words(p_value)} as one of all that were tried" if p_value != found.p_value else ""
    return (
        f"{row.student.name}: {100 * found.difference:+.2f} points to {other} with one seed, {told_apart} {num_test:,} test pictures explains "
        f"(McNemar, {p_in_words(found.p_value)}{adjusted}); one seed gives no interval over seeds: run {_SEEDS_FOR_AN_INTERVAL} at least."
    )


def _of_seeds(name: str, other: str, difference: Difference, p_value: float) -> str:
    seeds = f"{difference.num} paired seeds" if difference.is_paired else f"{difference.num} seeds or more, not paired"
    if math.isnan(p_value):
        each = "in each of" if difference.is_paired else "with"
        return f"{name} is {100 * difference.mean:+.2f} points to {other} {each} {seeds}: without any spread there is nothing to test"
    half_width = points(difference.high - difference.mean)
    if p_value < ALPHA:
        verb = "beats" if difference.mean > 0 else "falls behind"
        return f"{name} {verb} {other} by {points(abs(difference.mean))} ± {half_width} points ({seeds}, {p_in_words(p_value)})"
    seen = max(abs(difference.mean), _WORTH_SEEING)
    needed = seeds_needed(difference.spread, seen)
    more = f"about {needed:,} would be needed to see {100 * seen:.1f} points" if needed else "no number of seeds would show it"
    if needed is not None and needed <= difference.num:
        more = "what there may be is small, or was asked for among many"
    tested = p_in_words(p_value)
    if difference.p_value < ALPHA:
        tested = f"{p_in_words(difference.p_value)} by itself, {tested} as one of all that were tried"
    return f"{name} and {other} can't be told apart with {seeds} ({100 * difference.mean:+.2f} ± {half_width} points, {tested}); {more}"


def _limit(row: Row, num_test: int) -> str:
    """The test part's own noise, where it is what limits the claim: other seeds would not make it smaller."""
    error, half_width = 1.959964 * row.sampling, row.difference.high - row.difference.mean
    if math.isnan(error) or math.isnan(half_width) or error <= half_width:
        return ""
    return f"; on {num_test:,} other test pictures it may be ± {points(error)} points, which more seeds don't narrow"


def _between_the_best(comparison: Comparison) -> list[str]:
    ranked = sorted((row for row in comparison.rows if not row.student.is_alone), key=lambda row: -row.top1.mean)
    if len(ranked) < 2 or ranked[1].student is ranked[0].reference or ranked[0].student is ranked[1].reference:
        return []
    first, second = ranked[:2]
    difference = difference_of(first.student, second.student)
    if difference.num < 2:
        return [f"{first.student.name} and {second.student.name} are the best two here; one seed can't tell which is better."]
    return [
        "The best two: " + _of_seeds(first.student.name, second.student.name, difference, difference.p_value) + ", not adjusted for picking them."
    ]
