"""What hangs on a server and did before recording, above all without a thread that works on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Boot, Guests
from lablib import kernels, play, runner, scenario
from lablib.runner import Request
from recording import await_growth, lost, recording, report, undone, until

UNDER_WAY = "grep -q . /sys/kernel/debug/sunrpc/rpc_clnt/*/tasks"
# A thread waits for an answer itself for some seconds, then puts the request off.
WAITS_ITSELF = "grep -q cache_check $(pgrep -x nfsd | sed 's|.*|/proc/&/stack|')"
HELD = "awk '$3 > 0 { found = 1 } END { exit !found }' /proc/net/netfilter/nfnetlink_queue"


@pytest.fixture(scope="module")
def lab(boot: Boot) -> Iterator[Guests]:
    """Guests of its own: nfsd does not reach its client after this, until it has renewed all."""
    guests = boot()
    play.prepare(guests.lab.guests())
    yield guests
    guests.lab.down()


@contextmanager
def asks(lab: Guests) -> Iterator[None]:
    """A process on the client that wants something of the server; entered when it has asked."""
    worker = lab.spawn("client", "exec stat -f $MOUNT")
    try:
        until(lab, "client", UNDER_WAY)
        yield
    finally:
        lab.exec("client", "pkill -KILL -x stat", check=False)
        worker.wait(60)


def test_an_agent_that_waits_for_its_engine(lab: Guests, tmp_path: Path) -> None:
    stuck = scenario.load(scenario.find("chain-stuck"))
    kernel = str(kernels.choose(None).name)
    request = Request(stuck, kernel, "4.2", tmp_path / "outcome.json", tmp_path, keep=False)
    assert runner.judged_in(lab.lab, request, tmp_path) == 0


def test_a_request_that_was_put_off_is_mountds(lab: Guests, tmp_path: Path) -> None:
    stop, go_on = "pkill -STOP -x rpc.mountd; exportfs -f", "pkill -CONT -x rpc.mountd"
    folder = "/var/tmp/put-off"
    with undone(lab, "server", stop, go_on), asks(lab):
        until(lab, "server", f"! {WAITS_ITSELF}")
        with recording(lab, "server", folder) as running:
            await_growth(lab, "server", f"{folder}/.journal/*/waits.a.arrows")
            assert running.end() == 0, running.said()
    code, document = running.report(tmp_path)
    (culprit,) = document["verdict"]["culprits"]
    assert (culprit["name"], culprit["cause"]) == ("rpc.mountd", "upcall")
    assert culprit["share"] > 0.99
    assert document["stall"]["in_flight"] >= 1
    assert (code, lost(document["losses"])) == (0, {})


@contextmanager
def packets_held(lab: Guests) -> Iterator[int]:
    """A process on the server that does not decide on packets of NFS; gives its pid."""
    rule = "INPUT -p tcp --dport 2049 -j NFQUEUE --queue-num 7"
    lab.exec("server", "rm -f /var/tmp/held_us")
    held = "exec faults/filter 7 0 600000 1000 1 /var/tmp/held_us"
    guard = lab.spawn("server", held)
    try:
        until(lab, "server", "[ -e /var/tmp/held_us ]")
        with undone(lab, "server", f"iptables -I {rule}", f"iptables -D {rule}"):
            yield int(lab.exec("server", "pgrep -x filter").stdout)
    finally:
        # The kernel drops what is in its queue; it is sent again.
        lab.exec("server", "pkill -KILL -x filter", check=False)
        guard.wait(60)


def test_a_packet_that_nobody_decides_on_is_his_who_has_the_queue(
    lab: Guests, tmp_path: Path
) -> None:
    there, here = "/var/tmp/held-there", "/var/tmp/held-here"
    with packets_held(lab) as pid, asks(lab):
        until(lab, "server", HELD)
        with recording(lab, "server", there) as server, recording(lab, "client", here) as client:
            await_growth(lab, "client", f"{here}/.journal/*/operations.a.arrows")
            await_growth(lab, "client", f"{here}/.journal/*/operations.a.arrows")
            assert client.end() == 0, client.said()
            assert server.end() == 0, server.said()
    captures = (
        lab.fetch(running.guest, running.folder, tmp_path / running.name)
        for running in (server, client)
    )
    code, document = report(*captures)
    (culprit,) = document["verdict"]["culprits"]
    assert (culprit["name"], culprit["pid"]) == ("filter", pid)
    assert culprit["cause"] == "packet-filter"
    assert culprit["share"] > 0.99
    assert (code, lost(document["losses"])) == (0, {})
