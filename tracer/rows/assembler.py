"""One interval's frames to the rows of every table.

The assembler keeps what later frames refer to (names, stacks, processes) and
writes it again in every segment: each segment of a capture can be read alone,
so the oldest may be removed.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tracer import wire
from tracer.losses import BAD_FRAME
from tracer.nfs_status import NFS4ERR_DELAY
from tracer.owners import owner_of
from tracer.procfs import samples
from tracer.procfs.aside import Aside
from tracer.procfs.cgroups import Cgroups
from tracer.procfs.changes import Exports, Reading, Watch
from tracer.procfs.containers import container_id, pod_uid
from tracer.procfs.disks import Disks
from tracer.procfs.helpers import WAITED_FOR, Helpers
from tracer.procfs.leases import Leases
from tracer.procfs.mounts import NOWHERE, Mounts, Place
from tracer.procfs.peers import Peers
from tracer.procfs.processes import Facts, ProcessTable, ProcReader
from tracer.procfs.programs import Programs
from tracer.procfs.surroundings import Surroundings
from tracer.procfs.symbols import KernelSymbols
from tracer.records import (
    FIRST_SLEEPER,
    HOLDS,
    MAX_WAITS,
    OP_ANSWER,
    OP_IN_FLIGHT,
    HolderRec,
    ListenerRec,
    OpRec,
    ProcId,
    ProcRec,
    RpcRec,
)
from tracer.rows.clock import Clock
from tracer.rows.operations import (
    Lookups,
    Row,
    group_name,
    operation_row,
    rpc_row,
    wait_rows,
)
from tracer.rows.packed import BadFrame, layout, records, tuples
from tracer.rows.stacks import Stacks
from tracer.rows.sums import count_rows, latency_rows, wait_sum_rows
from tracer.rows.text import clean, decoded
from tracer.rows.uses import disk_rows, journal_rows, memory_rows
from tracer.schema import SCOPE_SELF, TABLES

Frame = tuple[int, bytes]
Rows = dict[str, list[Row]]
Listener = tuple[str | None, int, int]
"""fanotify group, pid, start_us."""


_PROCS: Final = layout(ProcId, ProcRec)
_LISTENERS: Final = layout(ctypes.c_uint64, ListenerRec)
_HOLDERS: Final = layout(HolderRec)

# These define what others of the same interval refer to, so they are read first.
_DEFINITIONS: Final = (wire.NAMES, wire.OWNERS, wire.STACKS, wire.PROCS)
# Listeners come last: they show how many operations wait for each.
_LAST: Final = (wire.LISTENERS, wire.MARKS)


def event(ts_us: int, kind: str, name: str, text: str | None = None, count: int = 1) -> Row:
    """Return a row of ``events``."""
    text = None if text is None else clean(text)
    return {"ts": ts_us, "kind": kind, "name": clean(name), "text": text, "count": count}


class Assembler:
    """Turns the frames of one recording into rows, interval by interval."""

    def __init__(self, hello: Mapping[str, Any], proc_root: Path = Path("/proc")) -> None:
        self.clock = Clock(hello["mono_ns"], hello["wall_ns"], hello["boot_minus_mono_ns"])
        self._memory = _Memory(self.clock, proc_root, hello)
        self.hello_again(hello)

    @property
    def losses(self) -> Mapping[str, int]:
        """Losses of the recording so far, by reason."""
        return self._memory.losses

    @property
    def nfsd_threads(self) -> int | None:
        """How many nfsd threads there are now; 0 without a server, None if unknown."""
        return self._memory.watch.threads

    @property
    def overhead(self) -> Mapping[str, float]:
        """Last figures of recording's own overhead, by name."""
        return self._memory.overhead

    def hello_again(self, hello: Mapping[str, Any]) -> None:
        """Take over the probe plan of a HELLO; one in mid-recording tells of a module loaded."""
        self._memory.probes = list(hello["probes"])
        self._memory.probes_due = True

    def new_segment(self) -> None:
        """Write again whatever rows refer to; call between intervals."""
        self._memory.new_segment()

    def settle(self, seconds: float) -> None:
        """Give facts that are still being looked for this long; call before the last rows."""
        self._memory.aside.settle(seconds)

    def rows(self, frames: Iterable[Frame], tick: Mapping[str, Any]) -> Rows:
        """Return table -> rows of the interval that ``tick`` ends.

        A frame that cannot be read is left out and counted as a loss.
        """
        interval = _Interval(self._memory, tick)
        interval.take(list(frames))
        return interval.rows


