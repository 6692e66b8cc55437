"""Whose data it is that came to a process by TCP.

It arrives in an interrupt: whoever is in that may have nothing to do with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from tracer.blame.means import sends_by_tcp
from tracer.model import Holder, ProcessKey, Wait

_PROCESS: Final = re.compile(r"([0-9]{1,10}) ([0-9]{1,18})")


class Peers:
    """The processes of one host that are connected to each other."""

    def __init__(self, holders: Iterable[Holder]) -> None:
        self._peers: defaultdict[ProcessKey, set[ProcessKey]] = defaultdict(set)
        self._with_others: set[ProcessKey] = set()
        for holder in holders:
            asker = _process_of(holder.what or "") if holder.kind.endswith("peer") else None
            if asker is not None:
                self._peers[asker].add(holder.process)
                if holder.kind == "peer":
                    self._with_others.add(asker)

    def sender(self, asker: ProcessKey, wait: Wait) -> ProcessKey | None:
        """Return who sent the data that ended a process's wait, None if unsure.

        A peer that was sending just then, or the only one it can have been: data of other hosts
        may arrive in the same way, by way of a container's interface.
        """
        peers = self._peers.get(asker, set())
        if wait.waker in peers and sends_by_tcp(wait.waker_stack):
            return wait.waker
        return next(iter(peers)) if len(peers) == 1 and asker not in self._with_others else None


def _process_of(text: str) -> ProcessKey | None:
    """Return the process that a text of "pid start_us" names, None if it names none."""
    match = _PROCESS.fullmatch(text)
    return ProcessKey(int(match[1]), int(match[2])) if match else None
