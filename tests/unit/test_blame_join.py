"""Clocks of two hosts, told by the RPCs that both recorded."""

import pytest

from tests.unit.blame_cases import client, rpc, served, server, us
from tracer.blame.join import Join

HOUR = 3600


def ahead(*times: tuple[float, float]) -> Join:
    """Return captures of RPCs by (when sent, how far the server's clock is ahead by then)."""
    here = [rpc(at - 0.001, at + 0.003, xid=xid) for xid, (at, _) in enumerate(times, 1)]
    there = [served(at + by, at + by + 0.002, xid=xid) for xid, (at, by) in enumerate(times, 1)]
    return Join([client(here), server(there)])


def test_clocks_are_told_by_what_both_saw() -> None:
    join = ahead((10, 40), (12, 40))
    assert join.offset_us(0, 1, us(11)) == pytest.approx(us(40), abs=us(0.002))


def test_clocks_that_drift_apart_are_told_for_each_time() -> None:
    join = ahead((10, 40), (HOUR, 40.2), (2 * HOUR, 40.4))
    for at, by in ((11, 40), (HOUR + 1, 40.2), (HOUR + 700, 40.2), (3 * HOUR, 40.4)):
        assert join.offset_us(0, 1, us(at)) == pytest.approx(us(by), abs=us(0.002))


def test_clocks_that_contradict_themselves_are_not_told() -> None:
    assert ahead((10, 40), (12, 45)).offset_us(0, 1, us(11)) is None


def test_a_reply_may_be_there_before_the_server_is_back_from_sending_it() -> None:
    there = served(50, 50.24, xid=1, send_us=us(0.06))
    offset_us = Join([client([rpc(10, 10.2, xid=1)]), server([there])]).offset_us(0, 1, us(10))
    assert offset_us is not None
    assert us(39.98) <= offset_us <= us(40)


@pytest.mark.parametrize(("wall_us", "told"), [(us(39), us(39)), (us(100), None)])
def test_wall_clocks_must_fit_all_that_both_saw(wall_us: int, told: int | None) -> None:
    # It arrived 40 s later by the server's clock: that clock is ahead no further.
    there = server([served(50, 60, xid=1, in_flight=True)], wall_minus_mono_us=us(5))
    here = client([rpc(10, 20, xid=1, in_flight=True)], wall_minus_mono_us=us(5) + wall_us)
    assert [Join([here, there]).offset_us(0, 1, us(at)) for at in (15, HOUR)] == [told, told]
