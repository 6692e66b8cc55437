"""The collector's own descriptors, and that it opens no other once it runs."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer import collector
from tracer.collector import Collector
from tracer.host import possible_processors
from tracer.records import (
    FIRST_SLEEPER,
    NO_STACK,
    OP_IN_FLIGHT,
    OP_KERNEL,
    RPC_ENDED,
    WAIT_BLOCKED,
    WAIT_HELD,
    HeldRec,
    OpRec,
    RpcRec,
)


@pytest.fixture
def bare() -> Collector:
    """Return a collector of no maps."""
    return Collector.__new__(Collector)


def test_processors_are_all_that_may_ever_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in (("0\n", 1), ("0-7\n", 8), ("0-3,8-11\n", 12)):
        monkeypatch.setattr(Path, "read_text", lambda _self, text=text: text)
        assert possible_processors() == count


def test_a_record_is_flagged_in_place() -> None:
    assert collector._flagged(b"abcd\x02\0\0\0efgh", 4) == b"abcd\x03\0\0\0efgh"


class Records:
    """A map of these elements."""

    def __init__(self, *elements: tuple[bytes, ctypes.Structure]) -> None:
        self.elements = elements

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        return ((key, bytes(value)) for key, value in self.elements)


def test_a_packet_is_in_flight_until_it_is_decided_on(bare: Collector) -> None:
    young, old = HeldRec(op_id=7, since_ns=95), HeldRec(op_id=8, since_ns=5, side=2)
    bare._threshold_ns = 10
    bare._held = Records((b"", young), (b"", old))  # type: ignore[assignment]
    (record,) = map(OpRec.from_buffer_copy, bare._packets_in_flight(100))
    assert (record.op_id, record.begin_ns, record.side) == (8, 5, 2)
    assert (record.off_ns, record.off_kind) == (5, WAIT_HELD)
    assert record.flags == OP_KERNEL | OP_IN_FLIGHT


@pytest.mark.parametrize(
    ("op", "looked"),
    [
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED, off_stack=NO_STACK), True),
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED, off_stack=7), False),
        (OpRec(off_ns=5, off_kind=WAIT_BLOCKED + 1, off_stack=NO_STACK), False),
        (OpRec(off_ns=0, off_kind=WAIT_BLOCKED, off_stack=NO_STACK), False),
    ],
    ids=["asleep", "known", "runnable", "running"],
)
def test_the_stack_of_a_sleeper_is_read_once(
    bare: Collector, monkeypatch: pytest.MonkeyPatch, op: OpRec, looked: bool
) -> None:
    op.active, op.begin_ns = 1, 1
    bare._threads = Records((b"", op))  # type: ignore[assignment]
    bare._threshold_ns, bare._sleepers, bare._groups = 10, 99, set()
    runs: list[int] = []

    def run(link: int) -> None:
        runs.append(link)
        op.off_stack = FIRST_SLEEPER

    monkeypatch.setattr(collector.bpf, "run_iterator", run)
    seen = collector._Seen()
    (record,) = bare._ops_in_flight(100, seen)
    assert runs == ([99] if looked else [])
    assert (FIRST_SLEEPER in seen.stacks) == looked
    assert OpRec.from_buffer_copy(record).off_stack == op.off_stack


def test_rpcs_that_have_ended_are_not_in_flight_and_go_at_last(
    bare: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute_ns, deleted = 60_000_000_000, []
    old, new = (RpcRec(begin_ns=begin_ns, flags=RPC_ENDED) for begin_ns in (1, minute_ns))
    revived = RpcRec(begin_ns=1, flags=RPC_ENDED)
    bare._rpcs = Records((b"old", old), (b"rev", revived), (b"new", new))  # type: ignore[assignment]
    bare._maps, bare._threshold_ns = {"rpcs": 5}, 10
    # Another RPC has begun at one's address since the records were read.
    now = {b"old": bytes(old), b"rev": bytes(RpcRec(op_id=7, begin_ns=minute_ns))}
    monkeypatch.setattr(collector.bpf, "lookup", lambda _fd, key, _bytes: now[key])
    monkeypatch.setattr(collector.bpf, "delete", lambda fd, key: deleted.append((fd, key)))
    assert list(bare._rpcs_in_flight(minute_ns + 100, collector._Seen())) == []
    assert deleted == [(5, b"old")]


def test_an_rpc_in_flight_is_known_by_the_start_of_its_task(
    bare: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        def u64(self, _task: int, path: str) -> int:
            return {"rpc_task.tk_client": 1, "rpc_task.tk_start": 7}[path]

    ours, other = RpcRec(op=1, begin_ns=7), RpcRec(op=2, begin_ns=8)
    bare._memory, bare._threshold_ns = Memory(), 10  # type: ignore[assignment]
    bare._rpcs = Records((bytes(8), ours), (bytes(8), other))  # type: ignore[assignment]
    forgotten: list[bytes] = []
    monkeypatch.setattr(bare, "_forget_rpc", lambda _task, record: forgotten.append(record))
    found = bare._rpcs_in_flight(6_000_000_000, collector._Seen())
    assert [RpcRec.from_buffer_copy(record).op for record in found] == [1]
    assert forgotten == [bytes(other)]


RUNNING = """
import fcntl, os, sys
from tracer import collector, recorder
from tracer.foreign import ForeignCode
from tracer.kernel import bpf, offsets
from tracer.kernel.memory import KernelMemory
from tracer.outbox import Outbox
from tracer.records import *

