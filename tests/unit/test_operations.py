from __future__ import annotations

from typing import Any

import pytest
from builders import MS, S, memory_use, op, op_in_flight, peer, proc, rpc, wait
from hypothesis import given
from hypothesis import strategies as st

from tracer import calls
from tracer.procfs.mounts import Place
from tracer.records import (
    COUNTS,
    NAME_PART_LEN,
    NAME_PARTS,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    SIDE_CLIENT,
    SIDE_SERVER,
    USE_DISK,
    USE_DISK_WRITE,
    USE_JOURNAL,
    CountKey,
    OpRec,
    RpcRec,
    UseKey,
    UseVal,
)
from tracer.rows.operations import Lookups, Row, file_name, operation_row, rpc_row, wait_rows
from tracer.rows.packed import BadFrame
from tracer.rows.sums import count_rows
from tracer.rows.uses import SLOT_NS, disk_rows, journal_rows, memory_rows

NOW = 1010 * S
LOOK = Lookups(
    name={0xFFFF0001: "COMPOUND", 0xFFFF0002: "WRITE", 0xFFFF0003: "OPEN"}.get,
    stack={7: 700, 8: 800}.get,
    place=lambda dev, *_: {44: Place("/mnt/nfs", "pvc-1")}.get(dev, Place()),
    device={44: "dm-0"}.get,
    disk={44: "vdb"}.get,
    comm=lambda pid, _: {811: "redis-server"}.get(pid),
    owner={0xFFFF9000: "bpf burn_opens 41"}.get,
)
SERVER_PHASES = ("queue_us", "serve_us", "send_us")
CLIENT_PHASES = ("slot_us", "send_us", "remote_us", "wake_us")


def row_of(rec: OpRec) -> Row:
    return operation_row(rec, NOW, 5, LOOK)


def phases(row: Row, names: tuple[str, ...]) -> tuple[int | None, ...]:
    return tuple(row[name] for name in names)


def test_server_phases_of_an_operation_that_ended() -> None:
    row = row_of(op(reply_ns=1003 * S, end_ns=1003 * S + 10_000))
    assert phases(row, SERVER_PHASES) == (500_000, 2_000_000, 10)
    assert (row["begin_mono_us"], row["wall_us"]) == (1_000_500_000, 2_500_010)
    assert (row["in_flight"], row["status"], row["layer"]) == (False, 0, "rpc")


def test_unknown_arrival_is_null_and_not_zero() -> None:
    row = row_of(op(arrival_ns=0))
    assert phases(row, SERVER_PHASES) == (None, 2_000_000, 10)
    assert row["begin_mono_us"] == 1_001_000_000


def test_in_flight_without_reply_serves_until_now() -> None:
    row = row_of(op_in_flight())
    assert phases(row, SERVER_PHASES) == (500_000, 9_000_000, None)
    assert (row["in_flight"], row["status"], row["wall_us"]) == (True, None, 9_500_000)


def test_in_flight_with_reply_sends_until_now() -> None:
    row = row_of(op_in_flight(reply_ns=1009 * S))
    assert phases(row, SERVER_PHASES) == (500_000, 8_000_000, 1_000_000)


def test_no_thread_yet_queues_until_now() -> None:
    row = row_of(op_in_flight(begin_ns=0))
    assert phases(row, SERVER_PHASES) == (9_500_000, None, None)


def test_begin_unknown_says_so() -> None:
    assert row_of(op_in_flight(flags=OP_IN_FLIGHT | OP_BEGIN_UNKNOWN))["begin_known"] is False
    assert row_of(op())["begin_known"] is True


def test_operation_in_the_compound_is_the_running_one_in_flight_else_the_longest() -> None:
    longest: dict[str, Any] = {"nfs_longest": 0xFFFF0002, "nfs_longest_ns": MS}
    running: dict[str, Any] = {"nfs_op": 0xFFFF0003, "nfs_begin_ns": 1002 * S}
    assert row_of(op_in_flight(**longest, **running))["nfs_op"] == "OPEN"
    assert row_of(op_in_flight(**longest))["nfs_op"] == "WRITE"
    assert row_of(op(**longest, nfs_op=0xFFFF0003))["nfs_op"] == "WRITE"
    # Its end was not told: it ran to the end.
    assert row_of(op(**longest, **running))["nfs_op"] == "OPEN"
    assert row_of(op())["nfs_op"] is None


