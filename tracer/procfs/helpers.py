"""Which programs the kernel has started itself, and waits for: what request-key becomes.

A client's kernel has nfsidmap started by /sbin/request-key to learn whose a name is, and waits for
its end. Whoever waits is woken by the thread of the kernel that started it: that is no clue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tracer.procfs.aside import Aside
from tracer.procfs.processes import read_stat
from tracer.procfs.sought import Sought

# Stands on the stack of whoever waits for one.
WAITED_FOR: Final = "call_usermodehelper_exec"
# All processes are looked at.
_LEAST_S: Final = 1.0

Key = tuple[int, int]
"""A process: pid, start in ns."""


class Helpers(Sought[None, Key]):
    """The programs that the kernel waits for: wanted where an operation waits so."""

    def __init__(
        self, proc: Path, aside: Aside, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(aside, lambda _: _started_by_kernel(proc), _LEAST_S, clock)


def _started_by_kernel(proc: Path) -> Iterator[Key]:
    """Yield the processes whose parent is a worker of the kernel.

    One that is waited for is a child of the worker that waits, call_usermodehelper_exec_sync() in
    kernel/umh.c; all others that the kernel starts are children of kthreadd.
    """
    stats = {folder.name: read_stat(folder / "stat") for folder in proc.glob("[0-9]*")}
    for pid, stat in stats.items():
        parent = stats.get(str(stat.ppid)) if stat else None
        if stat and parent and parent.kthread and parent.comm != "kthreadd":
            yield int(pid), stat.start_ns
