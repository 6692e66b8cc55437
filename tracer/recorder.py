"""One recording: start the children, attach, drain until told to stop, end cleanly."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracer import __version__, foreign, host, in_flight, interrupts, seed, shortage, wire
from tracer.children import END_SIGNALS, Compiler, Loaded, Writer
from tracer.clocks import cpu_ns, read_clocks_closely
from tracer.collector import Collector
from tracer.errors import Exit, NfsblameError
from tracer.foreign import ForeignCode
from tracer.interrupts import Interrupts
from tracer.kernel import bpf
from tracer.kernel.memory import KernelMemory
from tracer.kernel.on_demand import OnDemand
from tracer.losses import MISSED_CALL, MISSED_EVENT
from tracer.outbox import Interval, Outbox
from tracer.procfs import changes
from tracer.procfs.symbols import Extent, extents_of
from tracer.records import RING_BYTES
from tracer.shortage import Shortage
from tracer.thread_table import ThreadTable

# Operations are sent one by one from a tenth of the threshold on: those below it
# tell what the threads were doing while a stalled one waited in the queue.
CONTEXT_SHARE: Final = 10
LEAST_CUT_NS: Final = 1_000_000

# How often in an interval the ring is looked at: slow operations may come in a burst.
_LOOKS: Final = 4
# How long a writer at work may take to seal; one that does nothing, for its disk hangs, is left.
_SEAL_S: Final = 40.0
_HANGS_S: Final = 10.0
_FIRST_NICE: Final = -20
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for."""

    output: Path
    sides: list[str]
    threshold_us: int
    interval_s: float
    duration_s: float | None
    max_size_bytes: int
    ready_file: Path | None
    command: list[str]
    command_lines: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a recording ended; ``writer_status`` is None if the writer hangs.

    ``merged_intervals`` were taken together with a later one, the writer being late.
    """

    reason: str
    sealed: bool
    writer_status: int | None
    merged_intervals: int = 0


class Recorder:
    """Runs one recording from start to end."""

    def __init__(self, settings: Settings, status: Callable[[Interval, float], None]) -> None:
        self._settings = settings
        self._status = status
        self._began = time.monotonic()
        self._links: list[int] = []
        # Of the links, by the loss that it is when one is not run.
        self._programs: dict[str, list[int]] = {MISSED_EVENT: [], MISSED_CALL: []}
        # What ends calls that began before us.
        self._for_stuck = OnDemand(())
        self._probes: list[dict[str, Any]] = []
        self._own_pids: list[int] = []

    def run(self) -> Ended:
        """Record until the duration is over or SIGINT, SIGTERM or SIGHUP comes.

        Raises NfsblameError if this kernel cannot be traced, or a signal comes before
        recording has begun; then nothing was written.
        """
        settings = self._settings
        wake = _signal_wakeup()
        compiling = Compiler(settings.sides)
        if not compiling.wait(wake):
            raise NfsblameError(
                "ended by a signal before recording began; nothing was written", Exit.INCOMPLETE
            )
        loaded = compiling.result()
        self._for_stuck = _on_demand(loaded, "on_sys_exit")
        for described in loaded.missing:
            self._note_probe(described, described["reason"])
        memory = self._memory(loaded)
        # Before there is anything to drain: it takes its time.
        extents = extents_of({*in_flight.SYMBOLS, *seed.SYMBOLS, *interrupts.SYMBOLS})
        symbols = {name: extent.begin for name, extent in extents.items()}
        sleepers = bpf.attach_iterator(_required(loaded, "iter"))
        collector = Collector(
            loaded.maps,
            memory,
            sleepers,
            self._programs,
            _foreign(loaded, extents),
            _shortage(loaded),
            settings.threshold_us * 1000,
            RING_BYTES,
            symbols,
        )
        ThreadTable(loaded.maps).make_room()
        self._attach(loaded)
        # Only now: until the probes are in, the processors are for the compiler.
        writer = Writer(settings.output, settings.max_size_bytes)
        self._exclude(loaded, writer.process.pid)
        collector.gather()
        self._look_back(loaded, memory, collector, symbols)
        first = collector.drain()
        outbox = Outbox(writer.fd)
        outbox.put_frame(wire.HELLO, json.dumps(self._hello()).encode())
        outbox.put(first)
        _lock_memory()
        # What takes so little may come first: the host may be short of CPUs.
        _set_nice(0, _FIRST_NICE)
        if settings.ready_file is not None:
            settings.ready_file.touch()
        reason = self._loop(collector, outbox, wake)
        return self._end(collector, outbox, writer, reason)

    # Start

    def _attach(self, loaded: Loaded) -> None:
        self._exclude(loaded, os.getpid())
        cut_ns = max(self._settings.threshold_us * 1000 // CONTEXT_SHARE, LEAST_CUT_NS)
        bpf.update(loaded.maps["cut"], struct.pack("<I", 0), struct.pack("<Q", cut_ns))
        # Exits first, and no entry without its exit: a call seen to begin must be seen to end.
        lacking = {missing["program"] for missing in loaded.missing}
        for described, fd in sorted(loaded.programs, key=lambda p: not _is_exit(p[0]["program"])):
            program = described["program"]
            if program.endswith("_enter") and program.removesuffix("enter") + "exit" in lacking:
                reason: str | None = "its exit cannot be traced"
            else:
                reason = self._attach_one(described, fd)
            if reason is not None:
                lacking.add(program)
            self._note_probe(described, reason)

    def _attach_one(self, described: dict[str, Any], fd: int) -> str | None:
        """Attach a program; return why it cannot be, None if it is."""
        if described["kind"] in ("run", "iter"):
            return None
        name = described["target"] if described["kind"] == "raw_tp" else None
        try:
            link = bpf.attach_raw_tracepoint(fd, name)
        except OSError as error:
            return str(error)
        if described["on_demand"]:
            os.close(link)
            return None
        self._links.append(link)
        of_function = described["kind"] in ("fentry", "fexit")
        self._programs[MISSED_CALL if of_function else MISSED_EVENT].append(fd)
        return None

    def _exclude(self, loaded: Loaded, pid: int) -> None:
        """Keep one of our own processes out of what is traced."""
        self._own_pids.append(pid)
        bpf.update(loaded.maps["own"], struct.pack("<I", pid), b"\1")

    def _note_probe(self, described: dict[str, Any], reason: str | None) -> None:
        if reason is not None and described["required"]:
            raise NfsblameError(
                f"cannot attach {described['kind']} {described['target']}: {reason}. "
                f"Without it nfsblame cannot see {described['lost']}; "
                "'nfsblame doctor' says what this host lacks",
                Exit.KERNEL,
            )
        self._probes.append(
            {
                "probe": described["program"],
                "purpose": described["purpose"],
                "attached": reason is None,
                "target": f"{described['kind']}:{described['target']}",
                "reason": reason,
                "lost": described["lost"] if reason is not None else None,
            }
        )

    def _memory(self, loaded: Loaded) -> KernelMemory:
        return KernelMemory(_required(loaded, "run"), loaded.maps["peeked"], loaded.layout)

    def _hello(self) -> dict[str, Any]:
        settings = self._settings
        clocks = read_clocks_closely()
        return {
            "host": host.host_name(),
            "kernel": host.kernel_release(),
            "boot_id": host.boot_id(),
            "mono_ns": clocks.mono_ns,
            "wall_ns": clocks.wall_ns,
            "boot_minus_mono_ns": clocks.boot_ns - clocks.mono_ns,
            "sides": settings.sides,
            "threshold_us": settings.threshold_us,
            "interval_s": settings.interval_s,
            "command": settings.command,
            "command_lines": settings.command_lines,
            "version": __version__,
            "addresses": host.addresses(),
            "nfsd_threads": host.nfsd_threads(),
            "own_pids": self._own_pids,
            "probes": self._probes,
            "there": changes.look(Path("/proc")).to_json(),
            "start_s": round(time.monotonic() - self._began, 3),
        }

    def _look_back(
        self,
        loaded: Loaded,
        memory: KernelMemory,
        collector: Collector,
        symbols: Mapping[str, int],
    ) -> None:
        """Take in what was stuck before any probe was attached."""
        try:
            found = seed.Seeder(memory, self._settings.sides, symbols).look()
        except KeyError as error:
            self._note_probe(seed.LOOK, f"this kernel's types lack {error.args[0]}")
            return
        collector.begin_with(seed.insert(found, loaded.maps))
        if any(op.active for op in found.threads.values()):
            # Every call of the host pays for it.
            self._for_stuck.attach()
        if found.lacks_packets:
            self._note_probe(seed.LOOK_AT_PACKETS, "no type information of nfnetlink_queue")
        if found.marks:
            collector.add_fact(wire.MARKS, found.marks)
        if found.asked:
            collector.add_fact(wire.ASKED, found.asked)

    # Run

    def _loop(self, collector: Collector, outbox: Outbox, wake: int) -> str:
        settings = self._settings
        selector = selectors.DefaultSelector()
        selector.register(wake, selectors.EVENT_READ)
        room = False  # whether we wait for room in the pipe
        end = None if settings.duration_s is None else time.monotonic() + settings.duration_s
        due = time.monotonic() + settings.interval_s
        while True:
            now = time.monotonic()
            until = min(due, now + settings.interval_s / _LOOKS)
            if end is not None:
                until = min(until, end)
            if outbox.behind != room:
                room = outbox.behind
                if room:
                    selector.register(outbox.fd, selectors.EVENT_WRITE)
                else:
                    selector.unregister(outbox.fd)
            ready = {key.fd for key, _ in selector.select(max(0.0, until - now))}
            if wake in ready:
                return "signal"
            if ready:
                outbox.flush()
            now = time.monotonic()
            if now >= due:
                interval = collector.drain()
                outbox.put(interval)
                if not collector.stuck_before:
                    self._for_stuck.detach()
                self._status(interval, now - self._began)
                # A late drain does not make the next ones come in a burst.
                due = max(due + settings.interval_s, now)
            else:
                collector.gather()
            if end is not None and now >= end:
                return "duration"
            if outbox.closed:
                return "writer gone"

    # End

    def _end(self, collector: Collector, outbox: Outbox, writer: Writer, reason: str) -> Ended:
        # From here on it is waited for.
        _set_nice(writer.process.pid, _FIRST_NICE)
        last = collector.drain()
        self._for_stuck.detach()
        collector.stop()
        outbox.put(last)
        outbox.put_frame(
            wire.END, json.dumps({"mono_ns": time.monotonic_ns(), "reason": reason}).encode()
        )
        # Meanwhile the writer seals: on a host short of CPUs each takes half a second.
        for link in self._links:
            os.close(link)
            outbox.flush()
        left, status = _let_seal(outbox, writer.process)
        _set_nice(0, 0)
        return Ended(reason, status == 0 and not left, status, outbox.merged_intervals)


def _let_seal(outbox: Outbox, writer: subprocess.Popen[bytes]) -> tuple[bool, int | None]:
    """Give the writer what is left and its time; return whether not all was taken, its status.

    The status is None for one that is left: it may end when its disk does no longer hang. On a
    host short of CPUs it has perhaps not even begun, and is not to be taken for one that hangs.
    """
    began = worked = time.monotonic()
    spent_ns = 0
    while (status := writer.poll()) is None:
        now, spends_ns = time.monotonic(), cpu_ns(writer.pid)
        if spends_ns > spent_ns:
            worked, spent_ns = now, spends_ns
        if now - worked > _HANGS_S or now - began > _SEAL_S:
            break
        outbox.flush()
        if not outbox.behind:
            outbox.close()
        # For room in the pipe, for CPU time spent and for the end: nothing wakes us for all three.
        time.sleep(0.01)
    left = outbox.behind
    outbox.close()
    return left, status


def _is_exit(program: str) -> bool:
    return program.endswith("_exit")


def _on_demand(loaded: Loaded, *names: str) -> OnDemand:
    """Return programs to be attached when they are needed; none, if one could not be loaded."""
    found = [(fd, one["target"]) for one, fd in loaded.programs if one["program"] in names]
    return OnDemand(found if len(found) == len(names) else ())


def _required(loaded: Loaded, kind: str) -> int:
    """Return the fd of the one program of a kind that is never missing."""
    return next(fd for described, fd in loaded.programs if described["kind"] == kind)


def _foreign(loaded: Loaded, extents: Mapping[str, Extent]) -> ForeignCode:
    own = [bpf.program_id(fd) for _, fd in loaded.programs]
    sampling = _on_demand(loaded, foreign.PROGRAM)
    return ForeignCode(loaded.maps["foreign"], sampling, own, Interrupts(extents))


def _shortage(loaded: Loaded) -> Shortage:
    return Shortage(loaded.maps["shortage"], _on_demand(loaded, *shortage.PROGRAMS))


def _signal_wakeup() -> int:
    """Return an fd that becomes readable when a signal to end arrives."""
    ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for number in END_SIGNALS:
        # nohup ignores SIGHUP, and means it. A shell's & ignores SIGINT, and does not.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return ours


def _set_nice(pid: int, nice: int) -> None:
    """Set a process's nice value; pid 0 is ourselves."""
    with suppress(OSError):  # a container may not let us, or it has ended
        os.setpriority(os.PRIO_PROCESS, pid, nice)


def _lock_memory() -> None:
    """Keep our pages in memory: nothing may have to be read from a disk that hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(ValueError, OSError):  # mlockall then says whether it was needed
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        print(
            f"nfsblame: cannot lock memory ({os.strerror(ctypes.get_errno())}); going on, "
            "but a host out of memory may slow the recording",
            file=sys.stderr,
        )
