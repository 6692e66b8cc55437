"""What /proc says of one process, believed only if it is the process that was meant.

Command lines are read only if asked for: they hold secrets.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from tracer.procfs.containers import container_id, pod_uid
from tracer.rows.text import decoded

NS_PER_TICK: Final = 10_000_000  # USER_HZ is 100 on every architecture with BPF
_PF_KTHREAD: Final = 0x00200000
_COMMAND_LINE_BYTES: Final = 4096
# What the kernel adds to the name of a kworker is the work it has just now or had last:
# not what it did when it was seen.
_KWORKER: Final = re.compile(r"(kworker/[^-+]*)[-+].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a process; None where unknown."""

    comm: str | None = None
    exe: str | None = None
    uid: int | None = None
    ppid: int | None = None
    cgroup: str | None = None
    container: str | None = None
    pod_uid: str | None = None
    pod_namespace: str | None = None
    pod_name: str | None = None
    command_line: str | None = None
    state: str | None = None
    kthread: bool = False

    def row(self) -> dict[str, Any]:
        """Return the columns of ``schema.PROCESSES`` that stand here, under their names."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that are used here."""

    comm: str
    state: str
    ppid: int
    kthread: bool
    start_ticks: int

    @property
    def start_ns(self) -> int:
        """Its start in CLOCK_BOOTTIME, as exactly as it is told."""
        return self.start_ticks * NS_PER_TICK


class ProcReader:
    """Reads processes under ``root``; every method returns None for one that has ended."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root

    def facts(self, pid: int, start_ns: int) -> Facts | None:
        """Return the facts of the process that started at ``start_ns`` (CLOCK_BOOTTIME)."""
        stat = self._stat(pid, start_ns)
        if stat is None:
            return None
        cgroup = parse_cgroup(self._text(pid, "cgroup"))
        facts = Facts(
            comm=stat.comm,
            exe=self._exe(pid),
            uid=parse_uid(self._text(pid, "status")),
            ppid=stat.ppid,
            cgroup=cgroup,
            container=container_id(cgroup),
            pod_uid=pod_uid(cgroup),
            state=stat.state,
            kthread=stat.kthread,
        )
        # The pid may have passed to another process between two of the reads.
        return facts if self._stat(pid, start_ns) else None

    def refreshed(self, pid: int, start_ns: int, old: Facts) -> Facts:
        """Return ``old`` with its state as it is now; all anew if it has exec'ed since."""
        stat = self._stat(pid, start_ns)
        if stat is None:
            return replace(old, state=None)
        if stat.comm != old.comm:
            return self.facts(pid, start_ns) or replace(old, state=None)
        return replace(old, state=stat.state, ppid=stat.ppid)

    def command_line(self, pid: int, start_ns: int) -> str | None:
        """Return the command line as a shell would read it, cut off; None for kernel threads.

        Takes the memory lock of the process, so it may hang.
        """
        line = parse_command_line(self._bytes(pid, "cmdline", _COMMAND_LINE_BYTES))
        return line if self._stat(pid, start_ns) else None

    def _stat(self, pid: int, start_ns: int) -> Stat | None:
        stat = parse_stat(self._text(pid, "stat"))
        return stat if stat and stat.start_ticks == start_ns // NS_PER_TICK else None

    def _text(self, pid: int, name: str) -> str:
        return decoded(self._bytes(pid, name))

    def _bytes(self, pid: int, name: str, most: int = -1) -> bytes:
        try:
            with (self._root / str(pid) / name).open("rb") as file:
                return file.read(most)
        except OSError:
            return b""

    def _exe(self, pid: int) -> str | None:
        try:
            path = decoded(os.fsencode((self._root / str(pid) / "exe").readlink()))
        except OSError:
            return None
        return path.removesuffix(" (deleted)")  # an agent updated in place is still that agent


Complete = Callable[[int, int, Facts], tuple[Facts, bool]]
"""(pid, start_ns, facts) -> facts with what else is known by now, whether more may come."""


def _complete(_pid: int, _start_ns: int, facts: Facts) -> tuple[Facts, bool]:
    return facts, False


