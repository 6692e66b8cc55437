from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.durations import parse_duration_us, parse_limit, short_duration


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("500ms", "", 500_000),
        ("2s", "", 2_000_000),
        ("1.5 min", "", 90_000_000),
        (" 2m ", "", 120_000_000),
        (".5S", "", 500_000),
        ("7us", "", 7),
        ("1h", "", 3_600_000_000),
        ("60", "s", 60_000_000),
        ("60", "ms", 60_000),
        ("0", "s", 0),
    ],
)
def test_durations(text: str, unit: str, expected: int) -> None:
    assert parse_duration_us(text, unit) == expected


@pytest.mark.parametrize(
    "text", ["", "s", "5", "-5s", "1e3s", "5 parsecs", "nan", "inf", "5%", "1.s.", "9" * 400 + "s"]
)
def test_nonsense_is_a_value_error_with_the_text_in_it(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_us(text)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in (parse_duration_us, parse_limit):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


@given(st.integers(1, 10**13))
def test_what_is_written_short_reads_as_the_same(time_us: int) -> None:
    assert parse_duration_us(short_duration(time_us)) == time_us


@pytest.mark.parametrize(
    ("time_us", "text"),
    [(90_000_000, "90s"), (100_000, "100ms"), (7_200_000_000, "2h"), (1, "1us"), (0, "0us")],
)
def test_short(time_us: int, text: str) -> None:
    assert short_duration(time_us) == text


def test_limits() -> None:
    assert parse_limit("10%") == (None, 0.1)
    assert parse_limit("100%") == (None, 1.0)
    assert parse_limit("3s") == (3_000_000, None)
    with pytest.raises(ValueError, match="0% to 100%"):
        parse_limit("101%")