class _Memory:
    """What outlives an interval."""

    def __init__(self, clock: Clock, proc_root: Path, hello: Mapping[str, Any]) -> None:
        root = proc_root.parent
        read = ProcReader(proc_root)
        self.clock = clock
        self.end_ns = int(hello["mono_ns"])
        self.losses: Counter[str] = Counter()
        self.overhead: dict[str, float] = {}
        self.probes: list[Mapping[str, Any]] = []
        self.probes_due = True
        self.symbols = KernelSymbols(proc_root)
        self.mounts = Mounts(proc_root)
        self.disks = Disks(root / "sys")
        self.cgroups = Cgroups(root / "sys/fs/cgroup")
        self.aside = Aside()
        self.watch = Watch(
            proc_root,
            Exports(root / "var/lib/nfs/etab", self.aside),
            Reading.of_json(hello.get("there", {})),
        )
        self.programs = Programs(proc_root, self.aside)
        self.peers = Peers(proc_root, self.aside)
        self.leases = Leases(proc_root, self.aside)
        self.helpers = Helpers(proc_root, self.aside)
        self.of_helpers: set[int] = set()  # stacks that wait for one
        self.surroundings = Surroundings(
            root / "var/log", read, self.aside, command_lines=bool(hello.get("command_lines"))
        )
        self.processes = ProcessTable(read, self.surroundings.complete)
        self.stacks = Stacks()
        self.listeners_written: dict[Listener, Row] = {}
        self.reading: samples.Reading | None = None
        self._names: dict[int, str] = {}
        self._owners: dict[int, str] = {}  # of foreign code, by where it begins
        self._places: dict[tuple[int, int, int], Place] = {}  # of this interval
        self.look = Lookups(
            name=self._names.get,
            stack=self.stacks.column,
            place=self._place,
            device=self.disks.device,
            disk=self.disks.below,
            comm=self.processes.comm,
            owner=self._owner,
        )
        if "client" in hello["sides"]:
            self.new_interval(self.end_ns)
            self.mounts.discover()

    def new_interval(self, end_ns: int) -> None:
        begin_ns, self.end_ns = self.end_ns, end_ns
        self.mounts.new_interval(begin_ns, end_ns)
        self._places.clear()
        self.cgroups.new_interval()
        self.surroundings.new_interval()

    def _place(self, dev: int, pid: int, start_ns: int) -> Place:
        if not dev:
            return NOWHERE
        key = (dev, pid, start_ns)
        if key not in self._places:
            pod = self.processes.pod_uid(pid, start_ns) if pid else None
            self._places[key] = self.mounts.place(dev, pid, pod)
        return self._places[key]

    def _owner(self, begin: int) -> str | None:
        text = self._owners.get(begin)
        owner = owner_of(text)
        if owner is not None and owner.program is not None:
            self.programs.want(owner.program)
        return text

    def new_segment(self) -> None:
        self.stacks.new_segment()
        self.processes.new_segment()
        self.listeners_written.clear()
        self.probes_due = True

    def lacks_probes_of(self, module: str) -> bool:
        """Return whether probes are missing because this module was not there."""
        reason = f"no BTF for module {module} "
        return any(reason in (probe.get("reason") or "") for probe in self.probes)

    def define(self, kind: int, payload: bytes) -> None:
        """Take in a frame of ``_DEFINITIONS``."""
        if kind == wire.PROCS:
            for start_ns, tgid, _, comm, exe, group, uid, ppid, kthread, _ in tuples(
                payload, _PROCS
            ):
                cgroup = self.cgroups.path(group)
                noted = Facts(
                    comm=_c_string(comm),
                    exe=_c_string(exe),
                    uid=uid,
                    ppid=ppid,
                    cgroup=cgroup,
                    container=container_id(cgroup),
                    pod_uid=pod_uid(cgroup),
                    kthread=bool(kthread),
                )
                self.processes.learn(tgid, start_ns, noted)
        elif kind in (wire.NAMES, wire.OWNERS):
            known = self._names if kind == wire.NAMES else self._owners
            known.update((int(key), clean(name)) for key, name in json.loads(payload).items())
        else:
            self.symbols.refresh()
            for key, addresses in json.loads(payload).items():
                asleep = int(key) >= FIRST_SLEEPER
                frames = self.symbols.frames(addresses, asleep=asleep)
                self.stacks.define(int(key), frames)
                if WAITED_FOR in frames:
                    self.of_helpers.add(int(key))