def test_vfs_call_of_a_client() -> None:
    row = row_of(op(op=2, side=SIDE_CLIENT, proc=proc(811), dev=44, peer=peer(None), xid=0))
    assert (row["side"], row["layer"], row["op"]) == ("client", "vfs", "write")
    assert (row["mount"], row["comm"], row["peer"], row["xid"]) == (
        "/mnt/nfs",
        "redis-server",
        None,
        None,
    )
    assert not any(name in row for name in SERVER_PHASES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.9.0.2", "10.9.0.2"),
        ("fe80::1", "fe80::1"),
        ("2001:db8::10.0.0.1", "2001:db8::a00:1"),
        (None, None),
    ],
)
def test_addresses(text: str | None, shown: str | None) -> None:
    assert row_of(op(peer=peer(text)))["peer"] == shown


def test_name_that_is_not_known_and_text_that_is_no_utf8() -> None:
    row = row_of(op(op=0xFFFF00AA, proc=proc(5), comm=b"caf\xe9"))
    assert (row["op"], row["comm"]) == ("unknown", "caf\\xe9")


def test_numbers_above_63_bits_keep_their_bits() -> None:
    assert row_of(op(op_id=2**64 - 1))["op_id"] == -1


def test_client_phases() -> None:
    row = rpc_row(rpc(parent_id=42, before=-10008), NOW, 5, LOOK)
    assert row["status_before"] == -10008
    assert phases(row, CLIENT_PHASES) == (50_000, 10_000, 2_590_000, 50_000)
    assert (row["wall_us"], row["parent_id"], row["transmits"]) == (2_700_000, 42, 1)
    assert (row["side"], row["layer"], row["op"], row["comm"]) == (
        "client",
        "rpc",
        "WRITE",
        "redis-server",
    )


@pytest.mark.parametrize(
    ("unreached", "expected"),
    [
        (("reserved_ns", "sent_ns", "reply_ns"), (9_600_000, None, None, None)),
        (("sent_ns", "reply_ns"), (50_000, 9_550_000, None, None)),
        (("reply_ns",), (50_000, 10_000, 9_540_000, None)),
        ((), (50_000, 10_000, 2_590_000, 6_950_000)),
    ],
)
def test_the_phase_an_rpc_in_flight_is_in_runs_to_now(
    unreached: tuple[str, ...], expected: tuple[int | None, ...]
) -> None:
    rec = rpc(end_ns=0, flags=OP_IN_FLIGHT, **dict.fromkeys(unreached, 0))
    row = rpc_row(rec, NOW, 5, LOOK)
    assert phases(row, CLIENT_PHASES) == expected
    assert row["status"] is None


def test_background_rpc_has_no_process() -> None:
    row = rpc_row(rpc(proc=proc(0), comm=b""), NOW, 5, LOOK)
    assert (row["pid"], row["pid_start_us"], row["comm"], row["parent_id"]) == (None,) * 4


STAMP = st.one_of(st.just(0), st.integers(1, 2**63))


@given(st.tuples(STAMP, STAMP, STAMP, STAMP, STAMP), st.booleans())
def test_phases_add_up_and_are_never_negative_whatever_the_stamps(
    stamps: tuple[int, ...], in_flight: bool
) -> None:
    begin, second, third, fourth, end = stamps
    flags = OP_IN_FLIGHT if in_flight else 0
    client = RpcRec(
        begin_ns=begin,
        reserved_ns=second,
        sent_ns=third,
        reply_ns=fourth,
        end_ns=end,
        flags=flags,
    )
    server = OpRec(
        arrival_ns=begin, begin_ns=second, reply_ns=third, end_ns=end, flags=flags, side=1
    )
    for row, names in (
        (rpc_row(client, NOW, 5, LOOK), CLIENT_PHASES),
        (operation_row(server, NOW, 5, LOOK), SERVER_PHASES),
    ):
        lengths = [row[name] for name in names]
        assert all(length is None or length >= 0 for length in lengths)
        assert sum(length or 0 for length in lengths) == row["wall_us"] >= 0


def waits_of(rec: OpRec) -> list[Row]:
    return wait_rows(rec, NOW, 5, LOOK)


def test_foreign_code_that_ran_has_an_owner_and_no_group() -> None:
    rec = op(waits=[wait(1001, 1001.5, kind=5, stack=7, group=0xFFFF9000, count=75)])
    (row,) = waits_of(rec)
    assert (row["kind"], row["owner"], row["stack_id"]) == ("running", "bpf burn_opens 41", 700)
    assert (row["total_us"], row["count"]) == (500_000, 75)
    assert "fanotify_group" not in row


