"""What must show before a network is named."""

from __future__ import annotations

from typing import Any

import pytest
from blame_cases import client, quiet_samples, rpc, server, us

from tracer.blame.network import is_at_fault
from tracer.histogram import bucket_of
from tracer.model import Count, Event, LatencyRow, Sample

THRESHOLD_US = 100_000


def rpcs(*walls_us: int) -> LatencyRow:
    return LatencyRow("client", "rpc", "READ", {bucket_of(us): 1 for us in walls_us}, 0, 0)


def repeated(*rates: float) -> tuple[Sample, ...]:
    ts = quiet_samples()[0].ts
    return tuple(Sample(ts, "tcp", None, "retrans_segs_per_s", rate) for rate in rates)


def test_not_while_a_server_starts_and_stops_its_threads() -> None:
    lost = Count("client", "disconnect", None, None, "10.9.0.1", 1)
    ts = quiet_samples()[0].ts
    stopped = Event(ts, "note", "nfsd", "from 8 to 0 nfsd threads", 1)
    there, here = server(events=[stopped]), client(counts=[lost])
    assert is_at_fault([here], THRESHOLD_US)
    assert not is_at_fault([there, here], THRESHOLD_US)


@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ({}, False),
        ({"counts": [Count("client", "timeout", None, None, "10.9.0.1", 1)]}, True),
        ({"counts": [Count("client", "disconnect", None, None, "10.9.0.1", 1)]}, True),
        ({"counts": [Count("client", "connect", None, None, "10.9.0.1", 9)]}, False),
        ({"samples": repeated(0, 0, 0, 3)}, True),
        ({"samples": repeated(*[0] * 30, 1)}, False),
    ],
)
def test_a_network_is_at_fault_where_that_shows(recorded: dict[str, Any], named: bool) -> None:
    assert is_at_fault([client(**recorded)], THRESHOLD_US) == named


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
    assert is_at_fault([here], THRESHOLD_US) == named
