"""What must show before a network is named."""

from __future__ import annotations

from typing import Any

import pytest
from blame_cases import SERVER, client, quiet_samples, rpc, served, server, us

from tracer.blame import network
from tracer.blame.join import Join
from tracer.blame.network import Evidence
from tracer.histogram import bucket_of
from tracer.model import Count, Event, HostCapture, LatencyRow, Sample

THRESHOLD_US = 100_000


def evidence(*captures: HostCapture, behind: float = 0, rtt: float | None = None) -> Evidence:
    """``behind``: for how many seconds each RPC was behind others' data."""
    rtt_us = None if rtt is None else us(rtt)
    return network.evidence(
        captures, Join(captures), THRESHOLD_US, lambda *_: us(behind), lambda *_: rtt_us
    )


def is_at_fault(*captures: HostCapture, behind: float = 0) -> bool:
    return evidence(*captures, behind=behind) > Evidence.NONE


def rpcs(*walls_us: int) -> LatencyRow:
    return LatencyRow("client", "rpc", "READ", {bucket_of(us): 1 for us in walls_us}, 0, 0)


def repeated(*rates: float) -> tuple[Sample, ...]:
    ts = quiet_samples()[0].ts
    return tuple(Sample(ts, "tcp", None, "retrans_segs_per_s", rate) for rate in rates)


def needless(*rates: float) -> tuple[Sample, ...]:
    ts = quiet_samples()[0].ts
    return tuple(Sample(ts, "tcp", None, "dsack_recv_segs_per_s", rate) for rate in rates)


def sent(*rates: float) -> tuple[Sample, ...]:
    ts = quiet_samples()[0].ts
    return tuple(Sample(ts, "tcp", None, "out_segs_per_s", rate) for rate in rates)


def test_not_while_a_server_starts_and_stops_its_threads() -> None:
    lost = Count("client", "disconnect", None, None, "10.9.0.1", 1)
    ts = quiet_samples()[0].ts
    stopped = Event(ts, "note", "nfsd", "from 8 to 0 nfsd threads", 1)
    there, here = server(events=[stopped]), client(counts=[lost])
    assert is_at_fault(here)
    assert not is_at_fault(there, here)


@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ({}, False),
        ({"counts": [Count("client", "timeout", None, None, "10.9.0.1", 1)]}, True),
        ({"counts": [Count("client", "disconnect", None, None, "10.9.0.1", 1)]}, True),
        ({"counts": [Count("client", "connect", None, None, "10.9.0.1", 9)]}, False),
        ({"samples": repeated(0, 0, 0, 3)}, True),
        ({"samples": repeated(*[0] * 30, 1)}, False),
        ({"samples": repeated(0, 0, 0, 3) + sent(600, 800)}, True),
        # They had been there: what tells that came late.
        ({"samples": repeated(0, 0, 0, 3) + needless(0, 0, 0, 3)}, False),
        ({"samples": repeated(0, 0, 0, 3) + needless(0, 0, 0, 1)}, True),
        # One in fifty thousand.
        ({"samples": repeated(0, 0, 0, 3) + sent(20_000, 80_000)}, False),
    ],
)
def test_a_network_is_at_fault_where_that_shows(recorded: dict[str, Any], named: bool) -> None:
    assert is_at_fault(client(**recorded)) == named


@pytest.mark.parametrize(
    ("walls", "slots", "named"),
    [
        ((0.001, 0.3, 0.4), (0, 0, 0), True),
        ((0.001, 0.002, 0.4), (0, 0, 0), False),
        # They waited for each other on the client.
        ((0.001, 0.3, 0.4), (0, 0.29, 0.39), False),
    ],
)
def test_a_network_is_at_fault_where_every_other_rpc_is_slow(
    walls: tuple[float, ...], slots: tuple[float, ...], named: bool
) -> None:
    recorded = [
        rpc(1, 1 + wall, slot_us=us(slot))
        for wall, slot in zip(walls, slots, strict=True)
        if wall >= 0.01
    ]
    here = client(recorded, latency=[rpcs(*map(us, walls))])
    assert is_at_fault(here) == named
    assert not is_at_fault(here, behind=0.29)


@pytest.mark.parametrize(
    ("recorded", "lossy"),
    [
        ({}, False),
        ({"counts": [Count("client", "timeout", None, None, "10.9.0.1", 1)]}, True),
        ({"samples": repeated(0, 1) + sent(90, 110)}, False),
        ({"samples": repeated(0, 3) + sent(90, 110)}, True),
    ],
)
def test_a_network_is_lossy_where_much_is_repeated(recorded: dict[str, Any], lossy: bool) -> None:
    here = client(**recorded)
    assert network.is_lossy(here, here) == lossy


def test_a_host_that_repeats_its_few_acknowledgements_loses_no_data() -> None:
    there, here = server(samples=repeated(0, 3) + sent(90)), client(samples=sent(1500))
    assert network.is_lossy(there, here)
    assert not network.is_lossy(here, here)


@pytest.mark.parametrize(("at_server", "named"), [(0.05, True), (0.28, False)])
def test_a_slow_server_is_no_slow_network(at_server: float, named: bool) -> None:
    here = client([rpc(1, 1.3, xid=5)], latency=[rpcs(us(0.3))])
    there = server([served(1, 1 + at_server, xid=5)], addresses=frozenset({SERVER}))
    assert is_at_fault(here, there) == named


@pytest.mark.parametrize(("rtt", "named"), [(0.2, True), (0.1, False), (None, False)])
def test_a_network_is_at_fault_where_tcp_takes_as_long_itself(
    rtt: float | None, named: bool
) -> None:
    many = rpcs(*range(1000, 10_000, 1000), us(0.3))
    slow = [rpc(1, 1.3, xid=5), rpc(2, 2.3, xid=6)]
    shows = evidence(client(slow, latency=[many]), rtt=rtt)
    assert shows == (Evidence.PLAIN if named else Evidence.NONE)
    assert evidence(client(slow[:1], latency=[many]), rtt=rtt) == Evidence.NONE


@pytest.mark.parametrize(
    ("rate", "shows"), [(0.1, Evidence.NONE), (3, Evidence.SOME), (8, Evidence.PLAIN)]
)
def test_the_more_is_repeated_the_plainer(rate: float, shows: Evidence) -> None:
    assert evidence(client(samples=repeated(rate) + sent(100))) == shows
