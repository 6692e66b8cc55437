"""The writer process: frames on stdin become the capture's tables on disk.

Started by the collector as ``python -m tracer.writer --output DIR --max-size BYTES``.
It may block on the disk; the collector never waits for it. It ends when the pipe
does, not by signals: Ctrl-C on a terminal reaches the whole process group.

Exit status: 0, or 5 if something that came through the pipe could not be kept.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil
import pyarrow as pa

from tracer import wire
from tracer.errors import Exit, NfsblameError
from tracer.losses import BAD_FRAME, MEMORY_FULL
from tracer.report.sanitise import printable
from tracer.rows.assembler import Assembler, Frame, event
from tracer.store.footer import Footer
from tracer.store.keeper import Keeper, Say, Settings

_CHUNK_BYTES: Final = 1 << 20
# For what is still being looked for when recording ends.
_SETTLE_S: Final = 1.0


class Writer:
    """One recording, from its HELLO to its end."""

    def __init__(
        self, hello: Mapping[str, Any], settings: Settings, proc_root: Path, say: Say
    ) -> None:
        self._assembler = Assembler(hello, proc_root)
        self._footer = Footer.of_hello(hello)
        self._keeper = Keeper(settings, self._footer, say)
        self._frames: list[Frame] = []
        self._last_tick_ns: int = hello["mono_ns"]
        self._reported_dropped = 0
        self._thread_counts = {hello["nfsd_threads"], None}

    def take(self, kind: int, payload: bytes) -> bool:
        """Take in one frame; a TICK writes the interval. Returns False at the END."""
        if kind == wire.TICK:
            tick = json.loads(payload)
            self._interval({**tick, "overhead": {**tick["overhead"], **_own_overhead()}})
        elif kind == wire.END:
            end = json.loads(payload)
            self._footer = replace(self._footer, ended=str(end["reason"]))
            self._last_tick_ns = max(self._last_tick_ns, int(end["mono_ns"]))
            return False
        elif kind == wire.HELLO:
            hello = json.loads(payload)
            self._assembler.hello_again(hello)
            self._footer = self._footer.hello_again(hello)
        else:
            self._frames.append((kind, payload))
        return True

    def finish(self) -> bool:
        """Write what came after the last TICK, seal, end. Returns whether nothing was lost."""
        reason = self._footer.ended or "the collector is gone, without a word"
        last = {"mono_ns": self._last_tick_ns, "losses": {}, "overhead": {}}
        self._assembler.settle(_SETTLE_S)
        # First all into the journal: what follows opens files and may hang.
        self._interval(last, f"recording ended: {reason}")
        self._keeper.make_room()
        if self._keeper.notes:
            self._interval(last)
        kept = self._keeper.finish(self._footer)
        return kept and not self._keeper.dropped and not self._assembler.losses[BAD_FRAME]

    def _interval(self, tick: Mapping[str, Any], *notes: str) -> None:
        self._last_tick_ns = int(tick["mono_ns"])
        dropped = self._keeper.dropped - self._reported_dropped
        self._reported_dropped += dropped
        losses = {**tick["losses"], MEMORY_FULL: dropped}
        rows = self._assembler.rows(self._frames, {**tick, "losses": losses})
        self._frames.clear()
        ts_us = self._assembler.clock.wall_us(self._last_tick_ns)
        rows["events"] += [event(ts_us, "note", "writer", n) for n in (*self._keeper.notes, *notes)]
        self._keeper.notes.clear()
        self._thread_counts.add(self._assembler.nfsd_threads or None)
        self._footer = replace(
            self._footer,
            end_us=ts_us,
            nfsd_threads=self._one_thread_count(),
            losses=dict(self._assembler.losses),
            overhead=dict(self._assembler.overhead),
        )
        # After a gap the rows that others refer to may be missing: write them again, too.
        if self._keeper.add(rows, self._footer) or dropped:
            self._assembler.new_segment()

    def _one_thread_count(self) -> int | None:
        """Return how many nfsd threads there were all the time that a server ran.

        None if their number has changed: what was held up by all of them cannot be told.
        """
        counts = self._thread_counts - {None}
        return counts.pop() if len(counts) == 1 else None


def _own_overhead() -> dict[str, float]:
    """Return what the writer has cost so far, the greatest RSS, and the collector's now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    costs = {"writer_cpu_s": time.process_time(), "writer_rss_bytes": usage.ru_maxrss * 1024}
    # The collector opens no file while it runs, so it cannot look for itself.
    with suppress(psutil.Error):
        costs["collector_rss_bytes"] = psutil.Process(os.getppid()).memory_info().rss
    return costs


def write(chunks: Iterable[bytes], settings: Settings, proc_root: Path, say: Say) -> Exit:
    """Write the recording in a stream of frames. Raises NfsblameError if it cannot begin."""
    parser = wire.FrameParser()
    frames = (frame for chunk in chunks for frame in parser.feed(chunk))
    kind, payload = next(frames, (wire.END, b""))
    if kind == wire.END:
        return Exit.DONE  # the collector ended before it had anything to record
    if kind != wire.HELLO:
        raise NfsblameError(f"the first frame is of type {kind}, not HELLO", Exit.INCOMPLETE)
    writer = Writer(json.loads(payload), settings, proc_root, say)
    for frame in frames:
        if not writer.take(*frame):
            break
    return Exit.DONE if writer.finish() else Exit.INCOMPLETE


def main(arguments: list[str] | None = None) -> Exit:
    """Write what comes on stdin; the exit status is that of ``errors.Exit``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # It has time; the host that is being observed may have none to spare.
    os.nice(10)
    # One thread, and memory given back at once: the writer is a guest on the host it observes.
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    options = _parser().parse_args(arguments)
    settings = Settings(
        options.output,
        options.max_size,
        options.rotate_bytes,
        options.rotate_seconds,
        options.memory_bytes,
    )
    try:
        return write(_chunks(sys.stdin.fileno()), settings, options.proc, _say)
    except NfsblameError as error:
        _say(str(error))
        return error.exit_code


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, _CHUNK_BYTES):
        yield chunk


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that is gone must not end the recording
        print(printable(f"nfsblame: {text}"), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tracer.writer", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the capture's folder")
    parser.add_argument("--max-size", type=int, required=True, help="bytes of the whole folder")
    parser.add_argument("--rotate-bytes", type=int, default=Settings.rotate_bytes)
    parser.add_argument("--rotate-seconds", type=float, default=Settings.rotate_seconds)
    parser.add_argument("--memory-bytes", type=int, default=Settings.memory_bytes)
    parser.add_argument("--proc", type=Path, default=Path("/proc"), help="root of /proc")
    return parser


if __name__ == "__main__":
    sys.exit(main())
