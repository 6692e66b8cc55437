"""Locks in the way."""

from __future__ import annotations

import pytest
from blame_cases import (
    CLIENT,
    SCHEDULE,
    SERVER,
    call,
    client,
    named,
    rpc,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Count,
)


class TestLockInTheWay:
    pause = (*SCHEDULE, "schedule_timeout", "wait_woken", "nfs4_proc_lock", "do_setlk", "nfs_lock")

    def analysis(self, *conflicts):
        counts = [Count("server", "conflict", None, same, peer, 2) for peer, same in conflicts]
        vfs = call(10, 14, wait(10, 14, self.pause), op="lock", peer=SERVER)
        return analyse([server(counts=counts, listeners=()), client([vfs])])

    @pytest.mark.parametrize(
        "others",
        [
            pytest.param((), id="and no other"),
            pytest.param(((CLIENT, 0),), id="which waits for this one, too"),
            pytest.param((("10.9.0.3", 1),), id="whose processes wait for each other, too"),
        ],
    )
    def test_is_another_clients(self, others):
        verdict = self.analysis(("10.9.0.3", 0), *others).verdict
        (first,) = verdict.culprits
        assert (first.culprit.kind, first.culprit.name, first.cause) == ("host", "10.9.0.3", "lock")
        line = "2 times another client's byte-range lock was refused for one that it had"
        assert line in first.evidence
        assert verdict.summary.startswith("The NFS client 10.9.0.3 caused ")
        assert "it held a lock on a file" in verdict.summary

    def test_of_nfsv3_too_whose_client_asks_its_own_daemons_as_well(self):
        asleep = (*SCHEDULE, "schedule_timeout", "nlmclnt_block", "nlmclnt_proc", "do_setlk")
        vfs = call(10, 14, wait(10, 14, asleep), op="lock")
        rpcs = [
            rpc(10, 10.1, op=op, peer=peer, mount=vfs.mount)
            for op, peer in (("MONITOR", "127.0.0.1"), ("LOCK", SERVER))
        ]
        counts = [Count("server", "conflict", None, 0, "10.9.0.3", 2)]
        analysis = analyse([server(counts=counts, listeners=()), client([vfs, *rpcs])])
        assert named(analysis) == [("host", "10.9.0.3", "lock")]

    @pytest.mark.parametrize(
        "conflicts",
        [
            pytest.param((), id="not seen"),
            pytest.param(((None, 0),), id="a process of the server"),
            pytest.param(((CLIENT, 1),), id="the client's own"),
            pytest.param((("10.9.0.3", 0), (CLIENT, 1)), id="the client's own or another's"),
            pytest.param((("10.9.0.3", 0), ("10.9.0.4", 0)), id="one of two"),
            pytest.param((("10.9.0.3", 0), (None, 0)), id="a client's or a process's"),
        ],
    )
    def test_whose_it_is_is_not_guessed(self, conflicts):
        analysis = self.analysis(*conflicts)
        assert named(analysis) == []
        assert analysis.causes["lock"] == us(4)
