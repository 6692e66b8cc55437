"""`nfsblame record` in a guest, for the tests that steer it themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

import pytest
from conftest import REPOSITORY, Guests

READY_SECONDS = 180.0
# What SIGINT may take: sealing is given up after 20 s, the brief report after 60 s.
END_SECONDS = 150.0
# No RPC is under way; reading it asks no server.
IDLE = "! grep -q . /sys/kernel/debug/sunrpc/rpc_clnt/*/tasks"


class Recording:
    """A running `nfsblame record`; its capture is `folder` in the guest.

    with recording(lab, "client", "/var/tmp/name") as running:
        lab.exec("client", "...")
        assert running.end() == 0
    """

    def __init__(self, lab: Guests, guest: str, folder: str, options: str) -> None:
        self.lab = lab
        self.guest = guest
        self.folder = folder
        self.name = Path(folder).name
        self._ready = f"/var/tmp/{self.name}.ready"
        self._said = f"/var/tmp/{self.name}.said"
        lab.exec(guest, f"rm -rf {folder} {self._ready} {self._said}")
        files = f"-o {folder} --ready-file {self._ready}"
        argv = f"nfsblame record {files} {options} > {self._said} 2>&1"
        self.command = lab.spawn(guest, f"date +%s.%N > {self._ready}.began; exec {argv}")

    def await_ready(self) -> None:
        """Waits until all probes are attached."""
        deadline = time.monotonic() + READY_SECONDS
        there = f"test -e {self._ready}"
        while self.lab.exec(self.guest, there, check=False).returncode:
            if (status := self.command.wait(0.1)) is not None:
                pytest.fail(f"ended with {status}: {self.said()}")
            if time.monotonic() > deadline:
                pytest.fail(f"not ready after {READY_SECONDS:.0f} s: {self.said()}")

    def await_said(self, text: str, seconds: float = 60) -> None:
        """Waits until it has told the user so."""
        until(self.lab, self.guest, f"grep -qF '{text}' {self._said}", seconds)

    def said(self) -> str:
        """All that it has told the user."""
        return self.lab.exec(self.guest, f"cat {self._said}").stdout

    def began(self) -> float:
        """When it was started, by the guest's clock."""
        return float(self.lab.exec(self.guest, f"cat {self._ready}.began").stdout)

    def end(self) -> int | None:
        """Ends it as Ctrl-C does; its exit code, or None if it does not end in time."""
        self.command.signal(SIGINT)
        return self.command.wait(END_SECONDS)

    def report(self, tmp_path: Path) -> tuple[int, dict[str, Any]]:
        """Fetches the capture; the report's exit code and JSON."""
        return report(self.lab.fetch(self.guest, self.folder, tmp_path / self.name))


@contextmanager
def recording(
    lab: Guests, guest: str, folder: str, options: str = "", *, ready: bool = True
) -> Iterator[Recording]:
    """Records until the block ends, unless it has ended before; usually from when it is ready."""
    running = Recording(lab, guest, folder, options)
    try:
        if ready:
            running.await_ready()
        yield running
    finally:
        running.command.end()


@contextmanager
def undone(lab: Guests, guest: str, do: str, undo: str) -> Iterator[None]:
    """Does something in a guest, and undoes it when the block ends."""
    lab.exec(guest, do)
    try:
        yield
    finally:
        lab.exec(guest, undo)


def until(lab: Guests, guest: str, condition: str, seconds: float = 60) -> None:
    """Waits in the guest until a shell condition holds."""
    lab.exec(guest, f"until {condition}; do sleep 0.1; done", timeout=seconds)


def await_growth(lab: Guests, guest: str, file: str, seconds: float = 60) -> None:
    """Waits until a file is there and longer than it was; opens nothing."""
    size = f"stat -c %s {file} 2> /dev/null"
    grown = f"was=$({size}); until [ $({size}) -gt $was ]; do sleep 0.1; done"
    lab.exec(guest, f"until {size} > /dev/null; do sleep 0.1; done; {grown}", timeout=seconds)


def lost(losses: Mapping[str, int]) -> dict[str, int]:
    """What was lost that something was, or may have been, in.

    The kernel keeps one of two stacks whose hashes collide, and we the longest eight kinds of
    waits of an operation: that is counted, and no more than that much without a cause.
    """
    return {name: count for name, count in losses.items() if name not in ("stack", "wait_slots")}


def now(lab: Guests, guest: str) -> float:
    """The guest's time."""
    return float(lab.exec(guest, "date +%s.%N").stdout)


def report(*captures: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of `nfsblame report`."""
    argv = [sys.executable, "-m", "tracer", "report", *map(str, captures), "--format", "json"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@contextmanager
def stopped_agent(lab: Guests) -> Iterator[int]:
    """An agent on the server that holds every open on the export; gives its pid.

    Kill it and the kernel permits all that it held.
    """
    shell = ". incident/shell; "
    lab.exec("server", shell + "test -e $EXPORT/files || make_files; install_agent; rm -f $TRUTH")
    agent = lab.spawn("server", shell + 'exec "$AGENT" "$EXPORT" "$TRUTH" 0 0 0')
    try:
        until(lab, "server", "[ -e /var/tmp/injected_us ]")
        # It stops before it has read or answered anything: nothing but its descriptor tells.
        lab.exec("server", "pkill -STOP -x qaxsafed")
        yield int(lab.exec("server", "pgrep -x qaxsafed").stdout)
    finally:
        lab.exec("server", "pkill -KILL -x qaxsafed", check=False)
        agent.wait(60)


@contextmanager
def opener(lab: Guests) -> Iterator[None]:
    """An application on the client that opens files; entered when all nfsd threads are held."""
    worker = lab.spawn("client", "exec incident/opener $MOUNT/files 16 600")
    held = "cat $(pgrep -x nfsd | sed 's|.*|/proc/&/stack|') | grep -c fanotify_handle"
    try:
        until(lab, "server", f"[ $({held}) = 8 ]")
        yield
    finally:
        lab.exec("client", "pkill -KILL -x opener", check=False)
        worker.wait(60)
