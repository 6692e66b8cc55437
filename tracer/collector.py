"""Turns what lies in the maps into intervals. Opens no file once it runs.

Every descriptor is made before the first drain: the host's filesystems may all
hang behind the agent under observation, and the collector must go on.
"""

from __future__ import annotations

import ctypes
import json
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from tracer import wire
from tracer.clocks import ClockWatch
from tracer.crew import Crew
from tracer.foreign import ForeignCode
from tracer.host import possible_processors
from tracer.in_flight import InFlight
from tracer.kernel import bpf
from tracer.kernel.memory import KernelMemory
from tracer.losses import IN_KERNEL
from tracer.outbox import Interval
from tracer.procfs.held_open import Exported, KernelLog, Samples
from tracer.record_offsets import U32, U64, At
from tracer.records import (
    FIRST_CROWDED,
    MAP_SIZES,
    MAX_FRAMES,
    CountKey,
    HolderRec,
    LatencyRec,
    ListenerRec,
    OpRec,
    ProcId,
    ProcRec,
    UseKey,
    UseVal,
    WaitKey,
    WaitVal,
)
from tracer.shortage import Shortage

# So full, the ring may run over before the interval is over.
_NEARLY_FULL: Final = 0.25


class _Pair(NamedTuple):
    """Two maps of one form, of which one is written to while the other is drained."""

    kind: int
    name: str
    key: type[ctypes.Structure | ctypes.c_uint64]
    value: type[ctypes.Structure | ctypes.c_uint64]


_PAIRS: Final = (
    _Pair(wire.LATENCY, "latency", ctypes.c_uint64, LatencyRec),
    _Pair(wire.WAITS, "waits", WaitKey, WaitVal),
    _Pair(wire.COUNTS, "counts", CountKey, ctypes.c_uint64),
    _Pair(wire.USES, "uses", UseKey, UseVal),
)


@dataclass(slots=True)
class _Seen:
    """Names, stacks and processes referred to by the records of this interval."""

    names: set[int] = field(default_factory=set)
    stacks: set[int] = field(default_factory=set)
    processes: set[bytes] = field(default_factory=set)


