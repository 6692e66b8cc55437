"""Whether a disk was slow itself, from the figures of its intervals."""

from __future__ import annotations

from datetime import timedelta

import pytest
from blame_cases import IO_WAIT, START, server, us, wait

from tracer.blame.devices import Devices
from tracer.blame.intervals import Span
from tracer.model import Sample

# Monotonic seconds at which the capture starts: the first interval goes from there.
BOOTED = 10


def devices(**figures: list[tuple[float, float]]) -> Devices:
    """A host of which, second by second, is known how busy (%) and slow (ms) each device was."""
    samples = [
        Sample(START + timedelta(seconds=number), "disk", name.replace("_", "-"), metric, value)
        for name, rows in figures.items()
        for number, row in enumerate(rows, start=1)
        for metric, value in zip(("busy_percent", "await_ms"), row, strict=True)
    ]
    offset = round(START.timestamp() * 1e6) - us(BOOTED)
    return Devices(server(samples=samples, wall_minus_mono_us=offset))


def span(start: float, end: float, **changes: int) -> Span:
    one = wait(start, end, IO_WAIT, **changes)
    return Span(one, us(start), us(end), us(end - start))


@pytest.mark.parametrize(
    ("busy", "await_ms", "slow"),
    [(5, 0.4, False), (5, 200, True), (95, 0.4, True), (85, 100, False)],
)
def test_slow_if_a_request_took_much_of_the_wait_or_it_was_never_without(
    busy: float, await_ms: float, slow: bool
) -> None:
    found = devices(vdb=[(busy, await_ms)] * 2).behind("vdb", "vdb", span(10.5, 11.5))
    assert found == ("vdb" if slow else None)


def test_many_short_waits_are_no_long_one() -> None:
    slow = devices(vdb=[(20, 60)])
    assert slow.behind("vdb", "vdb", span(10, 11)) is None
    assert slow.behind("vdb", "vdb", span(10, 11, count=50)) == "vdb"


def test_what_a_healthy_disk_takes_is_not_slow() -> None:
    assert devices(vdb=[(20, 40)]).behind("vdb", "vdb", span(10, 10.2)) is None


def test_at_another_time_it_was_quick() -> None:
    found = devices(vdb=[(1, 0.4), (1, 0.4), (100, 900)])
    assert found.behind("vdb", "vdb", span(10.2, 11.8)) is None
    assert found.behind("vdb", "vdb", span(11.2, 12.8)) == "vdb"


def test_of_a_volume_and_its_disk_the_slow_one() -> None:
    found = devices(dm_0=[(99, 250)], vdb=[(2, 1)])
    assert found.behind("dm-0", "vdb", span(10, 11)) == "dm-0"
    found = devices(dm_0=[(99, 250)], vdb=[(97, 249)])
    assert found.behind("dm-0", "vdb", span(10, 11)) == "vdb"


def test_nothing_is_said_of_what_was_not_seen() -> None:
    assert devices().behind("vdb", "vdb", span(10, 11)) is None
    assert devices(vdb=[(99, 250)]).behind(None, None, span(10, 11)) is None
    assert devices(vdb=[(99, 250)]).behind("vdb", "vdb", span(20, 21)) is None
    clockless = Devices(server(samples=[Sample(START, "disk", "vdb", "busy_percent", 99.0)]))
    assert clockless.behind("vdb", "vdb", span(10, 11)) is None
    assert devices().worst("vdb") is None


def test_the_worst_of_it() -> None:
    assert devices(vdb=[(20, 300), (90, 2)]).worst("vdb") == (0.9, 300_000)
