"""The two child processes of a recording: the compiler, which exits, and the writer."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracer.errors import Exit, NfsblameError

# What ends a recording. The parent decides what its children do then.
END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# SCM_MAX_FD (include/net/scm.h): descriptors in one message.
FDS_PER_MESSAGE: Final = 253

_PIPE_BYTES: Final = 1 << 20
_COMPILE_TIMEOUT_S: Final = 300.0


@dataclass(slots=True)
class Loaded:
    """Programs and maps in the kernel, by fd, as the compiler child passed them."""

    maps: dict[str, int]
    programs: list[tuple[dict[str, Any], int]]
    missing: list[dict[str, Any]]
    layout: dict[str, int]


class Compiler:
    """The compiler child, started at once so that other work can go on meanwhile."""

    def __init__(self, sides: list[str]) -> None:
        self._channel, theirs = socket.socketpair()
        self._received = b""
        self._received_fds: list[int] = []
        with _signals_held():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracer.compiler", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=child_environment(),
            )
        theirs.close()
        self._channel.settimeout(_COMPILE_TIMEOUT_S)
        with suppress(BrokenPipeError):  # it has ended already; result() says so
            self._channel.sendall(json.dumps({"sides": sides}).encode() + b"\n")

    def wait(self, stop: int) -> bool:
        """Wait for the child's answer; end it and return False if ``stop`` is readable first."""
        poll = select.poll()
        for fd in (self._channel.fileno(), stop):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(_COMPILE_TIMEOUT_S * 1000)}
        if stop not in ready and ready:
            return True
        self._end()
        if not ready:
            raise _too_slow()
        return False

    def result(self) -> Loaded:
        """Wait for the child and return what it loaded. Raises NfsblameError from it."""
        try:
            reply = self._reply()
            fds = self._fds(len(reply["maps"]) + len(reply["programs"]))
        except TimeoutError:
            raise _too_slow() from None
        finally:
            self._end()
        maps = dict(zip(reply["maps"], fds, strict=False))
        programs = list(zip(reply["programs"], fds[len(maps) :], strict=True))
        return Loaded(maps, programs, reply["missing"], reply["layout"])

    def _end(self) -> None:
        """End the child, which has nothing left to do once it has answered."""
        self._channel.close()
        self.process.kill()
        self.process.wait()

    def _reply(self) -> dict[str, Any]:
        # The reply ends with a newline; after it come bytes that carry the fds.
        while b"\n" not in self._received and self._receive():
            pass
        line, end, _ = self._received.partition(b"\n")
        if not end:
            raise NfsblameError(
                f"the compiler ended with status {self.process.wait()} before it answered; "
                "its messages stand above",
                Exit.KERNEL,
            )
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise NfsblameError(reply["error"], Exit(reply["exit"]))
        return reply

    def _fds(self, count: int) -> list[int]:
        while len(self._received_fds) < count:
            if not self._receive():
                raise NfsblameError("the compiler ended before it passed all fds", Exit.KERNEL)
        return self._received_fds

    def _receive(self) -> bool:
        """Take in what has come, bytes and fds; return False if the child has ended."""
        data = b""
        with suppress(ConnectionResetError):  # it ended without reading our request
            data, fds, _, _ = socket.recv_fds(self._channel, _PIPE_BYTES, FDS_PER_MESSAGE)
            self._received += data
            self._received_fds += fds
        return bool(data)


def _too_slow() -> NfsblameError:
    return NfsblameError(
        f"compiling the BPF programs took more than {_COMPILE_TIMEOUT_S:.0f} s; "
        "is the host out of memory or CPU?",
        Exit.KERNEL,
    )


class Writer:
    """The writer child and our end of the pipe to it."""

    def __init__(self, output: Path, max_size_bytes: int) -> None:
        theirs, self.fd = os.pipe()
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        command = [sys.executable, "-m", "tracer.writer"]
        command += [f"--output={output}", f"--max-size={max_size_bytes}"]
        with _signals_held():
            self.process = subprocess.Popen(command, stdin=theirs, env=child_environment())
        os.close(theirs)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Have a child begin with the signals that end a recording blocked.

    They reach all processes of the terminal or the service. A child that only ignored
    them itself would be killed by one that comes while it still imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def child_environment() -> dict[str, str]:
    """Return our environment, with this package found first whatever the current folder."""
    package = str(Path(__file__).parent.parent)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}:{known}" if known else package}
