"""Waits for a session slot, charged through to who had the slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from blame_cases import REDIS, SERVER, client, held, processes, rpc, served, server, us
from hypothesis import given
from hypothesis import strategies as st

from tracer.blame.analysis import analyse
from tracer.blame.charge import SLOT, SLOT_LINK, Culprit, Mix
from tracer.blame.ledger import Ledger
from tracer.blame.remote import Remote
from tracer.blame.slots import Slots, Sums
from tracer.model import Operation, Process, ProcessKey

HOLDERS = [rpc(0, 10, xid=number, remote_us=us(10)) for number in range(3)]
WAITING = rpc(1, 9, xid=7, slot_us=us(8), remote_us=0)


def process(key: ProcessKey) -> Culprit:
    """Return a process of the client of which nothing else is known."""
    return Culprit("process", f"pid {key.pid}", "client", key)


def second(at: int, count: int) -> tuple[int, int, int]:
    """Return an interval in which that many RPCs ended."""
    return us(at - 1), us(at), count


@pytest.mark.parametrize(
    ("answered", "until"),
    [
        ([], 9),
        ([second(2, 5)], 9),  # they may have ended before the wait began
        ([second(4, 5)], 3),
        ([second(10, 4)], 9),
        ([(us(0), us(20), 5)], 1.5),  # nothing tells when in all that time
    ],
)
def test_slots_are_known_as_long_as_no_other_rpc_ends(
    answered: Sequence[tuple[int, int, int]], until: float
) -> None:
    found = Slots(HOLDERS, answered).holders(WAITING, us(1.5), us(9))
    assert not found.whole
    assert {(one.start, one.end) for one in found.cut if one.end > one.start} == (
        {(us(1.5), us(until))} if until > 1.5 else set()
    )


def test_an_rpc_never_sent_to_one_of_two_servers_waits_for_nobody_known() -> None:
    elsewhere = rpc(0, 10, xid=9, remote_us=us(10), peer="10.9.0.9")
    unsent = rpc(1, 9, xid=None, peer=None, in_flight=True)
    assert Slots([*HOLDERS, elsewhere], []).holders(unsent, us(1), us(9)).cut == []
    assert Slots(HOLDERS, []).holders(unsent, us(1), us(9)).cut


@given(
    times=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=30),
    window=st.tuples(st.integers(0, 40), st.integers(1, 30)),
)
def test_each_that_had_a_slot_in_a_window_is_found_once(
    times: list[tuple[int, int]], window: tuple[int, int]
) -> None:
    rpcs = [
        rpc(begin, begin + wall, xid=number, remote_us=us(wall))
        for number, (begin, wall) in enumerate(times)
    ]
    start, end = us(window[0]), us(sum(window))
    slots = Slots(rpcs, [])
    found = slots.holders(WAITING, start, end)
    there = [*found.cut, *slots.of_peer(found.peer)[found.whole.start : found.whole.stop]]
    expected = [
        (max(start, one.begin_mono_us), min(end, one.end_mono_us), one.xid)
        for one in rpcs
        if one.begin_mono_us < end and one.end_mono_us > start
    ]
    assert sorted((one.start, one.end, one.rpc.xid) for one in there) == sorted(expected)
    assert found.end == max([start, *(until for _, until, _ in expected)])


def test_sums_are_those_of_a_stretch() -> None:
    sums = Sums([[("a", 1.0)], [("a", 2.0), ("b", 5.0)], [], [("a", 4.0)]])
    assert dict(sums.of(range(1, 4))) == {"a": 6.0, "b": 5.0}
    assert dict(sums.of(range(2, 3))) == {}


def test_of_a_thousand_not_each_looks_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delegations given back all at once, as the client of 6.12 does."""
    rpcs = [
        rpc(number / 1000, 1 + number / 1000, xid=number, slot_us=us(0.99), remote_us=us(0.01))
        for number in range(1000)
    ]
    looked_into = Counter[int]()
    rpc_mix = Remote.rpc_mix

    def counting(remote: Remote, host: int, op: Operation, start: int, end: int) -> Mix:
        looked_into[id(op)] += 1
        return rpc_mix(remote, host, op, start, end)

    monkeypatch.setattr(Remote, "rpc_mix", counting)
    ledger = Ledger([client(rpcs), server([], addresses=frozenset({SERVER}))])
    bills = [ledger.bill(0, one) for one in rpcs]
    assert all(sum(bill.values()) == us(1) for bill in bills)
    # As a whole once, and by the few in whose wait it began or ended.
    assert max(looked_into.values()) < 50


