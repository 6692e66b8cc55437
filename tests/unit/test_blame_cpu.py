"""Waits for a CPU: who had it, a quota, and kernel threads that got none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blame_cases import (
    HOG,
    OTHER,
    REDIS,
    SERVER,
    call,
    client,
    four_seconds_away,
    named,
    processes,
    rpc,
    served,
    server,
    starved,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Count,
    Process,
)


class TestCpu:
    rows = server().processes | processes(
        Process(HOG, comm="scand", exe="/opt/scand"),
        Process(OTHER, comm="kworker/0:1", kthread=True),
    )

    def test_who_had_the_cpu_is_named(self):
        op = served(10, 12, starved(10, 11.9))
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert named(analysis) == [("process", "scand", "cpu")]
        assert analysis.verdict.culprits[0].direct_us == us(1.9)
        assert "it had the CPUs (cpu)" in analysis.verdict.summary

    def test_the_kernels_own_threads_are_not(self):
        op = served(10, 12, starved(10, 11.9, OTHER))
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert analysis.verdict.clear
        assert analysis.causes["cpu"] == us(1.9)

    @pytest.mark.parametrize(
        ("by", "names"),
        [
            pytest.param(REDIS, [], id="its own threads"),
            pytest.param(OTHER, [], id="another worker"),
            pytest.param(HOG, [("process", "scand", "cpu")], id="somebody else"),
        ],
    )
    def test_a_program_that_takes_the_cpu_from_itself_is_the_load(self, by, names):
        rows = self.rows | processes(
            *(Process(key, comm="redis", exe="/usr/bin/redis") for key in (REDIS, OTHER))
        )
        op = call(10, 12, starved(10, 11.9, by))
        analysis = analyse([client([op], processes=rows)])
        assert named(analysis) == names
        assert analysis.causes["cpu"] == us(1.9)

    def test_also_while_the_request_was_queued_for_a_thread_without_cpu(self):
        op = served(10, 12, starved(9.99, 11.8), queue=1.8)
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert named(analysis) == [("process", "scand", "cpu")]
        assert analysis.causes["cpu"] == pytest.approx(us(1.8), abs=10)
        assert "unknown" not in analysis.causes

    def test_a_wait_before_the_request_came_is_not_the_operations(self):
        op = served(10, 12, starved(5, 9.9), queue=0)
        analysis = analyse([server([op], processes=self.rows, listeners=())])
        assert set(analysis.causes) == {"running"}

    def test_a_little_of_it_in_every_operation_is_nobodys_doing(self):
        ops = [served(10 + i, 10.11 + i, starved(10 + i, 10.04 + i)) for i in range(20)]
        assert analyse([server(ops, processes=self.rows, listeners=())]).verdict.clear


class TestKernelThreadsWithoutCpu:
    """Packets lie on a host whose own threads get no CPU: that is not the network."""

    rows = processes(Process(HOG, comm="renderd", exe="/opt/renderd"))

    def delay(self, host, side, first, last):
        return served(
            first,
            last,
            starved(first, last),
            host=host,
            side=side,
            layer="kernel",
            op="work",
            queue=None,
        )

    def test_a_reply_that_the_client_did_not_read_for_want_of_cpu(self):
        delay = self.delay("client", "client", 10.1, 13.9)
        analysis = analyse(four_seconds_away(self.rows, on_client=[delay]))
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.causes["cpu"] == pytest.approx(us(3.8), abs=us(0.01))
        assert len(analysis.stalls) == 1

    def test_a_slot_that_nobody_asked_for_for_want_of_cpu(self):
        waiting = rpc(10, 14, xid=9, slot_us=us(3.9), remote_us=us(0.1), process=None)
        delay = self.delay("client", "client", 10, 13.8)
        analysis = analyse([client([waiting, delay], processes=self.rows)])
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.causes["slot"] == pytest.approx(us(0.1), abs=us(0.01))

    def test_packets_that_the_server_did_not_handle(self):
        delay = self.delay("server", "server", 50.5, 53.9)
        analysis = analyse(four_seconds_away(self.rows, on_server=[delay]))
        assert named(analysis)[0] == ("process", "renderd", "cpu")
        assert analysis.verdict.culprits[0].culprit.host == "server"

    def test_without_it_is_time_on_the_wire_and_the_network_only_if_that_shows(self):
        there, here = four_seconds_away(self.rows)
        quiet = analyse([there, here])
        assert named(quiet) == []
        assert quiet.causes["network"] == pytest.approx(us(4), abs=us(0.01))
        late = replace(here, counts=[Count("client", "timeout", None, None, SERVER, 1)])
        assert named(analyse([there, late])) == [("host", SERVER, "network")]


def test_a_cpu_quota_is_a_setting_and_nobody_who_ran_meanwhile():
    app = Process(REDIS, comm="redis-server", cgroup="/app.slice")
    throttled = wait(10, 13, (), kind="throttled")
    op = call(10, 14, throttled, starved(13, 13.1))
    analysis = analyse([client([op], processes=processes(app, *TestCpu.rows.values()))])
    assert named(analysis) == [("setting", "CPU quota of /app.slice", "throttle")]
    assert "The CPU quota of /app.slice on client caused" in analysis.verdict.summary
