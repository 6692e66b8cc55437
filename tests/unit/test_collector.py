"""The collector's own descriptors, and that it opens no other once it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracer.collector import Collector
from tracer.host import possible_processors
from tracer.records import FIRST_CROWDED, FIRST_SLEEPER, MAP_SIZES


@pytest.fixture
def bare() -> Collector:
    """Return a collector of no maps."""
    return Collector.__new__(Collector)


def test_processors_are_all_that_may_ever_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in (("0\n", 1), ("0-7\n", 8), ("0-3,8-11\n", 12)):
        monkeypatch.setattr(Path, "read_text", lambda _self, text=text: text)
        assert possible_processors() == count


RUNNING = """
import fcntl, os, sys
from tracer import collector, recorder
from tracer.deferred import SYMBOLS
from tracer.foreign import ForeignCode
from tracer.interrupts import Interrupts
from tracer.kernel import bpf, offsets
from tracer.kernel.memory import KernelMemory
from tracer.kernel.on_demand import OnDemand
from tracer.outbox import Outbox
from tracer.procfs.symbols import Extent
from tracer.record_offsets import At
from tracer.records import *
from tracer.shortage import Shortage

class Batch:
    def __init__(self, fd, *_sizes): self.fd = fd
    def read(self, delete=False): return iter(CONTENT.get(self.fd, ()))

class Ring:
    used = 0.5
    def __init__(self, *_): pass
    def read(self):
        return map(bytes, (OpRec(op=1 << 33, nwaits=1), RpcRec(op=1 << 34), HolderRec()))

bpf.BatchReader, bpf.RingReader = Batch, Ring
bpf.update = bpf.delete = lambda *_, **__: None
def lookup(fd, key, size):
    if fd == maps["ops"]:
        return bytes(OpRec(active=1, begin_ns=1, op=1 << 35, proc=ProcId(1, 1, 0), tid=7))
    return bytes(range(1, 9)) * (size // 8) + bytes(size % 8)
bpf.lookup = lookup
bpf.run_raw_tracepoint = lambda *_: 0
bpf.run_iterator = lambda _: None
bpf.program_ids = lambda after: range(after + 1, 6)
bpf.program_code = lambda number: bpf.ProgramCode(26, "filter", ((number << 32, 64),))
bpf.program_exists = lambda number: number != 3
bpf.attach_raw_tracepoint = lambda *_: os.dup(0)
pairs = "latency waits counts uses".split()
pairs = [f"{name}{half}" for name in pairs for half in ("", 0, 1)]
others = "threads ops places spare rpcs listeners held frozen ring lost procs stacks more_stacks"
others += " exported exported_bits foreign crew crew_size shortage deferred deferrals"
names = [*pairs, *others.split()]
maps = {name: number for number, name in enumerate(names)}
def content(number):
    process, sums = ProcId(number, number, 0), bytes(LatencyVal(1, 2, 3))
    return {
        maps["latency1"]: [(bytes(8), bytes(LatencyKey(op=number, proc=process)) + sums)],
        maps["waits1"]: [
            (bytes(WaitKey(waker=process, stack=number)), bytes(WaitVal(1, 2, 3, 4)))
        ],
        maps["counts1"]: [(bytes(CountKey(kind=number)), bytes(8))],
        maps["threads"]: [(bytes(OpRec(tid=7))[At.op_tid : At.op_tid + 4], bytes(4))],
        maps["rpcs"]: [(bytes(8), bytes(RpcRec(begin_ns=1)))],
        maps["listeners"]: [(bytes(8), bytes(ListenerRec(proc=process)))],
        maps["frozen"]: [(bytes(8), bytes(HolderRec(proc=process)))],
        maps["held"]: [(bytes(8), bytes(HeldRec(since_ns=1)))],
    }
CONTENT = content(1)
layout = {field.macro: 0 for field in offsets.seed_fields(["server", "client"])}
taken = Interrupts({"irq_exit_rcu": Extent(64, 128)})
code = ForeignCode(maps["foreign"], OnDemand([(0, "event")]), [4], taken)
short = Shortage(maps["shortage"], OnDemand([(0, "event")]))
at = dict.fromkeys(SYMBOLS, 0)
draining = collector.Collector(maps, KernelMemory(0, 0, layout), 0, {}, code, short, 1, 4096, at)
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


@pytest.mark.parametrize(("used", "gathered"), [(0.2, []), (0.3, [b"record"])])
def test_a_ring_that_fills_up_is_read_before_its_time(
    bare: Collector, used: float, gathered: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = SimpleNamespace(used=used, read=lambda: iter([b"record"]))
    monkeypatch.setattr(bare, "_ring", ring, raising=False)
    bare._gathered = []
    bare.gather()
    assert bare._gathered == gathered


def test_of_very_many_processes_the_latest_are_known(
    bare: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def lookup(_fd: int, key: bytes, size: int) -> bytes:
        asked.append(key)
        return bytes(size)

    monkeypatch.setattr("tracer.kernel.bpf.lookup", lookup)
    monkeypatch.setitem(MAP_SIZES, "MAX_PROCS", 2)
    bare._maps, bare._known_processes = {"procs": 3}, {}
    for identity in (b"a", b"b", b"c"):
        assert bare._processes({identity}).startswith(identity)
    assert list(bare._known_processes) == [b"b", b"c"]
    assert asked == [b"a", b"b", b"c"]


def test_a_stack_is_looked_up_where_its_id_says(
    bare: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, int] = {}

    def lookup(fd: int, key: bytes, size: int) -> bytes:
        asked[int.from_bytes(key, "little")] = fd
        return bytes(size)

    monkeypatch.setattr("tracer.kernel.bpf.lookup", lookup)
    bare._maps, bare._known_stacks = {"stacks": 3, "more_stacks": 4}, set()
    bare._stacks({-1, 5, FIRST_CROWDED - 1, FIRST_CROWDED, FIRST_SLEEPER + 7})
    assert asked == {5: 3, FIRST_CROWDED - 1: 3, FIRST_CROWDED: 4, FIRST_SLEEPER + 7: 4}