def test_waits_that_ended() -> None:
    rec = op(
        waits=[
            wait(
                1001,
                1002,
                stack=7,
                waker=proc(402),
                waker_tid=403,
                waker_stack=8,
                group=0xFFFF8880041C2A00,
            ),
            wait(1002, 1002.5, kind=2, count=3),
        ]
    )
    blocked, runnable = waits_of(rec)
    assert blocked == {
        "ts": 5,
        "op_id": 1,
        "side": "server",
        "op": "COMPOUND",
        "tid": 640,
        "kind": "blocked",
        "in_flight": False,
        "count": 1,
        "total_us": 1_000_000,
        "max_us": 1_000_000,
        "first_mono_us": 1_001_000_000,
        "last_mono_us": 1_002_000_000,
        "stack_id": 700,
        "waker_pid": 402,
        "waker_start_us": 1_000_000,
        "waker_stack_id": 800,
        "waker_tid": 403,
        "fanotify_group": "ffff8880041c2a00",
        "unread_us": 0,
    }
    assert (runnable["kind"], runnable["count"], runnable["stack_id"]) == ("runnable", 3, None)
    assert (runnable["waker_pid"], runnable["fanotify_group"]) == (None, None)


def test_a_wait_that_goes_on_reaches_to_now() -> None:
    rec = op_in_flight(off_ns=1004 * S, off_stack=7, off_kind=1, group=0xAB)
    (row,) = waits_of(rec)
    assert (row["kind"], row["in_flight"], row["total_us"]) == ("blocked", True, 6_000_000)
    assert (row["first_mono_us"], row["last_mono_us"]) == (1_004_000_000, 1_010_000_000)
    assert (row["stack_id"], row["fanotify_group"]) == (700, "00000000000000ab")


def test_a_thread_that_was_woken_and_has_no_cpu_gives_two_waits() -> None:
    rec = op_in_flight(
        off_ns=1004 * S, waking_ns=1009 * S, off_stack=7, off_kind=1, waker=proc(402), waker_stack=8
    )
    blocked, runnable = waits_of(rec)
    assert (blocked["kind"], blocked["in_flight"], blocked["total_us"]) == (
        "blocked",
        False,
        5_000_000,
    )
    assert (blocked["waker_pid"], blocked["waker_stack_id"]) == (402, 800)
    assert (runnable["kind"], runnable["in_flight"], runnable["total_us"]) == (
        "runnable",
        True,
        1_000_000,
    )
    assert "waker_pid" not in runnable


def test_preempted_thread_waits_for_a_cpu() -> None:
    (row,) = waits_of(op_in_flight(off_ns=1004 * S, off_kind=2))
    assert (row["kind"], row["total_us"]) == ("runnable", 6_000_000)


def test_an_operation_that_ended_has_no_wait_going_on() -> None:
    assert waits_of(op(off_ns=1002 * S, off_kind=1)) == []


def test_more_waits_than_fit_are_not_read_beyond_the_record() -> None:
    rec = op()
    rec.nwaits = 99
    assert len(waits_of(rec)) == 8


def parts(*names: bytes) -> list[bytes]:
    """Names as the kernel side leaves them: padded, what lay there before behind the last."""
    padded = [name.ljust(NAME_PART_LEN, b"\0") for name in names]
    return [*padded, *[bytes(NAME_PART_LEN)] * (NAME_PARTS - len(padded))]


@pytest.mark.parametrize(
    ("names", "path"),
    [
        ((), None),
        ((b"/",), "/"),
        ((b"dump.rdb", b"files", b"/"), "/files/dump.rdb"),
        ((b"d", b"c", b"b", b"a"), ".../a/b/c/d"),
        ((b"a" * (NAME_PART_LEN - 1), b"/"), "/" + "a" * (NAME_PART_LEN - 1) + "..."),
        ((b"\xff\n\x1b[2J", b"/"), "/\\xff\n\x1b[2J"),
    ],
)
def test_a_file_is_named_as_far_as_its_folders_are_known(
    names: tuple[bytes, ...], path: str | None
) -> None:
    assert file_name(parts(*names)) == path


