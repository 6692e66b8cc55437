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
    """Return what a culprit is a process of, None if unsure.

    One that had no memory any more when it was first seen has no executable: it belongs to the one
    program of whose processes some call themselves so, if there is but one.
    """
    captures = list(captures)
    process = _process(culprit, captures)
    if process is None:
        return None
    if executable(process) is not None:
        return program(process, culprit.name, culprit.host)
    alike = {
        program(other, process_name(other, other.key.pid), culprit.host)
        for capture in captures
        if capture.host == culprit.host
        for other in capture.processes.values()
        if executable(other) is not None
        and (other.comm, other.cgroup, other.uid) == (process.comm, process.cgroup, process.uid)
    }
    return alike.pop() if process.comm and len(alike) == 1 else None


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
