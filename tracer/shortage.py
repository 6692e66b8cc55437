"""Has the BPF programs count who takes memory, for as long as it is short.

Every page of the host passes the programs that count: they are attached when a thread had
to free memory before it got any, and detached some seconds after the last that did.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from tracer.kernel import bpf
from tracer.record_offsets import U32, U64

# Program -> what it is attached to.
PROGRAMS: Final = {"on_mm_page_alloc": "mm_page_alloc", "on_mm_page_free": "mm_page_free"}
# Short again and again, memory is counted through the pauses.
_CALM_NS: Final = 10_000_000_000


class Shortage:
    """Whether memory of this host is short, and is counted."""

    def __init__(self, flag_fd: int, programs: Mapping[str, int | None]) -> None:
        """Take the map that holds when memory was last short, and the programs that count."""
        self._flag = flag_fd
        self._programs = {name: fd for name, fd in programs.items() if fd is not None}
        self._links: list[int] = []

    def follow(self, now_ns: int) -> None:
        """Count from now on if memory is short, and no more if it has not been for long."""
        value = bpf.lookup(self._flag, U32.pack(0), U64.size)
        last_ns = U64.unpack(value)[0] if value else 0
        if last_ns and now_ns - last_ns < _CALM_NS:
            self._attach()
        else:
            self.close()

    def close(self) -> None:
        """Count no more."""
        for link in self._links:
            os.close(link)
        self._links.clear()

    def _attach(self) -> None:
        # What is given back again must be seen, too: without it nobody can be told from those
        # who keep what they take.
        if self._links or self._programs.keys() != PROGRAMS.keys():
            return
        try:
            for name, event in PROGRAMS.items():
                self._links.append(bpf.attach_raw_tracepoint(self._programs[name], event))
        except OSError:  # the plan's own attempt has told why
            self.close()
            self._programs.clear()
