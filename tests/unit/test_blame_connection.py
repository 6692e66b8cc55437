"""Data of one process that the requests and replies of others are behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from blame_cases import (
    REDIS,
    SERVER,
    call,
    client,
    named,
    processes,
    quiet_samples,
    rpc,
    served,
    server,
    us,
)

from tracer.blame import Analysis, analyse
from tracer.blame.connection import Ahead, Connection, Lane, Passage
from tracer.blame.join import Join
from tracer.model import Count, HostCapture, Operation, Process, ProcessKey

COPY, TWIN, OPENER = ProcessKey(70, 7_000), ProcessKey(71, 7_100), ProcessKey(80, 8_000)
PROCESSES = processes(
    Process(COPY, comm="copyd", exe="/opt/copyd"),
    Process(TWIN, comm="copyd", exe="/opt/copyd"),
    Process(OPENER, comm="opener", exe="/opt/opener"),
    Process(REDIS, comm="redis-server", exe="/usr/bin/redis-server"),
)


class TestLane:
    write, read = (rpc(0, 1, op=op) for op in ("WRITE", "READ"))

    def ahead(
        self, *passages: tuple[float, float, Operation], since: float = 5.0
    ) -> list[tuple[float, Operation]]:
        lane = Lane([Passage(*one) for one in passages], frozenset({"WRITE"}))
        return [(one.us, one.rpc) for one in lane.ahead(since, 5, 9)]

    def test_each_takes_the_time_since_the_one_before_it_was_through(self) -> None:
        other = replace(self.write, op_id=0)
        assert self.ahead((1, 8, other), (1, 6, self.write)) == [(1, self.write), (2, other)]

    def test_what_was_through_before_or_is_later_is_not_ahead(self) -> None:
        assert self.ahead((1, 5, self.write), (1, 9.5, self.write)) == []

    def test_what_began_later_is_on_another_connection(self) -> None:
        assert self.ahead((5, 6, self.write), (6, 7, self.write)) == []

    def test_what_carries_no_data_takes_next_to_nothing(self) -> None:
        assert self.ahead((1, 6, self.read), (1, 7, self.write)) == [(1, self.write)]

    def test_no_passage_no_delay(self) -> None:
        assert self.ahead() == []
        assert Ahead(self.write, 1.0).us == 1.0


@dataclass
class Pair:
    """An RPC at both ends, in seconds of either clock."""

    sent: float
    arrived: float
    answered: float
    replied: float
    op: str = "WRITE"
    process: ProcessKey | None = COPY
    writer: ProcessKey | None = None
    recorded: bool = True
    """By the server as well."""
    rtt_us: int | None = 2000

    def operations(self, number: int) -> tuple[list[Operation], list[Operation]]:
        who = {"process": self.process, "writer": self.writer, "op": self.op, "xid": number}
        here = rpc(self.sent, self.replied, **who)
        there = served(
            self.arrived, self.answered, xid=number, nfs_op=None, rtt_us=self.rtt_us, queue=0.0
        )
        if self.process is None:
            return [here], [there]
        vfs = call(self.sent, self.replied, process=self.process, comm="x")
        here = replace(here, parent_id=vfs.op_id)
        return [vfs, here], [there] if self.recorded else []


# What tells the clocks of both, and that they were recorded all the while.
QUICK = [Pair(at, at + 0.001, at + 0.002, at + 0.003) for at in (0.0, 1.0, 2.0, 89.0)]


def captures(pairs: Sequence[Pair]) -> tuple[HostCapture, HostCapture]:
    """Return the server's and the client's captures."""
    here: list[Operation] = []
    there: list[Operation] = []
    for number, pair in enumerate((*QUICK, *pairs), start=1):
        ours, theirs = pair.operations(number)
        here += ours
        there += theirs
    quiet = {"samples": quiet_samples(), "processes": PROCESSES}
    return server(there, **(quiet | {"listeners": ()})), client(here, **quiet)


def analysed(*pairs: Pair) -> Analysis:
    return analyse(captures(pairs))


def queue(
    *ends: float, process: ProcessKey | None = COPY, writer: ProcessKey | None = None
) -> list[Pair]:
    """Return WRITEs sent all at once at 10 s that arrive one after another."""
    return [
        Pair(10, arrived, arrived + 0.01, arrived + 0.02, process=process, writer=writer)
        for arrived in ends
    ]


VICTIM = Pair(10.01, 12.01, 12.02, 12.03, "OPEN", OPENER)


def of_opener(analysis: Analysis, cause: str, name: str | None) -> float:
    """Return the seconds of the opener's stalls put down to someone."""
    return (
        sum(
            part
            for stall in analysis.stalls
            if stall.operation.process == OPENER
            for charge, part in stall.bill.items()
            if (charge.cause, charge.culprit and charge.culprit.name) == (cause, name)
        )
        / 1e6
    )


