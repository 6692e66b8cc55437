"""Who has leases on files that others want to open, by /proc/locks.

Samba takes them for its clients. While one is not given up nfsd tells its own clients to try again
later (NFS4ERR_DELAY, NFS3ERR_JUKEBOX), until fs.lease-break-time is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tracer.procfs.aside import Aside
from tracer.procfs.processes import start_ns
from tracer.procfs.sought import Sought

# The kernel lets nobody lock or unlock a file while it shows who has what.
_LEAST_S: Final = 2.0

Key = tuple[int, int]
"""A process: pid, start in ns."""


class Leases(Sought[None, Key]):
    """The processes that have such leases: wanted where a client was put off."""

    def __init__(
        self, proc: Path, aside: Aside, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(aside, lambda _: _holders(proc), _LEAST_S, clock)


def _holders(proc: Path) -> Iterator[Key]:
    """Yield the processes whose leases are being broken now.

    "%lld: LEASE  BREAKING  READ  pid ..", lock_get_status() in fs/locks.c; nfsd's own are DELEG.
    """
    try:
        rows = (proc / "locks").read_text().splitlines()
    except OSError:
        return
    for row in rows:
        words = row.split()
        if words[1:3] == ["LEASE", "BREAKING"] and len(words) > 4 and words[4].isdecimal():
            start = start_ns(proc / words[4] / "stat")
            if start is not None:
                yield int(words[4]), start
