"""``nfsblame record``."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tracer import host, sides
from tracer.children import child_environment
from tracer.durations import parse_duration_us, short_duration
from tracer.errors import Exit, NfsblameError
from tracer.options import side_option
from tracer.outbox import Interval
from tracer.recorder import Ended, Recorder, Settings
from tracer.report.sanitise import sanitise, shell_word

if TYPE_CHECKING:
    _IntParam = click.ParamType[int]
else:  # generic since click 8.2 only
    _IntParam = click.ParamType

_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_LOCK: Final = Path("/run/nfsblame.lock")
_BRIEF_TIMEOUT_S: Final = 40.0


class Duration(_IntParam):
    """A time with its unit, ``100ms`` or ``2m``; a bare number is of ``unit``. In us."""

    name = "time"

    def __init__(self, unit: str, least_us: int, most_us: int) -> None:
        self._unit = unit
        self._least_us = least_us
        self._most_us = most_us

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return microseconds; fail with the accepted range otherwise."""
        if isinstance(value, int):
            return value
        try:
            time_us = parse_duration_us(str(value), self._unit)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self._least_us <= time_us <= self._most_us:
            self.fail(
                f"{value!r} is out of range; give {short_duration(self._least_us)} to "
                f"{short_duration(self._most_us)}",
                param,
                ctx,
            )
        return time_us


class Size(_IntParam):
    """A size such as ``500M`` or ``2G``, powers of 1024. In bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes; fail below 16 MiB, which cannot hold a recording."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if not match:
            self.fail(f"{value!r} is no size; write for example 500M or 2G", param, ctx)
        size = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
        if size < 16 << 20:
            self.fail(f"{value!r} is too small; give at least 16M", param, ctx)
        return size


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("nfsblame-capture"),
    show_default=True,
    help="folder of the capture; recording again into it adds to it",
)
@click.option(
    "--duration",
    type=Duration("s", 1_000_000, 90 * 24 * 3_600_000_000),
    help="how long to record, e.g. 60s or 2h  [default: until Ctrl-C]",
)
@click.option(
    "--interval",
    type=Duration("s", 100_000, 60_000_000),
    default="1s",
    show_default=True,
    help="how often to drain the kernel's maps and look at what is in flight",
)
@click.option(
    "--threshold",
    type=Duration("ms", 1_000, 3_600_000_000),
    default="100ms",
    show_default=True,
    help="an operation that takes longer is a stall",
)
@click.option(
    "--max-size",
    type=Size(),
    default="1G",
    show_default=True,
    help="size of the capture; the oldest files go first",
)
@side_option("which side of NFS to trace")
@click.option(
    "--command-lines",
    is_flag=True,
    help="record the command lines of processes, too; they may hold secrets",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="create this file when all probes are attached",
)
def command(
    output: Path,
    duration: int | None,
    interval: int,
    threshold: int,
    max_size: int,
    side: str,
    command_lines: bool,
    ready_file: Path | None,
) -> None:
    """Record what stalls NFS on this host into a capture.

    Needs root. Ctrl-C or SIGTERM ends it cleanly and prints the verdict.

    \b
    Example:
      nfsblame record -o /var/tmp/nfs --duration 60
      nfsblame report /var/tmp/nfs
    """
    chosen = sides.choose(host.kernel_support(), side)
    _lock = take_lock(_LOCK)
    check_output(output, "-o")
    if ready_file is not None:
        check_output(ready_file.parent, "--ready-file")
    settings = Settings(
        output=output,
        sides=chosen,
        threshold_us=threshold,
        interval_s=interval / 1e6,
        duration_s=None if duration is None else duration / 1e6,
        max_size_bytes=max_size,
        ready_file=ready_file,
        command_lines=command_lines,
        command=["nfsblame", *sys.argv[1:]],
    )
    click.echo(f"nfsblame: recording the {' and the '.join(chosen)} side", err=True)
    ended = Recorder(settings, status_line()).run()
    if sys.stderr.isatty():
        click.echo("", err=True)
    conclude(ended, output)


def take_lock(path: Path) -> int:
    """Hold the lock of the one recording on this host, or raise NfsblameError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NfsblameError(
            f"cannot make {path} ({error.strerror}), by which only one nfsblame records at a "
            f"time; make {path.parent} writable",
            Exit.USAGE,
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise NfsblameError(
            f"another nfsblame is recording on this host (pid {owner}); "
            "end it with Ctrl-C or kill -TERM first",
            Exit.USAGE,
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def check_output(output: Path, option: str) -> None:
    """Raise NfsblameError if the folder given by an option cannot be made or written to."""
    parent = output
    try:
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
    except OSError as error:  # a name too long, a stale NFS handle
        raise NfsblameError(
            f"{parent} cannot be used ({error.strerror}); give another {option}", Exit.USAGE
        ) from error
    if not parent.is_dir():
        raise NfsblameError(f"{parent} is not a folder; give another {option}", Exit.USAGE)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise NfsblameError(f"{parent} is not writable; give another {option}", Exit.USAGE)


def status_line() -> Callable[[Interval, float], None]:
    """Return what shows progress: one line on a terminal, nothing on a pipe."""
    if not sys.stderr.isatty():
        return lambda _interval, _seconds: None

    def show(interval: Interval, seconds: float) -> None:
        slow = sum(len(payload) for _, payload in interval.finished)
        stuck = sum(len(payload) for payload in interval.in_flight.values())
        state = "operations are stuck" if stuck else "slow operations" if slow else "no stall"
        click.echo(f"\r\033[Krecording {seconds:5.0f} s, {state}; Ctrl-C ends", nl=False, err=True)

    return show


def conclude(ended: Ended, output: Path) -> None:
    """Print the verdict and the command to type next."""
    if ended.reason == "writer gone":
        # It has said why on stderr, unless it was killed.
        raise NfsblameError(
            f"the writer ended with status {ended.writer_status}, so recording ended; if "
            f"{output} has a recording, 'nfsblame report' reads what was written until then",
            Exit.USAGE if ended.writer_status == Exit.USAGE else Exit.INCOMPLETE,
        )
    name = sanitise(str(output))
    if not ended.sealed:
        click.echo(
            f"nfsblame: the writer could not finish {name} (its disk hangs or is full); "
            "what it has written is in the journal there, which 'nfsblame report' reads",
            err=True,
        )
    if ended.merged_intervals:
        click.echo(
            f"nfsblame: {name} was slow to write to: {ended.merged_intervals} intervals were "
            "merged with later ones; sums are exact, their time is coarser",
            err=True,
        )
    if ended.sealed:
        _print_brief(output)
    click.echo(f"Next: nfsblame report {shell_word(str(output))}")
    if not ended.sealed:
        raise NfsblameError("the capture is incomplete", Exit.INCOMPLETE)


def _print_brief(output: Path) -> None:
    """Print the verdict, by a child: pyarrow would triple our memory."""
    try:
        subprocess.run(
            [sys.executable, "-m", "tracer", "report", "--format", "brief", str(output)],
            env=child_environment(),
            timeout=_BRIEF_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        click.echo(
            f"nfsblame: too much was recorded to be judged here within {_BRIEF_TIMEOUT_S:.0f} s; "
            "the report takes longer, on any machine",
            err=True,
        )
