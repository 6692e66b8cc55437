"""What was seen of each culprit directly: the waits that lead to it, once each, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final

from tracer.blame.charge import Culprit
from tracer.blame.intervals import queue_spans, spans
from tracer.blame.ledger import Ledger
from tracer.blame.names import name_of
from tracer.blame.signatures import bare
from tracer.blame.units import human_us, utc
from tracer.model import HostCapture, Listener, Process
from tracer.owners import owner_of

# A stack in words ends at the function that names the operation; more is noise.
_STACK_FRAMES: Final = 12
_FILES: Final = 3
# To be asked at all takes a moment each time; what is shorter than this part of a stall is that.
_MOMENT: Final = 10
_SCHEDULING: Final = ("schedule", "__schedule", "schedule_timeout")
_OPERATION_FRAMES: Final = ("nfsd4_", "nfsd3_", "nfsd_proc_", "vfs_", "do_sys_", "ksys_")

_STATES: Final = {
    "T": "process is stopped (state T)",
    "t": "process is stopped by a debugger (state t)",
    "Z": "process has ended and was not reaped (state Z)",
    "D": "process itself sleeps uninterruptibly (state D)",
}


@dataclass(slots=True)
class Direct:
    """Waits directly on one culprit, of all recorded operations of its host."""

    total_us: int = 0
    count: int = 0
    longest_us: int = 0
    in_flight: int = 0
    stacks: Counter[tuple[str, ...]] = field(default_factory=Counter)
    waker_stacks: set[tuple[str, ...]] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    operations: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    unread_us: int = 0
    on_threads: list[tuple[int, int]] = field(default_factory=list)
    threads: int | None = None
    packets: list[tuple[int, int]] = field(default_factory=list)
    ran_us: int = 0
    owners: set[str] = field(default_factory=set)

    def take(self, other: Direct) -> None:
        """Add what was seen of another culprit."""
        self.total_us += other.total_us
        self.count += other.count
        self.longest_us = max(self.longest_us, other.longest_us)
        self.in_flight += other.in_flight
        self.stacks += other.stacks
        self.waker_stacks |= other.waker_stacks
        self.groups |= other.groups
        self.operations += other.operations
        self.files += other.files
        self.unread_us += other.unread_us
        self.on_threads += other.on_threads
        self.threads = self.threads or other.threads
        self.packets += other.packets
        self.ran_us += other.ran_us
        self.owners |= other.owners


DirectWaits = dict[tuple[Culprit, str], Direct]


def taken_together(direct: DirectWaits, first: Callable[[Culprit], Culprit]) -> DirectWaits:
    """Return the waits by who stands for each culprit."""
    found: defaultdict[tuple[Culprit, str], Direct] = defaultdict(Direct)
    for (culprit, cause), waits in direct.items():
        found[first(culprit), cause].take(waits)
    return dict(found)


def direct_waits(ledger: Ledger) -> DirectWaits:
    """Return the waits on every proven culprit, keyed by culprit and cause."""
    found: defaultdict[tuple[Culprit, str], Direct] = defaultdict(Direct)
    for index, host in enumerate(ledger.hosts):
        least_us = host.capture.threshold_us / _MOMENT
        for op in host.capture.operations:
            for span in (*queue_spans(op), *spans(op)):
                charge = ledger.direct(index, op, span)
                culprit = charge.culprit or ledger.replies.receiver(index, op, span.wait)
                if culprit is None or (charge.cause == "fanotify" and span.total_us < least_us):
                    continue
                direct = found[culprit, charge.cause]
                wait = span.wait
                if wait.kind == "held":
                    direct.packets.append((span.start, span.end))
                else:
                    direct.total_us += span.total_us
                direct.count += max(1, wait.count)
                direct.longest_us = max(direct.longest_us, min(wait.max_us, wait.total_us))
                direct.longest_us = max(direct.longest_us, wait.total_us if wait.count <= 1 else 0)
                direct.in_flight += wait.in_flight
                direct.stacks[wait.stack] += span.total_us
                direct.operations[op.nfs_op or op.op] += span.total_us
                if wait.waker_stack and wait.waker == culprit.process:
                    direct.waker_stacks.add(wait.waker_stack)
                if wait.owner:
                    direct.owners.add(wait.owner)
                    direct.ran_us += span.total_us
                if wait.fanotify_group:
                    direct.groups.add(wait.fanotify_group)
                    direct.unread_us += min(wait.unread_us or 0, span.total_us)
                if op.file:
                    direct.files[op.file] += span.total_us
                if op.side == "server" and op.layer != "kernel":
                    direct.on_threads.append((span.start, span.end))
                    direct.threads = host.capture.nfsd_threads
    for direct in found.values():
        # Packets that were held at the same time held the connection once.
        direct.total_us += held_times(direct.packets, 1)[1]
    return dict(found)


def lines(
    capture: HostCapture | None, culprit: Culprit, cause: str, direct: Direct | None
) -> list[str]:
    """Return the evidence against a culprit, the strongest first."""
    out: list[str] = []
    if direct is not None:
        out.append(_waits_line(cause, direct))
        if cause == "fanotify" and direct.unread_us:
            asked_us = direct.total_us - direct.unread_us
            out.append(
                f"of it {human_us(direct.unread_us)} before the event was read, "
                f"{human_us(asked_us)} read and not answered"
            )
        if direct.files:
            out.append(_files_line(direct.files))
        if direct.in_flight:
            out.append(f"{_times(direct.in_flight, 'wait')} on it had not ended")
        out += _threads_lines(direct)
    if capture is not None and direct is not None:
        out += _program_lines(capture, direct.owners)
    if capture is None or culprit.process is None:
        return out
    process = capture.processes.get(culprit.process)
    if process is not None:
        out += _process_lines(process)
    if cause == "fanotify":
        out += _listener_lines(row for row in capture.listeners if row.process == culprit.process)
    return out


def stack_line(stack: tuple[str, ...]) -> str:
    """Return a stack in one line, innermost first, from the wait to the operation."""
    # Through which a function calls the programs that trace it, ours too: that says nothing.
    frames = [bare(frame) for frame in stack if not frame.startswith("bpf_trampoline_")]
    while frames and frames[0] in _SCHEDULING:
        frames.pop(0)
    shown: list[str] = []
    for frame in frames[:_STACK_FRAMES]:
        shown.append(frame)
        if frame.startswith(_OPERATION_FRAMES):
            break
    return " < ".join(shown)


def held_times(intervals: Iterable[tuple[int, int]], threads: int) -> tuple[int, int]:
    """Return the most waits under way at once, and for how long ``threads`` of them were."""
    edges = sorted(edge for a, b in intervals if b > a for edge in ((a, 1), (b, -1)))
    now = most = held = previous = 0
    for time, group in groupby(edges, key=itemgetter(0)):
        if now >= threads:
            held += time - previous
        now += sum(change for _, change in group)
        most, previous = max(most, now), time
    return most, held


def _waits_line(cause: str, direct: Direct) -> str:
    if cause == "cpu":
        return (
            f"had the CPU for {human_us(direct.total_us)} while NFS's threads could have run "
            f"there: {_times(direct.count, 'wait')}, the longest {human_us(direct.longest_us)}"
        )
    if direct.packets:
        return (
            f"held {_times(len(direct.packets), 'packet')} of NFS until it decided on them: "
            f"{human_us(direct.total_us)} in all, the longest {human_us(direct.longest_us)}"
        )
    if direct.ran_us > direct.total_us / 2:
        return _ran_line(direct)
    what = "permission wait" if cause == "fanotify" else "wait"
    line = (
        f"{_times(direct.count, what)}, {human_us(direct.total_us)} in all, "
        f"longest {human_us(direct.longest_us)}"
    )
    if direct.groups:
        line = f"answers fanotify group {', '.join(sorted(direct.groups))}: {line}"
    stack = max(direct.stacks, key=lambda one: direct.stacks[one], default=())
    return f"{line}, stack {stack_line(stack)}" if stack else line


def _ran_line(direct: Direct) -> str:
    """Return how long foreign code had a CPU inside operations, and from where."""
    numbers = sorted(_programs(direct.owners))
    which = f"program {', '.join(numbers)}: " if numbers else ""
    line = f"{which}ran for {human_us(direct.ran_us)} on CPUs of NFS's threads"
    stack = max(direct.stacks, key=lambda one: direct.stacks[one], default=())
    return f"{line}, called from {stack_line(stack)}" if stack else line


def _files_line(files: Counter[str]) -> str:
    shown = ", ".join(file for file, _ in files.most_common(_FILES))
    more = len(files) - _FILES
    return f"files: {shown}{f' and {more} more' if more > 0 else ''}"


def _threads_lines(direct: Direct) -> Iterator[str]:
    if not direct.on_threads:
        return
    threads = direct.threads
    most, held = held_times(direct.on_threads, threads or 1)
    if threads and most >= threads:
        yield f"{threads} of {threads} nfsd threads were waiting for it for {human_us(held)}"
    elif threads and most > 1:
        yield f"up to {most} of {threads} nfsd threads were waiting for it at once"


def _process_lines(process: Process) -> Iterator[str]:
    if process.state in _STATES:
        yield _STATES[process.state]
    if process.start_time is not None:
        yield f"running since {utc(process.start_time)}"
    if process.container:
        yield f"in container {process.container}"


def _program_lines(capture: HostCapture, owners: Iterable[str]) -> Iterator[str]:
    """Yield who holds the BPF programs among the owners of code."""
    numbers = _programs(owners)
    for holder in capture.holders:
        if holder.kind == "program" and holder.what in numbers:
            name = name_of(capture, holder.process)
            yield f"program {holder.what} is held by {name} (pid {holder.process.pid})"


def _programs(owners: Iterable[str]) -> set[str]:
    """Return the ids of the BPF programs among the owners of code."""
    found = (owner_of(text) for text in owners)
    return {str(owner.program) for owner in found if owner and owner.program is not None}


def _listener_lines(rows: Iterable[Listener]) -> Iterator[str]:
    marks = {row.marks for row in rows if row.marks}
    for text in sorted(marks):
        yield f"listener marks: {'; '.join(text.split(chr(10)))}"


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
