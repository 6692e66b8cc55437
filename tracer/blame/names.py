"""The name by which people know a process."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from tracer.model import HostCapture, Process, ProcessKey

_DELETED: Final = " (deleted)"

# Programs that run other programs: what they run gives the process its name.
_INTERPRETER: Final = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|java|php|php-fpm|lua|luajit|tclsh|mono|dotnet|deno|bun|"
    r"bash|sh|dash|zsh|ksh|mksh|ash|fish|busybox|guile|erl|beam\.smp|Rscript|R|julia|ld-\S*)"
    r"[\d.]*(-\S*)?"
)


def executable(process: Process) -> str | None:
    """Return the path (or bare name) of the executable, without the mark of a deleted file."""
    if not process.exe:
        return None
    return process.exe.removesuffix(_DELETED) or None


def is_interpreter(name: str) -> bool:
    """Return whether a program of this base name runs scripts or other programs."""
    return _INTERPRETER.fullmatch(name) is not None


def process_name(process: Process | None, pid: int) -> str:
    """Return the executable's base name, a script's own name, or the main thread's comm.

    An interpreter's name says nothing, so the main thread's comm stands in unless
    it is the interpreter's again.
    """
    if process is None:
        return f"pid {pid}"
    exe = executable(process)
    base = PurePosixPath(exe).name if exe else None
    if base and not (is_interpreter(base) and process.comm and not is_interpreter(process.comm)):
        return base
    return process.comm or base or f"pid {pid}"


def name_of(capture: HostCapture, key: ProcessKey) -> str:
    """Return the name of a process of this capture."""
    return process_name(capture.processes.get(key), key.pid)
