"""RPCs that hang between hosts: packets that are held, and requests that did not arrive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blame_cases import (
    CLIENT,
    HOG,
    OTHER,
    QAXSAFED,
    SERVER,
    call,
    four_seconds_away,
    held,
    listener,
    named,
    processes,
    rpc,
    served,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import (
    Count,
    Holder,
    Probe,
    Process,
)


class TestUnanswered:
    """An RPC hangs that was sent before recording, and the server has not got it."""

    def analysis(self, op="OPEN", **of_server):
        late = served(60, 60.2, xid=8)
        there, here = four_seconds_away({}, on_server=[late, *of_server.pop("ops", ())])
        vfs = call(2, 20, in_flight=True, begin_known=False)
        stuck = rpc(2, 20, xid=7, op=op, parent_id=vfs.op_id, in_flight=True)
        here = replace(here, operations=(*here.operations[2:], vfs, stuck))
        return analyse([replace(there, **of_server), here])

    def test_it_is_the_networks(self):
        analysis = self.analysis()
        assert named(analysis) == [("host", SERVER, "network")]
        assert analysis.causes["network"] == pytest.approx(us(18), abs=us(0.01))
        line = "1 RPC got no reply and never came to the server"
        assert line in analysis.verdict.culprits[0].evidence

    @pytest.mark.parametrize("look", ["look_back", "look_packets"])
    def test_not_if_the_server_cannot_show_what_it_had_before(self, look):
        lacking = Probe(look, "", False, None, None, None)
        analysis = self.analysis(probes=(lacking,))
        assert named(analysis) == []
        assert analysis.causes["unknown"] == pytest.approx(us(18), abs=us(0.01))

    def test_not_if_it_was_for_a_daemon(self):
        assert named(self.analysis(op="MOUNT")) == []

    def test_not_if_the_server_lost_operations(self):
        assert named(self.analysis(losses={"ring_full": 1})) == []

    def test_not_if_all_of_its_threads_are_held(self):
        ops = [served(49, 60.2, held(49, 60.2, in_flight=True), in_flight=True) for _ in range(8)]
        analysis = self.analysis(ops=ops, processes=processes(QAXSAFED), listeners=(listener(),))
        assert ("host", SERVER, "network") not in named(analysis)


class TestPacketsHeld:
    """A process decides on packets: what that takes is its own, not the network's."""

    rows = processes(
        Process(HOG, comm="netguardd", exe="/opt/netguardd"),
        Process(OTHER, comm="fwd", exe="/opt/fwd"),
    )
    answer = ("nf_queue_entry_free", "nf_reinject", "nfqnl_reinject", "nfqnl_recv_verdict")

    def packet(self, first, last, peer, *, side="server", **changes):
        answered = {"waker": HOG, "waker_stack": self.answer}
        of_wait = {"in_flight": True} if changes.get("in_flight") else answered
        return served(
            first,
            last,
            wait(first, last, (), kind="held", **of_wait),
            **{"host": side, "side": side, "layer": "kernel", "op": "packet", "peer": peer},
            nfs_op=None,
            queue=None,
            **changes,
        )

    def test_who_decides_is_named(self):
        captures = four_seconds_away(self.rows, on_server=[self.packet(50.1, 53.9, CLIENT)])
        analysis = analyse(captures)
        assert named(analysis) == [("process", "netguardd", "packet-filter")]
        assert analysis.causes["packet-filter"] == pytest.approx(us(3.8), abs=us(0.01))
        assert "it held packets of NFS (packet-filter)" in analysis.verdict.summary
        assert len(analysis.stalls) == 1

    def test_packets_held_at_the_same_time_are_held_once(self):
        both = [self.packet(50.1, 52.1, CLIENT), self.packet(50.6, 53.1, CLIENT)]
        (culprit,) = analyse(four_seconds_away(self.rows, on_server=both)).verdict.culprits
        assert culprit.direct_us == us(3)
        line = "held 2 packets of NFS until it decided on them: 3 s in all, the longest 2.5 s"
        assert culprit.evidence[0] == line
        assert not any("nfsd threads" in line for line in culprit.evidence)

    def test_on_a_client_recorded_alone(self):
        packet = self.packet(10.1, 13.9, SERVER, side="client")
        _, here = four_seconds_away(self.rows, on_client=[packet])
        assert named(analyse([here]))[0] == ("process", "netguardd", "packet-filter")

    def test_packets_of_others_held_nothing_of_ours(self):
        packet = self.packet(50.1, 53.9, "10.9.0.77")
        analysis = analyse(four_seconds_away(self.rows, on_server=[packet]))
        assert "packet-filter" not in analysis.causes

    @pytest.mark.parametrize(
        ("owners", "found"),
        [
            ((HOG,), [("process", "netguardd", "packet-filter")]),
            ((HOG, HOG), [("process", "netguardd", "packet-filter")]),
            ((HOG, OTHER), []),
            ((), []),
        ],
    )
    def test_while_it_lies_there_who_has_the_queue(self, owners, found):
        packet = self.packet(50.1, 53.9, CLIENT, in_flight=True)
        holders = [Holder(owner, "queue", str(number)) for number, owner in enumerate(owners)]
        captures = four_seconds_away(self.rows, on_server=[packet], holders=holders)
        assert named(analyse(captures)) == found

    def test_one_of_before_recording_lies_there_since_the_rpc_was_sent(self):
        packet = self.packet(48, 60, CLIENT, in_flight=True, begin_known=False)
        holders = [Holder(HOG, "queue", "5")]
        there, here = four_seconds_away(self.rows, on_server=[packet], holders=holders)
        vfs = call(2, 20, in_flight=True)
        stuck = rpc(2, 20, xid=7, parent_id=vfs.op_id, in_flight=True)
        here = replace(here, operations=(*here.operations[2:], vfs, stuck))
        analysis = analyse([there, here])
        assert named(analysis) == [("process", "netguardd", "packet-filter")]
        assert analysis.causes["packet-filter"] == pytest.approx(us(18), abs=us(0.01))
        assert not any("never came" in one.figures for one in analysis.verdict.cleared)

    def test_what_is_repeated_meanwhile_is_not_the_networks_doing(self):
        packet = self.packet(50.1, 51.9, CLIENT)
        there, here = four_seconds_away(self.rows, on_server=[packet])
        late = replace(here, counts=[Count("client", "timeout", None, None, SERVER, 1)])
        assert named(analyse([there, late])) == [("process", "netguardd", "packet-filter")]