class _Interval:
    """The rows of one interval while they are being made."""

    def __init__(self, memory: _Memory, tick: Mapping[str, Any]) -> None:
        self.rows: Rows = {table.name: [] for table in TABLES}
        self._memory = memory
        self._tick = tick
        self._now_ns = int(tick["mono_ns"])
        self._ts_us = memory.clock.wall_us(self._now_ns)
        self._blocked: Counter[int] = Counter()  # fanotify group -> threads waiting for it
        self._listeners: dict[Listener, Row] = {}
        self._bad = 0

    def take(self, frames: list[Frame]) -> None:
        """Make the rows of all frames and of what they refer to."""
        take: dict[int, Callable[[bytes], None]] = {
            **{kind: partial(self._memory.define, kind) for kind in _DEFINITIONS},
            wire.OPS: self._operations,
            wire.RPCS: self._rpcs,
            wire.LATENCY: self._latency,
            wire.WAITS: self._wait_sums,
            wire.COUNTS: self._counts,
            wire.USES: self._uses,
            wire.KMSG: self._kmsg,
            wire.NOTE: self._note,
            wire.SAMPLE: self._sample,
            wire.LISTENERS: self._listener_totals,
            wire.MARKS: self._marks,
            wire.HOLDERS: self._holders,
            wire.ASKED: self._asked,
        }
        self._memory.new_interval(self._now_ns)
        for kind, payload in sorted(frames, key=_turn):
            if kind in take:
                self._guarded(take[kind], payload)
        self._changes()
        self._account()
        self._references()

    def _guarded(self, take: Callable[[bytes], None], payload: bytes) -> None:
        """Call ``take``; what it raises on bad data costs that frame alone."""
        try:
            take(payload)
        except (BadFrame, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self._bad += 1

    def _add(self, table: str, rows: Iterable[Row]) -> None:
        self.rows[table] += rows

    def _operations(self, payload: bytes) -> None:
        for rec in _valid(list(records(payload, OpRec))):
            if rec.flags & OP_IN_FLIGHT and rec.off_ns and rec.group:
                self._blocked[rec.group] += 1
            for proc in (rec.waker, *(w.waker for w in rec.waits[: min(rec.nwaits, MAX_WAITS)])):
                if proc.tgid:
                    self._memory.processes.watch(proc.tgid, proc.start_ns)
            if rec.flags & OP_IN_FLIGHT and rec.off_ns and rec.off_stack in self._memory.of_helpers:
                self._memory.helpers.want(None)
            if rec.flags & OP_ANSWER:
                self._memory.peers.want((rec.proc.tgid, rec.proc.start_ns))
            at = (self._now_ns, self._ts_us, self._memory.look)
            self._add("operations", [operation_row(rec, *at)])
            self._add("waits", wait_rows(rec, *at))

    def _rpcs(self, payload: bytes) -> None:
        for rec in _valid(list(records(payload, RpcRec))):
            if rec.writer.tgid:
                self._memory.processes.watch(rec.writer.tgid, rec.writer.start_ns)
            row = rpc_row(rec, self._now_ns, self._ts_us, self._memory.look)
            self._add("operations", [row])

    def _latency(self, payload: bytes) -> None:
        self._add("latency", latency_rows(payload, self._ts_us, self._memory.look))

    def _wait_sums(self, payload: bytes) -> None:
        rows = wait_sum_rows(payload, self._now_ns, self._ts_us, self._memory.look)
        self._add("waits", rows)

    def _counts(self, payload: bytes) -> None:
        rows = count_rows(payload, self._ts_us, self._memory.look)
        self._add("counts", rows)
        # NFSv3's JUKEBOX has the same number.
        if any(row["side"] == "server" and row["status"] == NFS4ERR_DELAY for row in rows):
            self._memory.leases.want(None)

    def _uses(self, payload: bytes) -> None:
        disks = disk_rows(payload, self._ts_us, self._memory.look)
        self._add("disk_use", (row for row in disks if row["disk"]))
        journals = journal_rows(payload, self._ts_us, self._memory.look)
        self._add("journal_use", (row for row in journals if row["device"]))
        self._add("memory_use", memory_rows(payload, self._ts_us, self._memory.look))

    def _kmsg(self, payload: bytes) -> None:
        line = json.loads(payload)
        ts_us = self._memory.clock.wall_us(int(line["mono_us"]) * 1000)
        self._add("events", [event(ts_us, "kmsg", "kernel", line["text"])])

    def _note(self, payload: bytes) -> None:
        note = json.loads(payload)
        ts_us = self._memory.clock.wall_us(int(note["mono_ns"]))
        self._add("events", [event(ts_us, "note", note["name"], note["text"])])

    def _sample(self, payload: bytes) -> None:
        sample = json.loads(payload)
        new = samples.parse(int(sample["mono_ns"]), sample["files"], sample.get("nfsd"))
        if self._memory.reading is not None:
            ts_us = self._memory.clock.wall_us(new.mono_ns)
            figures = samples.figures(self._memory.reading, new)
            self._add("samples", ({"ts": ts_us} | f._asdict() for f in figures))
        self._memory.reading = new

    def _listener_totals(self, payload: bytes) -> None:
        for group, start_ns, tgid, _, reads, writes, _, _ in tuples(payload, _LISTENERS):
            row = self._listener(group_name(group), tgid, start_ns)
            row |= {"reads": reads, "writes": writes, "blocked": self._blocked[group] or None}

    def _holders(self, payload: bytes) -> None:
        for start_ns, tgid, _, since_ns, until_ns, dev in tuples(payload, _HOLDERS):
            row = self._holder(HOLDS[1], tgid, start_ns)
            row |= {
                "mount": self._memory.look.place(dev, tgid, start_ns).point,
                "since_mono_us": since_ns // 1000,
                "until_mono_us": until_ns // 1000 or None,
            }
            self._add("holders", [row])

    def _asked(self, payload: bytes) -> None:
        for each in json.loads(payload):
            row = self._holder(each["kind"], each["pid"], each["start_ns"])
            self._add("holders", [row | {"what": clean(each["what"])}])

    def _holder(self, kind: str, pid: int, start_ns: int) -> Row:
        self._memory.processes.watch(pid, start_ns)
        return {"ts": self._ts_us, "kind": kind, "pid": pid, "start_us": start_ns // 1000}

    def _marks(self, payload: bytes) -> None:
        for mark in json.loads(payload):
            group = mark["group"]
            row = self._listener(group_name(group or 0), mark["pid"], mark["start_ns"])
            row["marks"] = clean(mark["marks"]) or None
            if mark["blocked"] is not None:
                row["blocked"] = mark["blocked"]

    def _listener(self, group: str | None, pid: int, start_ns: int) -> Row:
        self._memory.processes.watch(pid, start_ns)
        key = (group, pid, start_ns // 1000)
        return self._listeners.setdefault(
            key, {"fanotify_group": group, "pid": pid, "start_us": start_ns // 1000}
        )

    def _changes(self) -> None:
        """Add what has come and gone on the host, and who was found to hold what."""
        for program, pid, start_ns in self._memory.programs.found():
            row = self._holder("program", pid, start_ns)
            self._add("holders", [row | {"what": str(program)}])
        for (asker, asker_ns), (pid, start_ns), only in self._memory.peers.found():
            row = self._holder("only-peer" if only else "peer", pid, start_ns)
            self._add("holders", [row | {"what": f"{asker} {asker_ns // 1000}"}])
        for pid, start_ns in self._memory.leases.found():
            self._add("holders", [self._holder("lease", pid, start_ns)])
        for pid, start_ns in self._memory.helpers.found():
            self._add("holders", [self._holder("channel", pid, start_ns) | {"what": "key"}])
        for name, text in self._memory.watch.changes():
            action, _, what = text.partition(": ")
            late = action == "loaded" and self._memory.lacks_probes_of(what)
            hint = "; its probes are not attached, record again to have them" if late else ""
            # We may be late: it is so now, and was not when this interval ended.
            ts_us = self._memory.clock.wall_us(time.monotonic_ns())
            self._add("events", [event(ts_us, "note", name, text + hint)])

    def _account(self) -> None:
        """Add the losses and the overhead of the interval."""
        tick = self._tick
        losses = Counter({clean(name): int(count) for name, count in tick["losses"].items()})
        losses[BAD_FRAME] += self._bad
        losses = +losses
        self._memory.losses += losses
        self._add("events", (event(self._ts_us, "loss", n, None, c) for n, c in losses.items()))
        merged = int(tick.get("intervals", 1))
        if merged > 1:
            text = "intervals that the writer took as one, being late; their sums are exact"
            self._add("events", [event(self._ts_us, "note", "merged", text, merged)])
        overhead = {clean(n): float(value) for n, value in tick["overhead"].items()}
        self._memory.overhead |= overhead
        self._add(
            "samples",
            (
                {"ts": self._ts_us, "scope": SCOPE_SELF, "metric": metric, "value": value}
                for metric, value in overhead.items()
            ),
        )

    def _references(self) -> None:
        """Add the rows that the others refer to."""
        memory, ts_us = self._memory, self._ts_us
        for key, row in self._listeners.items():
            if memory.listeners_written.get(key) != row:
                memory.listeners_written[key] = row
                self._add("listeners", [{"ts": ts_us} | row])
        self._add(
            "stacks",
            ({"ts": ts_us, "stack_id": i, "frames": text} for i, text in memory.stacks.unwritten()),
        )
        self._add(
            "processes",
            (
                {
                    "ts": ts_us,
                    "pid": pid,
                    "start_us": start_ns // 1000,
                    "start_time": memory.clock.boot_wall_us(start_ns) if start_ns else None,
                }
                | facts.row()
                for pid, start_ns, facts in memory.processes.changed()
            ),
        )
        if memory.probes_due:
            memory.probes_due = False
            self._add("probes", (_probe_row(ts_us, probe) for probe in memory.probes))


def _turn(frame: Frame) -> int:
    """Return the place of a frame among those of its interval."""
    return 0 if frame[0] in _DEFINITIONS else 2 if frame[0] in _LAST else 1


def _valid(found: list[Any]) -> list[Any]:
    """Return the records without in-flight ones of operations that ended in the same interval."""
    ended = {rec.op_id for rec in found if not rec.flags & OP_IN_FLIGHT}
    return [rec for rec in found if not (rec.flags & OP_IN_FLIGHT and rec.op_id in ended)]


def _probe_row(ts_us: int, probe: Mapping[str, Any]) -> Row:
    texts = {
        key: None if probe.get(key) is None else clean(str(probe[key]))
        for key in ("target", "reason", "lost")
    }
    return texts | {
        "ts": ts_us,
        "probe": clean(str(probe.get("probe", ""))),
        "purpose": clean(str(probe.get("purpose", ""))),
        "attached": bool(probe.get("attached")),
    }


def _c_string(raw: bytes) -> str | None:
    return decoded(raw.partition(b"\0")[0]) or None
