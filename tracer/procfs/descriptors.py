"""What the processes of a host have open, by /proc/PID/fd and fdinfo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Descriptor(NamedTuple):
    """A descriptor of a process; ``target`` is what its link says."""

    pid: int
    number: int
    target: str


def descriptors(proc: Path) -> Iterator[Descriptor]:
    """Yield all that is open; processes that end meanwhile, and what is closed, are left out."""
    for process in proc.iterdir():
        if process.name.isdigit():
            yield from descriptors_of(process)


def descriptors_of(process: Path) -> Iterator[Descriptor]:
    """Yield what the process of a folder of /proc has open."""
    try:
        links = list((process / "fd").iterdir())
    except OSError:
        return
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            continue
        yield Descriptor(int(process.name), int(link.name), target)


def fdinfo(proc: Path, descriptor: Descriptor) -> str:
    """Return what the kernel tells of a descriptor; nothing if it is closed by now, or no text."""
    path = proc / str(descriptor.pid) / "fdinfo" / str(descriptor.number)
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