class ProcessTable:
    """Every process of the recording, and which of them have yet to be written.

    ``read`` is a ``ProcReader``. A process that ended before it could be read keeps
    what the kernel noted at first sight (``learn``). ``complete`` adds what comes late.
    """

    def __init__(
        self, read: ProcReader, complete: Complete = _complete, limit: int = 65536
    ) -> None:
        self._read = read
        self._complete = complete
        self._limit = limit
        self._noted: dict[tuple[int, int], Facts] = {}
        self._facts: dict[tuple[int, int], Facts] = {}
        self._watched: set[tuple[int, int]] = set()
        self._seen: dict[tuple[int, int], None] = {}  # of this interval; a dict keeps order
        self._late: dict[tuple[int, int], None] = {}  # of which more may be known soon
        self._written: dict[tuple[int, int], Facts] = {}

    def learn(self, pid: int, start_ns: int, noted: Facts) -> None:
        """Note what the kernel saw of a process, for the case that it ends at once."""
        key = (pid, start_ns)
        self._noted[key] = noted
        if key in self._facts:  # the note came after the first record
            self._facts[key] = _completed(self._facts[key], noted)

    def comm(self, pid: int, start_ns: int) -> str | None:
        """Return the name of the main thread; the process gets a row."""
        return self._see((pid, start_ns)).comm

    def pod_uid(self, pid: int, start_ns: int) -> str | None:
        """Return the uid of the process's pod; the process gets a row."""
        return self._see((pid, start_ns)).pod_uid

    def watch(self, pid: int, start_ns: int) -> None:
        """Have the process's state read anew at the end of this interval; it gets a row."""
        self._see((pid, start_ns))
        self._watched.add((pid, start_ns))

    def changed(self) -> list[tuple[int, int, Facts]]:
        """End the interval: return (pid, start_ns, facts) of all that are new or changed."""
        for key in self._watched:
            self._facts[key] = self._read.refreshed(*key, self._facts[key])
        changed = []
        candidates = self._late | self._seen
        self._late = {}
        for key in candidates:
            facts, more = self._complete(*key, self._facts[key])
            self._facts[key] = facts
            if more:
                self._late[key] = None
            if self._written.get(key) != facts:
                self._written[key] = facts
                changed.append((*key, facts))
        self._watched.clear()
        self._seen.clear()
        return changed

    def new_segment(self) -> None:
        """Write every process again when next seen: each segment stands alone."""
        self._written.clear()
        for table in (self._noted, self._facts):
            if len(table) > self._limit:
                table.clear()
                self._late.clear()

    def _see(self, key: tuple[int, int]) -> Facts:
        facts = self._facts.get(key)
        if facts is None:
            noted = self._noted.get(key, Facts())
            facts = self._read.facts(*key)
            facts = noted if facts is None else _completed(facts, noted)
            self._facts[key] = facts
        self._seen[key] = None
        return facts


def parse_stat(text: str) -> Stat | None:
    """Return the fields of /proc/PID/stat; None if it is not one."""
    head, _, rest = text.rpartition(")")
    words = rest.split()
    if len(words) < 20 or "(" not in head:
        return None
    try:
        return Stat(
            comm=_KWORKER.sub(r"\1", head.partition("(")[2]),
            state=words[0],
            ppid=int(words[1]),
            kthread=bool(int(words[6]) & _PF_KTHREAD),
            start_ticks=int(words[19]),
        )
    except ValueError:
        return None


def parse_uid(status: str) -> int | None:
    """Return the real uid in /proc/PID/status; None if it is not there."""
    # By lines, and not the first that looks like it: the name above may hold anything but \\n.
    for line in status.split("\n"):
        words = line.split("\t")
        if words[0] == "Uid:" and len(words) > 1 and words[1].isdecimal():
            return int(words[1])
    return None


def parse_command_line(raw: bytes) -> str | None:
    """Return /proc/PID/cmdline as a shell would read it; None if it is empty."""
    words = raw.removesuffix(b"\0").split(b"\0") if raw else []
    return shlex.join(decoded(word) for word in words) or None


def parse_cgroup(text: str) -> str | None:
    """Return the path in the v2 hierarchy; on v1 that of ``memory``; None if unknown."""
    paths: dict[str, str] = {}
    # Not splitlines(): names hold every separator but \\n.
    for line in text.split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if path:
                paths[controller] = path.removesuffix(" (deleted)")
    unified = paths.get("")
    # A hybrid system mounts v2 with nothing in it.
    return paths.get("memory", unified) if unified in (None, "/") else unified


def _completed(facts: Facts, noted: Facts) -> Facts:
    """Return ``facts`` with what is unknown taken from the note, as a whole if all is."""
    if facts.comm is None:
        return noted
    return replace(facts, exe=facts.exe or noted.exe)


def read_stat(path: Path) -> Stat | None:
    """Return the fields of a process's file of /proc; None if it has ended."""
    try:
        return parse_stat(decoded(path.read_bytes()))
    except OSError:
        return None


def start_ns(stat: Path) -> int | None:
    """Return a process's start by its file of /proc, in CLOCK_BOOTTIME ns; None if it has ended."""
    found = read_stat(stat)
    return found.start_ns if found else None