class Batch:
    def __init__(self, fd, *_sizes): self.fd = fd
    def read(self, delete=False): return iter(CONTENT.get(self.fd, ()))

class Ring:
    def __init__(self, *_): pass
    def read(self):
        return map(bytes, (OpRec(op=1 << 33, nwaits=1), RpcRec(op=1 << 34), HolderRec()))

bpf.BatchReader, bpf.RingReader = Batch, Ring
bpf.update = bpf.delete = lambda *_, **__: None
bpf.lookup = lambda _fd, key, size: bytes(range(1, 9)) * (size // 8) + bytes(size % 8)
bpf.run_raw_tracepoint = lambda *_: 0
bpf.run_iterator = lambda _: None
bpf.program_ids = lambda after: range(after + 1, 6)
bpf.program_code = lambda number: bpf.ProgramCode(26, "filter", ((number << 32, 64),))
bpf.program_exists = lambda number: number != 3
bpf.attach_raw_tracepoint = lambda *_: os.dup(0)
pairs = [f"{name}{half}" for name in ("latency", "waits", "counts") for half in ("", 0, 1)]
others = "threads rpcs listeners held frozen ring lost procs stacks sleepers exported foreign"
names = [*pairs, *others.split()]
maps = {name: number for number, name in enumerate(names)}
def content(number):
    process, sums = ProcId(number, number, 0), bytes(LatencyVal(1, 2, 3))
    return {
        maps["latency1"]: [(bytes(LatencyKey(op=number, proc=process)), sums)],
        maps["waits1"]: [
            (bytes(WaitKey(waker=process, stack=number)), bytes(WaitVal(1, 2, 3, 4)))
        ],
        maps["counts1"]: [(bytes(CountKey(kind=number)), bytes(8))],
        maps["threads"]: [(b"", bytes(OpRec(active=1, begin_ns=1, op=1 << 35, proc=process)))],
        maps["rpcs"]: [(bytes(8), bytes(RpcRec(begin_ns=1)))],
        maps["listeners"]: [(bytes(8), bytes(ListenerRec(proc=process)))],
        maps["frozen"]: [(bytes(8), bytes(HolderRec(proc=process)))],
        maps["held"]: [(bytes(8), bytes(HeldRec(since_ns=1)))],
    }
CONTENT = content(1)
layout = {field.macro: 0 for field in offsets.seed_fields(["server", "client"])}
code = ForeignCode(maps["foreign"], 0, [4])
draining = collector.Collector(maps, KernelMemory(0, 0, layout), 0, {}, code, 1, 4096)
log, kernel = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
draining._kernel_log._fd = log
theirs, ours = os.pipe()
fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
outbox = Outbox(ours)
settings = recorder.Settings(None, ["server"], 1, 0.01, 0.3, 1, None, [])
recording = recorder.Recorder(settings, lambda *_: None)
outbox.put(draining.drain())  # as the recorder does before it enters the loop
CONTENT = content(2)
os.write(kernel, b"6,1,7,-;\\xc3\\xa9\\xff\\n")
wake, _ = os.pipe()
opened = []
def watch(event, arguments):
    if event in ("open", "import", "os.listdir", "os.scandir", "subprocess.Popen"):
        opened.append((event, arguments))
sys.addaudithook(watch)
reason = recording._loop(draining, outbox, wake)  # nobody reads: the outbox merges
os.read(theirs, 1 << 20)
outbox.flush()
os.close(theirs)
assert recording._loop(draining, outbox, wake) == "writer gone"
print(reason, outbox.merged_intervals > 0, opened)
"""


def test_once_it_runs_it_opens_no_file_and_imports_nothing() -> None:
    """Whatever hangs on this host: full pipe, merging, a writer that dies."""
    run = subprocess.run(
        [sys.executable, "-c", RUNNING], capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.stdout, run.stderr) == ("duration True []\n", "")
