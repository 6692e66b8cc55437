"""Rows looked up by time."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tracer.blame.timeline import Timeline


class Row(NamedTuple):
    """Holds for some time."""

    begin_mono_us: int
    end_mono_us: int


ROWS = st.lists(st.builds(lambda begin, us: Row(begin, begin + us), *[st.integers(0, 50)] * 2))


@given(ROWS, st.integers(0, 100), st.integers(0, 100))
def test_finds_what_looking_at_all_finds(rows: list[Row], start: int, lasted: int) -> None:
    end = start + lasted
    expected = [
        (row, (min(end, row.end_mono_us) - max(start, row.begin_mono_us)))
        for row in rows
        if min(end, row.end_mono_us) > max(start, row.begin_mono_us)
    ]
    found = [
        (row, round(part * (row.end_mono_us - row.begin_mono_us)))
        for row, part in Timeline(rows).during(start, end)
    ]
    assert sorted(found) == sorted(expected)
