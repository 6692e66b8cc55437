"""Time shared among what goes on at once."""

from __future__ import annotations

import random

import pytest

from tracer.blame.parallel import shares_us


@pytest.mark.parametrize(
    ("times", "shares"),
    [
        ([], []),
        ([(5, 25)], [20]),
        ([(0, 10), (10, 30)], [10, 20]),
        ([(0, 10), (50, 60)], [10, 10]),
        ([(0, 100), (0, 100)], [50, 50]),
        ([(0, 100), (40, 60)], [90, 10]),
        ([(7, 7), (0, 10)], [0, 10]),
    ],
)
def test_each_instant_is_divided_evenly(times: list[tuple[int, int]], shares: list[int]) -> None:
    assert shares_us(times) == shares


def test_shares_add_up_to_the_time_in_which_any_went_on() -> None:
    random.seed(1)
    times = [(at, at + random.randrange(1, 500)) for at in random.choices(range(9000), k=300)]
    union = len({moment for begin, end in times for moment in range(begin, end)})
    shares = shares_us(times)
    assert abs(sum(shares) - union) <= len(times) / 2
    assert all(0 <= share <= end - begin for share, (begin, end) in zip(shares, times, strict=True))
