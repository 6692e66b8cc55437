"""Which processes of this host a process is connected to by TCP.

Data of TCP arrives in an interrupt, whose stack tells nobody's name: the connections do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.aside import Aside
from tracer.procfs.descriptors import descriptors, descriptors_of
from tracer.procfs.processes import start_ns
from tracer.procfs.sought import Sought

_TABLES: Final = ("net/tcp", "net/tcp6")
_ESTABLISHED: Final = "01"
# Of an address of IPv4 in a socket of IPv6, ::ffff:127.0.0.1.
_MAPPED: Final = "0000000000000000FFFF0000"
_ELSEWHERE: Final = "elsewhere"
# Every process of the host is looked at.
_LEAST_S: Final = 10.0

Key = tuple[int, int]
"""A process: pid, start in ns."""


class Peer(NamedTuple):
    """A process at the other end of a connection of ``asker``. ``only``: it has no other ends."""

    asker: Key
    process: Key
    only: bool


class Peers(Sought[Key, Peer]):
    """The peers of processes."""

    def __init__(
        self, proc: Path, aside: Aside, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(aside, partial(peers, proc), _LEAST_S, clock)


def peers(proc: Path, askers: Collection[Key]) -> Iterator[Peer]:
    """Yield the processes of this host at the other ends of each asker's connections now."""
    ends = {asker: _other_ends(proc / str(asker[0])) for asker in askers}
    wanted = set().union(*ends.values()) - {_ELSEWHERE}
    if not wanted:
        return
    holders: dict[str, set[int]] = {}
    for pid, _, target in descriptors(proc):
        if target in wanted:
            holders.setdefault(target, set()).add(pid)
    for asker, sockets in ends.items():
        pids = set().union(*(holders.get(socket, ()) for socket in sockets))
        only = len(pids) == 1 and sockets <= holders.keys()
        for pid in sorted(pids - {asker[0]}):
            start = start_ns(proc / str(pid) / "stat")
            if start is not None:
                yield Peer(asker, (pid, start), only)


def _other_ends(process: Path) -> set[str]:
    """Return the sockets at the other ends of a process's connections, as descriptors name them.

    Those of another host, or another network namespace, have no row here.
    """
    own = {each.target for each in descriptors_of(process)}
    sockets = dict(_sockets(process))
    mine = (ends for ends, socket in sockets.items() if socket in own)
    return {sockets.get((remote, local), _ELSEWHERE) for local, remote in mine}


def _sockets(process: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield each established connection, (local, remote) in the kernel's words, and its socket."""
    for table in _TABLES:
        try:
            rows = (process / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if len(fields) > 9 and fields[3] == _ESTABLISHED:
                local, remote = (field.removeprefix(_MAPPED) for field in fields[1:3])
                yield (local, remote), f"socket:[{fields[9]}]"