@pytest.mark.parametrize("whose", [{"process": COPY}, {"process": None, "writer": COPY}])
@pytest.mark.parametrize("recorded", [True, False])
def test_who_wrote_what_a_request_is_behind_is_named(
    whose: dict[str, ProcessKey | None], recorded: bool
) -> None:
    victim = replace(VICTIM, recorded=recorded)
    analysis = analysed(*queue(10.5, 11, 11.5, 12, **whose), victim)
    assert ("process", "copyd", "slot") in named(analysis)
    assert of_opener(analysis, "slot", "copyd") == pytest.approx(1.99, abs=0.02)


def test_replies_are_behind_what_another_reads() -> None:
    reads = [Pair(10, 10.01, 10.02, replied, "READ", COPY) for replied in (10.5, 11.0, 11.5, 12.0)]
    analysis = analysed(*reads, Pair(10.01, 10.02, 10.03, 12.01, "OPEN", OPENER))
    assert of_opener(analysis, "slot", "copyd") == pytest.approx(1.97, abs=0.02)


def test_nobody_is_to_blame_for_his_own_requests() -> None:
    own = replace(VICTIM, process=TWIN, op="WRITE")
    analysis = analysed(*queue(10.5, 11, 11.5, 12), own)
    assert named(analysis) == []
    assert analysis.causes["network"] > us(7)
    assert "slot" not in analysis.causes


def test_of_whom_it_is_not_known_may_have_been_his_own() -> None:
    analysis = analysed(*queue(10.5, 11, 11.5, 12), replace(VICTIM, process=None))
    assert "slot" not in analysis.causes


@pytest.mark.parametrize("rtt_us", [us(2), None])
def test_a_distant_server_is_no_process(rtt_us: int | None) -> None:
    """Each takes two seconds, with others sent before it or not; TCP knows that."""
    far = [Pair(at, at + 2, at + 2.01, at + 2.02, rtt_us=rtt_us) for at in range(10, 70, 2)]
    late = [replace(one, sent=one.sent + 0.1, op="OPEN", process=OPENER) for one in far]
    analysis = analysed(*far, *late)
    assert of_opener(analysis, "slot", "copyd") == pytest.approx(0, abs=0.1)
    assert of_opener(analysis, "network", SERVER) > 50


def test_it_is_the_network_as_far_as_a_round_trip_takes() -> None:
    slow = [replace(one, rtt_us=us(0.6)) for one in queue(10.5, 11, 11.5, 12)]
    analysis = analysed(*slow, VICTIM)
    assert of_opener(analysis, "slot", "copyd") == pytest.approx(1.39, abs=0.02)


def test_where_packets_are_lost_all_are_late() -> None:
    there, here = captures([*queue(10.5, 11, 11.5, 12), VICTIM])
    lossy = replace(here, counts=(Count("client", "timeout", None, None, SERVER, 1),))
    analysis = analyse([there, lossy])
    assert named(analysis)[0] == ("host", SERVER, "network")
    assert of_opener(analysis, "slot", "copyd") == 0


def test_a_request_that_waits_for_the_socket_is_behind_what_is_written_to_it() -> None:
    there, here = captures([*queue(10.001, 10.002, 12.1), replace(VICTIM, sent=10.0)])
    waits = {"send_us": us(2), "remote_us": us(0.03), "wall_us": us(2.03)}
    *others, last = here.operations
    others = [
        replace(one, send_us=us(0.1 * n), remote_us=one.wall_us - us(0.1 * n))
        if one.layer == "rpc" and (n := one.xid - len(QUICK) if one.xid else 0) > 0
        else one
        for one in others
    ]
    here = replace(here, operations=(*others, replace(last, **waits)))
    assert of_opener(analyse([there, here]), "slot", "copyd") > 0.2


def test_two_rpcs_of_one_id_at_one_time_are_no_error() -> None:
    twins = [
        rpc(1, 2, op_id=7, send_us=us(1), remote_us=0, begin_known=known) for known in (True, False)
    ]
    captures = [client(twins)]
    lane = Connection(Join(captures), 0, twins).into_socket
    assert list(lane.ahead(us(2), us(1), us(2))) == []