class Collector:
    """Drains the maps of one recording."""

    def __init__(
        self,
        maps: Mapping[str, int],
        memory: KernelMemory,
        sleepers: int,
        programs: Mapping[str, Sequence[int]],
        foreign: ForeignCode,
        shortage: Shortage,
        threshold_ns: int,
        ring_bytes: int,
        symbols: Mapping[str, int],
    ) -> None:
        """``symbols``: the addresses of tracer.in_flight.SYMBOLS."""
        self._maps = maps
        self._memory = memory
        self._programs = programs
        self._foreign = foreign
        self._shortage = shortage
        self._missed = dict.fromkeys(programs, 0)
        self._half = 1
        self._sums = {pair.kind: self._readers(pair) for pair in _PAIRS}
        self._in_flight = InFlight(maps, memory, sleepers, threshold_ns, symbols)
        self._listeners = bpf.BatchReader(maps["listeners"], 8, ctypes.sizeof(ListenerRec))
        self._frozen = bpf.BatchReader(maps["frozen"], 8, ctypes.sizeof(HolderRec))
        self._ring = bpf.RingReader(maps["ring"], ring_bytes)
        self._gathered: list[bytes] = []  # from the ring, since the last drain
        self._samples = Samples()
        self._crew = Crew(maps)
        self._kernel_log = KernelLog()
        self._losses = [0] * len(IN_KERNEL)
        self._known_stacks: set[int] = set()
        self._known_processes: dict[bytes, None] = {}  # the oldest first
        self._known_names: dict[int, str] = {}
        self._facts: list[tuple[int, bytes]] = []
        self._cpu_s = time.process_time()
        self._processors = possible_processors()
        self._exports = Exported()
        self._exported: frozenset[int] = frozenset()
        self._clocks = ClockWatch()

        self._follow_exports()
        self._swap()

    def _readers(self, pair: _Pair) -> tuple[bpf.BatchReader, bpf.BatchReader]:
        sizes = ctypes.sizeof(pair.key), ctypes.sizeof(pair.value)
        return (
            bpf.BatchReader(self._maps[f"{pair.name}0"], *sizes),
            bpf.BatchReader(self._maps[f"{pair.name}1"], *sizes),
        )

    def add_fact(self, kind: int, payload: Any) -> None:
        """Add a JSON frame to the next interval."""
        self._facts.append((kind, json.dumps(payload).encode()))

    def gather(self) -> None:
        """Make room in the ring if there is little, while the interval goes on."""
        if self._ring.used > _NEARLY_FULL:
            self._gathered += self._ring.read()

    def drain(self) -> Interval:
        """Return all that happened since the last drain."""
        half = self._swap()
        self._follow_exports()
        self._follow_foreign()
        seen = _Seen()
        interval = Interval(tick={}, facts=self._facts)
        self._facts = []
        for kind, pair in self._sums.items():
            interval.sums[kind] = self._drain_sums(kind, pair[half], seen)
        self._drain_ring(interval, seen)
        self.gather()
        now_ns = time.monotonic_ns()
        self._shortage.follow(now_ns)
        self._look_at_what_goes_on(interval, now_ns, seen)
        listeners = b"".join(self._drain_listeners(seen))
        if listeners:
            interval.facts.append((wire.LISTENERS, listeners))
        self.gather()
        interval.facts += self._new_facts(seen)
        interval.facts += self._messages()
        for text in self._clocks.changes():
            note = {"mono_ns": now_ns, "name": "clock", "text": text}
            interval.facts.append((wire.NOTE, json.dumps(note).encode()))
        sample = {
            "mono_ns": now_ns,
            "files": self._samples.read(),
            "nfsd": self._crew.figures(now_ns),
        }
        interval.facts.append((wire.SAMPLE, json.dumps(sample).encode()))
        interval.tick = {
            "mono_ns": now_ns,
            "intervals": 1,
            "losses": self._new_losses(),
            "overhead": self._overhead(),
        }
        return interval

    def begin_with(self, at_work: int) -> None:
        """Take note of how many nfsd threads were at work when recording began."""
        self._crew.were_at_work(at_work)

    @property
    def stuck_before(self) -> int:
        """How many calls that began before recording had not ended at the last drain."""
        return self._in_flight.stuck_before

    def stop(self) -> None:
        """Detach what was attached on demand; nothing more is drained."""
        self._foreign.close()
        self._shortage.close()

    def _swap(self) -> int:
        """Let the programs write to the other half of each pair; return the one to drain."""
        half = self._half
        self._half ^= 1
        for pair in _PAIRS:
            fd = self._maps[f"{pair.name}{self._half}"]
            bpf.update(self._maps[pair.name], U32.pack(0), U32.pack(fd))
        return half

    def _follow_exports(self) -> None:
        """Tell the programs which filesystems are exported now."""
        devices = self._exports.devices()
        if devices is None:
            return
        for dev in devices - self._exported:
            bpf.update(self._maps["exported"], U32.pack(dev), b"\1")
        for dev in self._exported - devices:
            bpf.delete(self._maps["exported"], U32.pack(dev))
        bits = sum({1 << dev % 64 for dev in devices})
        bpf.update(self._maps["exported_bits"], U32.pack(0), U64.pack(bits))
        self._exported = devices

    def _follow_foreign(self) -> None:
        """Tell the programs where code lies that is not the kernel's, and the writer whose."""
        owners = self._foreign.follow()
        if owners:
            self.add_fact(
                wire.OWNERS, {str(begin): owner.text() for begin, owner in owners.items()}
            )
        for text in self._foreign.notes:
            note = {"mono_ns": time.monotonic_ns(), "name": "foreign", "text": text}
            self.add_fact(wire.NOTE, note)
        self._foreign.notes.clear()

    # What the maps hold

    def _drain_sums(self, kind: int, reader: bpf.BatchReader, seen: _Seen) -> bytes:
        parts: list[bytes] = []
        for key, value in reader.read(delete=True):
            # The key of a latency is a hash: the real one is with the value.
            row = value if kind == wire.LATENCY else key + value
            parts.append(row)
            if kind != wire.USES:
                seen.names.add(U64.unpack_from(row)[0])
            if kind == wire.COUNTS:
                continue
            seen.processes.add(row[8:24])
            if kind == wire.WAITS:
                seen.stacks.update(struct.unpack_from("<ii", row, WaitKey.stack.offset))
        return b"".join(parts)

    def _drain_ring(self, interval: Interval, seen: _Seen) -> None:
        ops: list[bytes] = []
        rpcs: list[bytes] = []
        holders: list[bytes] = []
        gathered, self._gathered = self._gathered, []
        for record in (*gathered, *self._ring.read()):
            if len(record) == ctypes.sizeof(HolderRec):
                holders.append(record)
            elif len(record) == ctypes.sizeof(OpRec):
                self._see_op(record, seen)
                ops.append(record)
            else:
                self._see_rpc(record, seen)
                rpcs.append(record)
        holders += (record for _, record in self._frozen.read())
        for record in holders:
            seen.processes.add(record[: ctypes.sizeof(ProcId)])
        if holders:
            interval.facts.append((wire.HOLDERS, b"".join(holders)))
        if ops:
            interval.finished.append((wire.OPS, b"".join(ops)))
        if rpcs:
            interval.finished.append((wire.RPCS, b"".join(rpcs)))

    def _look_at_what_goes_on(self, interval: Interval, now_ns: int, seen: _Seen) -> None:
        ops = list(self._in_flight.operations(now_ns))
        for record in ops:
            self._see_op(record, seen)
        rpcs = list(self._in_flight.rpcs(now_ns))
        for record in rpcs:
            self._see_rpc(record, seen)
        interval.in_flight[wire.OPS] = b"".join([*ops, *self._in_flight.packets(now_ns)])
        interval.in_flight[wire.RPCS] = b"".join(rpcs)
        for marks in self._in_flight.listeners:
            self.add_fact(wire.MARKS, marks)
        self._in_flight.listeners.clear()

    def _drain_listeners(self, seen: _Seen) -> Iterable[bytes]:
        for group, record in self._listeners.read():
            self._in_flight.know(U64.unpack(group)[0])
            seen.processes.add(record[: ctypes.sizeof(ProcId)])
            yield group + record

    def _see_op(self, record: bytes, seen: _Seen) -> None:
        for at in (At.op_name, At.op_nfs, At.op_longest):
            seen.names.add(U64.unpack_from(record, at)[0])
        seen.processes.add(record[At.op_proc : At.op_proc + 16])
        if U64.unpack_from(record, At.op_off)[0]:
            seen.stacks.add(struct.unpack_from("<i", record, At.op_off_stack)[0])
            seen.processes.add(record[At.op_waker : At.op_waker + 16])
            seen.stacks.add(struct.unpack_from("<i", record, At.op_waker_stack)[0])
        for i in range(U32.unpack_from(record, At.op_nwaits)[0]):
            at = At.op_waits + i * At.wait_size
            seen.stacks.add(struct.unpack_from("<i", record, at + At.wait_stack)[0])
            seen.stacks.add(struct.unpack_from("<i", record, at + At.wait_waker_stack)[0])
            waker = at + At.wait_waker
            seen.processes.add(record[waker : waker + 16])

    def _see_rpc(self, record: bytes, seen: _Seen) -> None:
        seen.names.add(U64.unpack_from(record, At.rpc_name)[0])
        for at in (At.rpc_proc, At.rpc_writer):
            seen.processes.add(record[at : at + 16])

    # What the records refer to, each once

    def _new_facts(self, seen: _Seen) -> list[tuple[int, bytes]]:
        facts: list[tuple[int, bytes]] = []
        names = self._names(seen.names)
        if names:
            facts.append((wire.NAMES, json.dumps(names).encode()))
        stacks = self._stacks(seen.stacks - self._known_stacks)
        if stacks:
            facts.append((wire.STACKS, json.dumps(stacks).encode()))
        processes = self._processes(seen.processes - self._known_processes.keys())
        if processes:
            facts.append((wire.PROCS, processes))
        return facts

    def _names(self, addresses: set[int]) -> dict[str, str]:
        names: dict[str, str] = {}
        for address in addresses:
            # Read each time: of a module that is not held another may lie there by now.
            # VFS calls have small numbers, not addresses. nfsd names its operations OP_*.
            text = self._memory.text(address) if address >= 1 << 32 else None
            if text and self._known_names.get(address) != text:
                self._known_names[address] = text
                names[str(address)] = text.removeprefix("OP_")
        return names

    def _stacks(self, identifiers: set[int]) -> dict[str, list[int]]:
        stacks: dict[str, list[int]] = {}
        for identifier in identifiers:
            self._known_stacks.add(identifier)
            if identifier < 0:
                continue
            name = "stacks" if identifier < FIRST_CROWDED else "more_stacks"
            value = bpf.lookup(self._maps[name], U32.pack(identifier), 8 * MAX_FRAMES)
            if value is not None:
                addresses = struct.unpack(f"<{MAX_FRAMES}Q", value)
                stacks[str(identifier)] = [address for address in addresses if address]
        return stacks

    def _processes(self, identities: set[bytes]) -> bytes:
        parts: list[bytes] = []
        for identity in identities:
            value = bpf.lookup(self._maps["procs"], identity, ctypes.sizeof(ProcRec))
            if value is not None:
                self._known_processes[identity] = None
                parts += (identity, value)
        # One that is forgotten is told once more.
        excess = len(self._known_processes) - MAP_SIZES["MAX_PROCS"]
        for identity in list(islice(self._known_processes, max(0, excess))):
            del self._known_processes[identity]
        return b"".join(parts)

    # The host beside it, and what this costs

    def _messages(self) -> Iterable[tuple[int, bytes]]:
        for message in self._kernel_log.read():
            yield wire.KMSG, json.dumps(message._asdict()).encode()

    def _new_losses(self) -> dict[str, int]:
        losses: dict[str, int] = {}
        for reason, name in enumerate(IN_KERNEL):
            value = bpf.lookup(self._maps["lost"], U32.pack(reason), 8 * self._processors)
            total = sum(struct.unpack(f"<{self._processors}Q", value)) if value else 0
            if total > self._losses[reason]:
                losses[name] = total - self._losses[reason]
                self._losses[reason] = total
        for name, programs in self._programs.items():
            missed = sum(map(bpf.missed_runs, programs))
            if missed > self._missed[name]:
                losses[name] = missed - self._missed[name]
                self._missed[name] = missed
        return losses

    def _overhead(self) -> dict[str, float]:
        spent_s = time.process_time()
        used_s, self._cpu_s = spent_s - self._cpu_s, spent_s
        return {"collector_cpu_us": round(used_s * 1e6)}
