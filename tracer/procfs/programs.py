"""Who holds a BPF program: the process that has loaded it, as long as it lives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.aside import Aside
from tracer.procfs.descriptors import descriptors, fdinfo
from tracer.procfs.processes import start_ns
from tracer.procfs.sought import Sought

# A program, or a link of one to where it is attached: both tell the program's id.
_OF_BPF: Final = "anon_inode:bpf"
_PROGRAM: Final = re.compile(r"^prog_id:\s*(\d+)$", re.MULTILINE)


class Holding(NamedTuple):
    """A process that holds a program."""

    program: int
    pid: int
    start_ns: int


class Programs(Sought[int, Holding]):
    """The holders of BPF programs, each looked for once."""

    def __init__(self, proc: Path, aside: Aside) -> None:
        super().__init__(aside, partial(holdings, proc))


def holdings(proc: Path, programs: Iterable[int]) -> list[Holding]:
    """Return who holds any of these programs now."""
    wanted = set(programs)
    found: dict[tuple[int, int], Holding] = {}
    for each in descriptors(proc):
        match = _PROGRAM.search(fdinfo(proc, each)) if each.target.startswith(_OF_BPF) else None
        program = int(match[1]) if match else None
        if program in wanted and (program, each.pid) not in found:
            start = start_ns(proc / str(each.pid) / "stat")
            if start is not None:
                found[program, each.pid] = Holding(program, each.pid, start)
    return list(found.values())