def test_a_listener_that_has_read_the_event_ends_the_unread_part() -> None:
    def unread(**fields: int) -> list[int | None]:
        rec = op_in_flight(group=0xAB, off_ns=NOW - 5_000_000, off_kind=1, **fields)
        return [row["unread_us"] for row in waits_of(rec)]

    assert unread() == [5_000]
    assert unread(read_ns=NOW - 3_000_000) == [2_000]
    # It had been read before the thread went to sleep.
    assert unread(read_ns=NOW - 9_000_000) == [0]


def test_a_call_and_a_hook_are_told_only_while_they_last() -> None:
    inside = {
        "call": calls.vfs_number("open"),
        "call_ns": 1,
        "hook": calls.hook_number("security_file_open"),
        "hook_ns": 1,
    }
    row = row_of(op_in_flight(**inside))
    assert (row["call"], row["hook"]) == ("open", "security_file_open")
    for row in (row_of(op(end_ns=NOW, **inside)), row_of(op_in_flight())):
        assert (row["call"], row["hook"]) == (None, None)


def test_what_happened_is_counted_by_kind() -> None:
    key = CountKey(kind=COUNTS.index("status"), status=10008, side=SIDE_SERVER)
    other = CountKey(kind=COUNTS.index("retransmit"), side=SIDE_CLIENT)
    payload = b"".join(bytes(k) + n.to_bytes(8, "little") for k, n in ((key, 3), (other, 1)))
    rows = count_rows(payload, 5, LOOK)
    assert [(r["side"], r["kind"], r["status"], r["count"]) for r in rows] == [
        ("server", "status", 10008, 3),
        ("client", "retransmit", None, 1),
    ]
    with pytest.raises(BadFrame):
        count_rows(bytes(CountKey(kind=len(COUNTS))) + bytes(8), 5, LOOK)


def disk_use(
    slot: int, busy_ns: int, longest_ns: int, pid: int = 811, queued_ns: int = 0, **fields: Any
) -> bytes:
    key = UseKey(**{"slot": slot, "proc": proc(pid), "dev": 44, "kind": USE_DISK} | fields)
    return bytes(key) + bytes(UseVal(3, busy_ns, longest_ns, queued_ns))


