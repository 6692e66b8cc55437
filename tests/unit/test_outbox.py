"""Intervals on their way to the writer: merged, never lost in silence, never blocking."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from builders import latency, listener, op, proc, rpc, wait_sum
from hypothesis import given
from hypothesis import strategies as st

from tracer import outbox, wire
from tracer.outbox import Interval, Outbox, merge
from tracer.records import CountKey, LatencyKey, LatencyVal, WaitKey, WaitVal

LATENCIES = st.lists(
    st.builds(latency, bucket=st.integers(0, 3), count=st.integers(1, 2**40)), max_size=4
)
WAITS = st.lists(
    st.builds(
        wait_sum,
        count=st.integers(1, 2**30),
        total_ns=st.integers(0, 2**50),
        stack=st.integers(-1, 1),
    ),
    max_size=4,
)
LOSSES = st.dictionaries(st.sampled_from(["ring_full", "stack"]), st.integers(1, 100))
TWINS = {wire.LATENCY: (LatencyKey, LatencyVal), wire.WAITS: (WaitKey, WaitVal)}


def made(
    number: int = 1,
    latencies: list[bytes] | None = None,
    waits: list[bytes] | None = None,
    losses: dict[str, int] | None = None,
    **parts: object,
) -> Interval:
    return Interval(
        tick={"mono_ns": number, "intervals": 1, "losses": losses or {}, "overhead": {}},
        sums={wire.LATENCY: b"".join(latencies or []), wire.WAITS: b"".join(waits or [])},
        **parts,  # type: ignore[arg-type]
    )


def plain_sums(kind: int, packed: bytes) -> dict[bytes, dict[str, int]]:
    """Return {key: {field: value}}, added up in the most simple-minded way."""
    key_type, value_type = TWINS[kind]
    total: dict[bytes, dict[str, int]] = {}
    key_bytes, size = ctypes.sizeof(key_type), ctypes.sizeof(key_type) + ctypes.sizeof(value_type)
    for at in range(0, len(packed), size):
        key = packed[at : at + key_bytes]
        value = value_type.from_buffer_copy(packed, at + key_bytes)
        known = total.setdefault(key, {})
        for name, _ in value_type._fields_:
            new, old = getattr(value, name), known.get(name, 0)
            known[name] = max(old, new) if name == "max_ns" else old + new
    return total


def test_things_that_happened_add_up() -> None:
    def happened(kind: int, number: int) -> bytes:
        return bytes(CountKey(kind=kind)) + number.to_bytes(8, "little")

    older, newer = made(), made()
    older.sums[wire.COUNTS] = happened(1, 2) + happened(2, 5)
    newer.sums[wire.COUNTS] = happened(1, 3)
    assert merge(older, newer).sums[wire.COUNTS] == happened(1, 5) + happened(2, 5)


@given(st.lists(st.tuples(LATENCIES, WAITS, LOSSES), min_size=1, max_size=6))
def test_sums_of_merged_intervals_are_the_plain_sums(
    parts: list[tuple[list[bytes], list[bytes], dict[str, int]]],
) -> None:
    intervals = [made(n, *part) for n, part in enumerate(parts)]
    merged = intervals[0]
    for interval in intervals[1:]:
        merged = merge(merged, interval)
    for kind in TWINS:
        everything = b"".join(interval.sums[kind] for interval in intervals)
        assert plain_sums(kind, merged.sums[kind]) == plain_sums(kind, everything)
    losses: Counter[str] = Counter()
    for _, _, lost in parts:
        losses.update(lost)
    assert merged.tick["losses"] == dict(losses)
    assert merged.tick["intervals"] == len(parts)
    assert merged.tick["mono_ns"] == len(parts) - 1


def test_what_is_in_flight_is_replaced_and_what_finished_is_kept() -> None:
    old_op, new_op, an_rpc = bytes(op(1)), bytes(op(2)), bytes(rpc(3))
    older = made(
        finished=[(wire.OPS, old_op)], in_flight={wire.OPS: old_op + new_op, wire.RPCS: an_rpc}
    )
    newer = made(finished=[(wire.RPCS, an_rpc)], in_flight={wire.OPS: new_op, wire.RPCS: b""})
    merged = merge(older, newer)
    assert merged.in_flight == {wire.OPS: new_op, wire.RPCS: b""}
    assert merged.finished == [(wire.OPS, old_op), (wire.RPCS, an_rpc)]


def test_of_totals_only_the_newest_are_kept_of_facts_all() -> None:
    old, new = listener(1, proc(2), reads=1), listener(1, proc(2), reads=2)
    older = made(facts=[(wire.NAMES, b"a"), (wire.SAMPLE, b"old"), (wire.LISTENERS, old)])
    newer = made(facts=[(wire.SAMPLE, b"new"), (wire.NAMES, b"b"), (wire.LISTENERS, new)])
    assert merge(older, newer).facts == [
        (wire.NAMES, b"a"),
        (wire.SAMPLE, b"new"),
        (wire.NAMES, b"b"),
        (wire.LISTENERS, new),
    ]


def test_beyond_the_bound_the_oldest_go_and_each_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_op, one_rpc = bytes(op()), bytes(rpc())
    monkeypatch.setattr(outbox, "BOUND_BYTES", 4 * len(one_op))
    merged = made(losses={"outbox_full": 5}, finished=[(wire.RPCS, one_rpc * 3)])
    sent = {wire.OPS: 0, wire.RPCS: 3}
    for _ in range(4):
        merged = merge(merged, made(finished=[(wire.OPS, one_op * 2)]))
        sent[wire.OPS] += 2
    size = {wire.OPS: len(one_op), wire.RPCS: len(one_rpc)}
    kept = sum(len(payload) // size[kind] for kind, payload in merged.finished)
    assert sum(len(payload) for _, payload in merged.finished) <= outbox.BOUND_BYTES
    assert merged.tick["losses"]["outbox_full"] == 5 + sum(sent.values()) - kept
    assert merged.finished[-1] == (wire.OPS, one_op * 2)


def test_frames_of_an_interval_end_with_its_tick() -> None:
    interval = made(latencies=[latency()], finished=[(wire.OPS, b"o")], facts=[(wire.NAMES, b"{}")])
    parser = wire.FrameParser()
    frames = list(parser.feed(b"".join(interval.frames())))
    assert [kind for kind, _ in frames] == [
        wire.NAMES,
        wire.OPS,
        wire.LATENCY,
        wire.WAITS,
        wire.TICK,
    ]
    assert json.loads(frames[-1][1]) == interval.tick


# The pipe


@pytest.fixture
def pipe() -> Iterator[tuple[int, Outbox]]:
    theirs, ours = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(theirs, False)
    box = Outbox(ours)
    yield theirs, box
    os.close(theirs)
    if not box.closed:
        box.close()


def drained(fd: int, most: int = 1 << 20) -> bytes:
    parts = []
    try:
        while most > 0 and (part := os.read(fd, min(most, 1 << 16))):
            parts.append(part)
            most -= len(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("step", [1, 1000, 4096])
def test_a_full_pipe_is_resumed_exactly_where_it_was(pipe: tuple[int, Outbox], step: int) -> None:
    theirs, box = pipe
    facts = [(wire.KMSG, bytes([number]) * 700) for number in range(30)]
    interval = made(facts=facts)
    box.put(interval)
    assert box.behind
    assert box.merged_intervals == 0
    received = b""
    while box.behind:
        received += drained(theirs, step * 50)
        box.flush()
    assert received + drained(theirs) == b"".join(interval.frames())


def test_intervals_that_wait_are_merged_and_the_end_comes_last(pipe: tuple[int, Outbox]) -> None:
    theirs, box = pipe
    box.put(made(1, facts=[(wire.KMSG, bytes(10_000))]))  # more than the pipe takes
    for number in (2, 3, 4):
        box.put(made(number, latencies=[latency(count=number)]))
    assert box.merged_intervals == 2
    box.put_frame(wire.END, b"{}")
    parser, frames = wire.FrameParser(), []
    while box.behind:
        frames += list(parser.feed(drained(theirs)))
        box.flush()
    frames += list(parser.feed(drained(theirs)))
    kinds = [kind for kind, _ in frames]
    assert (kinds.count(wire.TICK), kinds[-1]) == (2, wire.END)
    ticks = [json.loads(payload) for kind, payload in frames if kind == wire.TICK]
    assert [tick["intervals"] for tick in ticks] == [1, 3]
    sums = b"".join(payload for kind, payload in frames if kind == wire.LATENCY)
    assert [value["count"] for value in plain_sums(wire.LATENCY, sums).values()] == [9]


def test_a_reader_that_is_gone_is_noticed_and_nothing_raises() -> None:
    theirs, ours = os.pipe()
    box = Outbox(ours)
    os.close(theirs)
    box.put(made())
    assert box.closed
    assert box.behind  # what it had is still there: not all was delivered
    box.put(made())
    box.flush()
    box.close()
