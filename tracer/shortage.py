"""Has the BPF programs count who takes memory, for as long as it is short.

Every page of the host passes the programs that count: they are attached when a thread had
to free memory before it got any, and detached some seconds after the last that did.
"""

from __future__ import annotations

from typing import Final

from tracer.kernel import bpf
from tracer.kernel.on_demand import OnDemand
from tracer.record_offsets import U32, U64

# What is given back again must be seen, too: without it nobody can be told from those who keep
# what they take.
PROGRAMS: Final = ("on_mm_page_alloc", "on_mm_page_free")
# Short again and again, memory is counted through the pauses.
_CALM_NS: Final = 10_000_000_000


class Shortage:
    """Whether memory of this host is short, and is counted."""

    def __init__(self, flag_fd: int, counting: OnDemand) -> None:
        """Take the map that holds when memory was last short, and the programs that count."""
        self._flag = flag_fd
        self._counting = counting

    def follow(self, now_ns: int) -> None:
        """Count from now on if memory is short, and no more if it has not been for long."""
        value = bpf.lookup(self._flag, U32.pack(0), U64.size)
        last_ns = U64.unpack(value)[0] if value else 0
        if last_ns and now_ns - last_ns < _CALM_NS:
            self._counting.attach()
        else:
            self.close()

    def close(self) -> None:
        """Count no more."""
        self._counting.detach()