def test_who_had_a_disk_for_longer_than_a_moment() -> None:
    short, long = disk_use(15, SLOT_NS // 21, 1), disk_use(16, SLOT_NS, 2 * SLOT_NS)
    (row,) = disk_rows(short + long, 5, LOOK)
    # The longest request had the disk from two slots before.
    times = (14 * SLOT_NS // 1000, 17 * SLOT_NS // 1000)
    assert (row["begin_mono_us"], row["end_mono_us"]) == times
    assert (row["disk"], row["pid"], row["requests"]) == ("vdb", 811, 3)
    assert row["busy_us"] == SLOT_NS // 1000
    with pytest.raises(BadFrame):
        disk_rows(short[:-1], 5, LOOK)


def test_whose_requests_a_disk_did_not_get_to_has_a_row_too() -> None:
    ours = disk_use(15, 0, 1, queued_ns=2 * SLOT_NS)
    clients = disk_use(15, 9, 1, 90, queued_ns=SLOT_NS, client=peer("10.9.0.2"))
    rows = disk_rows(ours + clients, 5, LOOK)
    assert [(row["pid"], row["client"], row["queued_us"]) for row in rows] == [
        (811, None, 2 * SLOT_NS // 1000),
        (None, "10.9.0.2", SLOT_NS // 1000),
    ]


def test_many_who_had_a_disk_for_a_moment_stand_together() -> None:
    few = [disk_use(15, SLOT_NS // 40, 7, pid) for pid in range(4)]
    elsewhere = disk_use(16, SLOT_NS // 40, 7)
    (row,) = disk_rows(b"".join([*few, elsewhere]), 5, LOOK)
    assert (row["pid"], row["start_us"], row["requests"]) == (None, None, 12)
    assert row["busy_us"] == 4 * (SLOT_NS // 40) // 1000
    assert row["end_mono_us"] == 16 * SLOT_NS // 1000


def test_what_nfsd_does_for_a_client_is_one_row_whichever_thread_does_it() -> None:
    asked = {"client": peer("10.9.0.2"), "kind": USE_DISK_WRITE}
    threads = [disk_use(15, SLOT_NS // 30, 7, pid, **asked) for pid in (90, 91)]
    other = disk_use(15, SLOT_NS // 10, 7, 90, client=peer("10.9.0.3"))
    ours, nfsd = disk_use(15, SLOT_NS // 10, 7), disk_use(15, SLOT_NS // 10, 7, 90)
    rows = disk_rows(b"".join([*threads, other, ours, nfsd]), 5, LOOK)
    assert {(row["pid"], row["client"], row["write"], row["requests"]) for row in rows} == {
        (None, "10.9.0.2", True, 6),
        (None, "10.9.0.3", False, 3),
        (811, None, False, 3),
        (90, None, False, 3),
    }


def journal_use(slot: int, blocks: int, pid: int = 811) -> bytes:
    key = UseKey(slot=slot, proc=proc(pid), dev=44, kind=USE_JOURNAL)
    return bytes(key) + bytes(UseVal(2, blocks, blocks))


def test_who_filled_a_journal_has_one_row_an_interval() -> None:
    frame = disk_use(15, SLOT_NS, 1) + journal_use(15, 10) + journal_use(17, 5)
    ours, other = journal_rows(frame + journal_use(16, 1, pid=9), 5, LOOK)
    assert (ours["device"], ours["pid"], ours["handles"], ours["blocks"]) == ("dm-0", 811, 4, 15)
    times = (15 * SLOT_NS // 1000, 18 * SLOT_NS // 1000)
    assert (ours["begin_mono_us"], ours["end_mono_us"]) == times
    assert (other["pid"], other["blocks"]) == (9, 1)
    assert len(disk_rows(frame, 5, LOOK)) == 1


def test_of_waits_before_an_operation_only_what_lies_after_its_arrival_is_its() -> None:
    before, across, within = wait(999, 1000), wait(1000, 1001, kind=2), wait(1001, 1002)
    rec = op(waits=[before, across, within], nearly=2)
    rows = wait_rows(rec, 0, 0, LOOK)
    assert [(r["first_mono_us"], r["total_us"], r["max_us"]) for r in rows] == [
        (1_000_500_000, 500_000, 500_000),
        (1_001_000_000, 1_000_000, 1_000_000),
    ]


def test_who_took_memory_has_a_row_for_each_slot() -> None:
    frame = journal_use(15, 10) + memory_use(15, 700) + memory_use(15, 200, pid=0)
    frame += memory_use(15, 30, pid=9) + memory_use(16, 1)
    ours, nobodys, later = memory_rows(frame, 5, LOOK)
    assert (ours["pid"], ours["taken_bytes"]) == (811, 700 * 4096)
    assert (ours["begin_mono_us"], ours["end_mono_us"]) == (
        15 * SLOT_NS // 1000,
        16 * SLOT_NS // 1000,
    )
    # The kernel's own, and of those who took next to nothing.
    assert (nobodys["pid"], nobodys["start_us"], nobodys["taken_bytes"]) == (None, None, 230 * 4096)
    assert later["begin_mono_us"] == 16 * SLOT_NS // 1000


def test_what_is_given_back_was_taken_before() -> None:
    assert memory_rows(memory_use(15, 0, pid=9), 5, LOOK) == []
    rows = memory_rows(memory_use(15, -300) + memory_use(15, 100, pid=9), 5, LOOK)
    assert [(row["pid"], row["taken_bytes"] // 4096) for row in rows] == [(811, -300), (9, 100)]


def test_of_freeing_memory_that_goes_on_is_taken_what_is_told_apart() -> None:
    before, within = wait(1001, 1002), wait(1005, 1006, kind=2)
    freeing: dict[str, Any] = {
        "reclaim_ns": 1004 * S,
        "reclaim_waited_ns": S,
        "reclaim_kind": 6,
        "waits": [before, within],
    }
    *ended, row = wait_rows(op_in_flight(**freeing, off_ns=1008 * S, off_kind=1), NOW, 0, LOOK)
    assert [one["kind"] for one in ended] == ["blocked", "runnable"]
    assert (row["kind"], row["in_flight"], row["total_us"]) == ("reclaiming", True, 5_000_000)
    assert (row["first_mono_us"], row["last_mono_us"]) == (1_004_000_000, NOW // 1000)
    *_, row, rest = wait_rows(op_in_flight(**freeing, queued_ns=1009 * S), NOW, 0, LOOK)
    assert (row["total_us"], row["last_mono_us"]) == (4_000_000, 1_009_000_000)
    assert (rest["kind"], rest["total_us"]) == ("runnable", 1_000_000)
    # An operation that has ended has ended that as well.
    assert len(wait_rows(op(**freeing), NOW, 0, LOOK)) == 2
