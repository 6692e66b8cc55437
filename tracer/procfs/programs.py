"""Who holds a BPF program: the process that has loaded it, as long as it lives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.aside import Aside
from tracer.procfs.descriptors import descriptors, fdinfo
from tracer.procfs.processes import start_ns

# A program, or a link of one to where it is attached: both tell the program's id.
_OF_BPF: Final = "anon_inode:bpf"
_PROGRAM: Final = re.compile(r"^prog_id:\s*(\d+)$", re.MULTILINE)


class Holding(NamedTuple):
    """A process that holds a program."""

    program: int
    pid: int
    start_ns: int


class Programs:
    """The holders of BPF programs, each looked for once."""

    def __init__(self, proc: Path, aside: Aside) -> None:
        self._proc = proc
        self._aside = aside
        self._open: set[int] = set()
        self._asked: frozenset[int] = frozenset()
        self._known: set[int] = set()

    def want(self, program: int) -> None:
        """Have the holders of a program looked for."""
        if program not in self._known:
            self._known.add(program)
            self._open.add(program)

    def found(self) -> list[Holding]:
        """Return the holders that were found since the last call."""
        if not self._asked:
            self._asked, self._open = frozenset(self._open), set()
        asked = self._asked
        if not asked or not self._aside.ask(asked, lambda: holdings(self._proc, asked)):
            return []
        self._asked = frozenset()
        answer: list[Holding] = self._aside.take(asked)
        return answer


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
