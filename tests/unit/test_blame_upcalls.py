"""Waits for what daemons answer, and pauses that servers ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blame_cases import (
    AGENT,
    HOG,
    OTHER,
    REDIS,
    SCHEDULE,
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
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Count,
    Event,
    Holder,
    Process,
)


class TestUpcall:
    stack = (*SCHEDULE, "cache_wait_req.isra.0", "cache_check", "exp_find_key", "rqst_exp_find")
    rows = processes(
        Process(OTHER, comm="rpc.mountd", exe="/usr/sbin/rpc.mountd", state="T"),
        Process(HOG, comm="rpc.idmapd", exe="/usr/sbin/rpc.idmapd"),
    )

    def test_the_daemon_that_holds_the_caches_channel_is_named(self):
        holders = (
            Holder(OTHER, "channel", "nfsd.export"),
            Holder(OTHER, "channel", "nfsd.fh"),
            Holder(HOG, "channel", "nfs4.idtoname"),
        )
        ops = [served(10, 15, wait(10, 15, self.stack))]
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        assert named(analysis) == [("process", "rpc.mountd", "upcall")]
        assert "process is stopped (state T)" in analysis.verdict.culprits[0].evidence

    def test_one_that_answers_soon_is_not_for_that_something_else_is_slow(self):
        holders = (Holder(OTHER, "channel", "nfsd.export"),)
        for answered, found in ((10.04, []), (10.06, [("process", "rpc.mountd", "upcall")])):
            ops = [served(10, 10.12, wait(10, answered, self.stack))]
            known = {"processes": self.rows, "listeners": (), "holders": holders}
            assert named(analyse([server(ops, **known)])) == found

    @pytest.mark.parametrize(
        ("asks", "channel", "daemon"),
        [
            (
                "schedule_timeout __wait_for_common __cld_pipe_upcall nfsd4_cld_create "
                "nfsd4_reclaim_complete nfsd4_proc_compound",
                "cld",
                "nfsdcld",
            ),
            ("request_wait_answer fuse_simple_request fuse_lookup_name", "fuse", "bindfs"),
            (
                "schedule_timeout __wait_for_common call_usermodehelper_exec call_sbin_request_key "
                "request_key_and_link request_key_tag nfs_idmap_get_key nfs_map_name_to_uid",
                "key",
                "nfsidmap",
            ),
        ],
    )
    def test_so_is_who_has_another_channel(self, asks, channel, daemon):
        stack = (*SCHEDULE, *asks.split())
        holders = (Holder(OTHER, "channel", "nfsd.export"), Holder(HOG, "channel", channel))
        rows = processes(Process(HOG, comm=daemon, exe=f"/usr/sbin/{daemon}"))
        ops = [served(10, 15, wait(10, 15, stack))]
        analysis = analyse([server(ops, processes=rows, listeners=(), holders=holders)])
        assert named(analysis) == [("process", daemon, "upcall")]

    def test_a_page_of_such_a_filesystem_is_not_a_disks(self):
        page = (*SCHEDULE, "io_schedule", "folio_wait_bit_common", "filemap_read")
        answers = ("folio_wake_bit", "fuse_readpages_end", "fuse_request_end", "fuse_dev_do_write")
        rows = processes(Process(OTHER, comm="bindfs", exe="/usr/bin/bindfs"))
        ops = [served(10, 15, wait(10, 15, page, waker=OTHER, waker_stack=answers))]
        analysis = analyse([server(ops, processes=rows, listeners=())])
        assert named(analysis) == [("process", "bindfs", "upcall")]

    def test_nobody_is_if_nobody_holds_it(self):
        ops = [served(10, 15, wait(10, 15, self.stack))]
        holders = (Holder(HOG, "channel", "nfs4.idtoname"),)
        analysis = analyse([server(ops, processes=self.rows, listeners=(), holders=holders)])
        assert analysis.verdict.clear
        assert analysis.causes["upcall"] == us(5)

    def test_a_request_put_off_before_recording_waits_for_it_all_the_while(self):
        """No thread has it, and how long it is there only the client knows."""
        asks = ("cache_check", "ip_map_request")
        stuck = {"xid": 5, "in_flight": True, "begin_known": False}
        there = served(50, 60, wait(50, 60, asks, in_flight=True), queue=10, **stuck)
        vfs = call(3, 20, in_flight=True)
        under = rpc(3, 20, xid=5, parent_id=vfs.op_id, in_flight=True)
        holders = (Holder(OTHER, "channel", "auth.unix.ip"),)
        known = {"processes": self.rows, "listeners": (), "holders": holders}
        analysis = analyse([server([there], **known), client([vfs, under])])
        assert named(analysis) == [("process", "rpc.mountd", "upcall")]
        assert analysis.causes["upcall"] == pytest.approx(us(17), abs=us(0.01))


class TestAskedToWait:
    pause = (*SCHEDULE, "schedule_timeout", "nfs4_delay", "nfs4_handle_exception", "nfs4_do_open")

    def captures(self, status, *recalls):
        vfs = call(10, 14, wait(10, 14, self.pause), op="open", peer=SERVER)
        refused = rpc(10, 10.001, parent_id=vfs.op_id, op="OPEN", status=status)
        counts = tuple(Count("server", "recall", None, None, peer, 1) for peer in recalls)
        return [server(counts=counts, listeners=()), client([vfs, refused])]

    def test_by_a_server_in_its_grace_period(self):
        analysis = analyse(self.captures(-10013))
        assert named(analysis) == [("host", SERVER, "grace")]
        assert "had been restarted" in analysis.verdict.summary

    @pytest.mark.parametrize("restarted", [True, False])
    def test_by_a_server_that_has_forgotten_it(self, restarted):
        recovery = (*SCHEDULE, "nfs_wait_bit_killable", "__wait_on_bit", "nfs4_wait_clnt_recover")
        vfs = call(10, 14, wait(10, 14, recovery), op="open", peer=SERVER)
        refused = rpc(10, 10.001, parent_id=vfs.op_id, op="OPEN", status=-10052)
        text = "NFSD: starting 90-second grace period (net f0000000)"
        log = Event(quiet_samples()[0].ts, "kmsg", "kernel", text, 1)
        there = server(events=(log,) if restarted else (), listeners=())
        analysis = analyse([there, client([vfs, refused])])
        assert analysis.causes["grace" if restarted else "delay"] == us(4)
        assert named(analysis) == ([("host", SERVER, "grace")] if restarted else [])

    def test_because_another_client_holds_a_delegation(self):
        analysis = analyse(self.captures(-10008, "10.9.0.3"))
        assert named(analysis) == [("host", "10.9.0.3", "delegation")]

    @pytest.mark.parametrize(
        ("holders", "recalls", "found"),
        [
            ([REDIS], [], [("process", "smbd", "delay")]),
            # One of them it was, but not which.
            ([REDIS, AGENT], [], []),
            ([REDIS], ["10.9.0.3"], []),
        ],
    )
    def test_because_a_process_of_the_server_keeps_a_lease(self, holders, recalls, found):
        there, here = self.captures(-10008, *recalls)
        smbd = Process(REDIS, comm="smbd", exe="/usr/sbin/smbd")
        known = processes(smbd, Process(AGENT, comm="qaxsafed", exe="/opt/qaxsafed"))
        leases = [Holder(key, "lease") for key in holders]
        analysis = analyse([replace(there, holders=leases, processes=known), here])
        assert named(analysis) == found
        assert analysis.causes["delay"] == us(4)
        assert [one.direct_us for one in analysis.verdict.culprits] == [us(4) for _ in found]

    @pytest.mark.parametrize(
        ("statuses", "cause"),
        [((-10008, -2), "delegation"), ((-10008, -10013), "delay"), ((), "delay")],
    )
    def test_by_what_all_were_put_off_of_which_no_rpc_was_recorded(self, statuses, cause):
        there, here = self.captures(None, "10.9.0.3")
        counts = [Count("client", "status", "OPEN", status, SERVER, 1) for status in statuses]
        analysis = analyse([there, replace(here, counts=counts)])
        assert analysis.causes[cause] == us(4)

    @pytest.mark.parametrize("recalls", [(), ("10.9.0.3", "10.9.0.4")])
    def test_which_client_is_not_guessed(self, recalls):
        analysis = analyse(self.captures(-10008, *recalls))
        assert analysis.verdict.clear
        assert analysis.causes["delay"] == us(4)

    @pytest.mark.parametrize(
        ("status", "found"),
        [
            (-10013, {"grace": 5}),
            (-10008, {"delay": 5}),
            (-528, {"delay": 5}),
            (-10052, {"delay": 5}),
            # One that is sent again at once, and one that is not sent again.
            (-5, {"slot": 5}),
            (None, {"slot": 5}),
        ],
    )
    def test_while_nobody_sleeps_but_the_rpc(self, status, found):
        vfs = call(10, 16)
        again = rpc(10, 16, parent_id=vfs.op_id, slot_us=us(5), remote_us=us(1))
        again = replace(again, status_before=status)
        seconds = found | {"remote": 1}
        analysis = analyse([client([vfs, again])])
        assert analysis.causes == {cause: us(time) for cause, time in seconds.items()}

    def test_for_a_lock_of_nfsv3_by_a_server_that_waits_for_those_of_before(self):
        asleep = (*SCHEDULE, "schedule_timeout", "nlmclnt_call", "nlmclnt_lock", "nlmclnt_proc")
        vfs = call(10, 14, wait(10, 14, asleep), op="lock", peer=SERVER)
        assert named(analyse([client([vfs])])) == [("host", SERVER, "grace")]

    def test_no_longer_than_anyone_is_asked_to(self):
        vfs = call(10, 31)
        again = rpc(10, 31, parent_id=vfs.op_id, slot_us=us(20), remote_us=us(1))
        again = replace(again, status_before=-10008)
        analysis = analyse([client([vfs, again])])
        assert analysis.causes == {"delay": us(15), "slot": us(5), "remote": us(1)}
