"""Which processes are one program: workers of an agent, or a command called again and again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tracer.blame.charge import Culprit
from tracer.blame.names import executable, is_interpreter, process_name
from tracer.model import HostCapture, Process, ProcessKey


class Program(NamedTuple):
    """What all processes of a program have in common."""

    host: str | None
    name: str
    cgroup: str | None
    uid: int | None
    exe: str


def program_of(culprit: Culprit, captures: Iterable[HostCapture]) -> Program | None:
    """Return what a culprit is a process of, None if unsure."""
    process = _process(culprit, captures)
    return None if process is None else program(process, culprit.name, culprit.host)


def program(process: Process, name: str, host: str | None = None) -> Program | None:
    """Return what a process of this name runs, None if unsure."""
    exe = executable(process)
    # Two scripts may have nothing in common but their interpreter.
    if exe is None or is_interpreter(name):
        return None
    return Program(host, name, process.cgroup, process.uid, exe)


def identity(process: Process) -> Program | ProcessKey:
    """Return what all processes of a program have in common; its key if it may be a script."""
    return program(process, process_name(process, process.key.pid)) or process.key


def _process(culprit: Culprit, captures: Iterable[HostCapture]) -> Process | None:
    if culprit.process is None:
        return None
    of_host = (capture for capture in captures if capture.host == culprit.host)
    found = (capture.processes.get(culprit.process) for capture in of_host)
    return next((process for process in found if process), None)