def test_who_held_up_those_with_slots_held_up_those_without() -> None:
    there = [served(0, 10, held(0, 10), xid=number, nfs_op="WRITE") for number in range(3)]
    ours = client([*HOLDERS, WAITING])
    bill = Ledger([ours, server(there, addresses=frozenset({SERVER}))]).bill(0, WAITING)
    ((charge, total),) = bill.items()
    assert (charge.cause, total) == ("fanotify", us(8))
    assert charge.culprit is not None
    assert charge.culprit.name == "qaxsafed"
    assert charge.chain[0] == SLOT_LINK


def test_slots_of_rpcs_that_wait_for_nobody_are_just_slots() -> None:
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    both = [client([*HOLDERS, WAITING]), server(there, addresses=frozenset({SERVER}))]
    assert Ledger(both).bill(0, WAITING) == {replace(SLOT, own=process(REDIS)): us(8)}


def test_slots_that_one_process_has_by_what_the_kernel_writes_back() -> None:
    copyd = Process(ProcessKey(900, 6_000_000), comm="copyd", exe="/opt/copy/copyd")
    writes = [replace(one, process=None, writer=copyd.key) for one in HOLDERS[:2]]
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    ours = client([*writes, HOLDERS[2], WAITING], processes=processes(copyd))
    ledger = Ledger([ours, server(there, addresses=frozenset({SERVER}))])
    bill = {
        charge.culprit and charge.culprit.name: us for charge, us in ledger.bill(0, WAITING).items()
    }
    assert bill == {
        "copyd": pytest.approx(us(8) * 2 / 3, abs=2),
        None: pytest.approx(us(8) / 3, abs=2),
    }


def test_slots_shared_by_several_have_nobody() -> None:
    writers = [ProcessKey(900 + number, 6_000_000) for number in range(3)]
    writes = [
        replace(one, process=None, writer=writer)
        for one, writer in zip(HOLDERS, writers, strict=True)
    ]
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    both = [client([*writes, WAITING]), server(there, addresses=frozenset({SERVER}))]
    assert Ledger(both).bill(0, WAITING) == {SLOT: us(8)}


def test_own_requests_are_not_somebody_s_doing() -> None:
    writer = ProcessKey(900, 6_000_000)
    writes = [replace(one, process=None, writer=writer) for one in HOLDERS]
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    for own in (
        replace(WAITING, process=writer),
        replace(WAITING, process=None, writer=writer),
    ):
        both = [client([*writes, own]), server(there, addresses=frozenset({SERVER}))]
        assert analyse(both).verdict.clear
        assert Ledger(both).bill(0, own) == {replace(SLOT, own=process(writer)): us(8)}


def test_but_count_for_who_holds_up_others_by_them() -> None:
    copyd = Process(ProcessKey(900, 6_000_000), comm="copyd", exe="/opt/copy/copyd")
    writes = [replace(one, process=None, writer=copyd.key) for one in HOLDERS]
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    own = replace(WAITING, op_id=77, xid=8, process=copyd.key)
    ours = client([*writes, WAITING, own], processes=processes(copyd))
    analysis = analyse([ours, server(there, addresses=frozenset({SERVER}))])
    (blamed,) = analysis.verdict.culprits
    assert (blamed.culprit.name, blamed.cause, blamed.stall_us) == ("copyd", "slot", us(16))
    assert {one.victim.process for one in blamed.victims} == {WAITING.process, copyd.key}
    assert sum(analysis.causes.values()) == analysis.total_us


def test_who_holds_up_others_is_measured_by_them_however_long_he_waits_himself() -> None:
    copyd = Process(ProcessKey(900, 6_000_000), comm="copyd", exe="/opt/copy/copyd")
    writes = [replace(one, process=None, writer=copyd.key) for one in HOLDERS]
    there = [served(0, 10, xid=number, nfs_op="WRITE") for number in range(3)]
    own = rpc(1, 201, xid=8, slot_us=us(8), process=copyd.key)
    ours = client([*writes, WAITING, own], processes=processes(copyd))
    (blamed,) = analyse([ours, server(there, addresses=frozenset({SERVER}))]).verdict.culprits
    assert (blamed.culprit.name, blamed.stall_us) == ("copyd", us(16))


def test_what_is_unknown_of_those_with_slots_is_nobody_s() -> None:
    writes = [replace(one, process=None, writer=ProcessKey(900, 6_000_000)) for one in HOLDERS]
    lost = [served(0, 10, xid=number, nfs_op="WRITE", waits_lost_us=us(10)) for number in range(3)]
    both = [client([*writes, WAITING]), server(lost, addresses=frozenset({SERVER}))]
    assert Ledger(both).bill(0, WAITING) == {SLOT: us(8)}
