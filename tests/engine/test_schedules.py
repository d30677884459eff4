"""Numbers that change with the step, worked by hand."""

import pytest

from distill.engine.schedules import make_schedule


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [2.0, 3.0, 4.0, 5.0, 6.0, 6.0]),
        ("warmup", [2.0, 3.0, 4.0, 5.0, 6.0, 6.0]),
        ("cosine", [2.0, 2 + 2 * (1 - 0.5**0.5), 4.0, 2 + 2 * (1 + 0.5**0.5), 6.0, 6.0]),
        ("stop_at", [2.0, 2.0, 2.0, 2.0, 6.0, 6.0]),
    ],
)
def test_schedule_goes_from_start_to_end_and_stays(kind, expected):
    schedule = make_schedule(kind, start=2.0, end=6.0, num_steps=4)
    assert [schedule(step) for step in range(6)] == pytest.approx(expected)


def test_schedule_of_no_steps_is_at_its_end():
    assert make_schedule("stop_at", start=1.0, end=0.0, num_steps=0)(1) == 0
