"""By what one process waits for another: one table, as kernel stacks show it.

A process is waited for if the sleeper's stack waits by one of these means and the waker's
stack shows it in the act that ends such a wait. To extend the table, add a row and real
stacks to ``tests/unit/test_blame_chains.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tracer.blame.signatures import bare, in_interrupt


@dataclass(frozen=True, slots=True)
class Means:
    """A row: functions that wait (innermost ones first in a stack), and what ends the wait."""

    name: str
    waits: re.Pattern[str]
    ends: re.Pattern[str]


MEANS: Final = (
    Means(
        "socket",
        re.compile(
            r"unix_stream_(read_generic|data_wait)|__skb_wait_for_more_packets|"
            r"(__)?unix_dgram_recvmsg"
        ),
        re.compile(r"unix_(stream|dgram|seqpacket)_sendmsg|unix_release_sock"),
    ),
    # A reader may wake the next one: that one's data came from whoever wrote it.
    Means("pipe", re.compile(r"(anon_)?pipe_read"), re.compile(r"(anon_)?pipe_(write|release)")),
    Means("pipe", re.compile(r"(anon_)?pipe_write"), re.compile(r"(anon_)?pipe_(read|release)")),
    Means("eventfd", re.compile(r"eventfd_read"), re.compile(r"eventfd_(write|signal\w*)")),
    Means("futex", re.compile(r"futex_(do_)?wait\w*"), re.compile(r"futex_wake\w*")),
    Means("child", re.compile(r"(__)?do_wait\w*|kernel_wait4"), re.compile(r"do_notify_parent\w*")),
)

# Who looks at several things at once waits for whichever comes first.
_LOOKS: Final = re.compile(r"do_sys_poll|do_poll\S*|ep_poll|do_epoll_wait|do_select")
_LOOKED_AT: Final = tuple(row for row in MEANS if row.name in ("socket", "pipe", "eventfd"))
# Data of TCP arrives in an interrupt, whoever is in it.
_TCP_READS: Final = re.compile(r"sk_wait_data|tcp_recvmsg\w*")
_TCP_ARRIVES: Final = frozenset({"sock_def_readable", "process_backlog"})
_TCP_TAKES: Final = frozenset({"tcp_data_queue", "tcp_rcv_established"})
# Where a thread waits for a message and nothing else.
_READS: Final = (("socket", MEANS[0].waits), ("pipe", MEANS[1].waits), ("tcp", _TCP_READS))


def means_of(stack: tuple[str, ...], waker_stack: tuple[str, ...]) -> str | None:
    """Return by what a sleeper waited for its waker, None if it is not proven that it did."""
    frames = [bare(frame) for frame in stack]
    for row in MEANS:
        if any(row.waits.fullmatch(frame) for frame in frames):
            return row.name if _ended_by(row, waker_stack) else None
    return None


def comes_by_tcp(waker_stack: tuple[str, ...]) -> bool:
    """Return whether a wait was ended by data that came by TCP, maybe from a process of this host.

    What comes from a network's hardware is no packet of the CPU's own backlog.
    """
    frames = {bare(frame) for frame in waker_stack}
    return frames >= _TCP_ARRIVES and not frames.isdisjoint(_TCP_TAKES)


def sends_by_tcp(waker_stack: tuple[str, ...]) -> bool:
    """Return whether a waker was sending by TCP itself."""
    return any(bare(frame) == "tcp_sendmsg" for frame in waker_stack)


def read_from(stack: tuple[str, ...]) -> str | None:
    """Return through what a sleeper waits for a message, None if it waits for something else."""
    frames = [bare(frame) for frame in stack]
    return next((name for name, reads in _READS if any(map(reads.fullmatch, frames))), None)


def looks(stack: tuple[str, ...]) -> bool:
    """Return whether a sleeper waits for whichever of several things comes first."""
    return any(_LOOKS.fullmatch(bare(frame)) for frame in stack)


def looked_for(stack: tuple[str, ...], waker_stack: tuple[str, ...]) -> str | None:
    """Return what came from its waker to a sleeper that waited for whichever came first."""
    if not looks(stack):
        return None
    return next((row.name for row in _LOOKED_AT if _ended_by(row, waker_stack)), None)


def _ended_by(row: Means, waker_stack: tuple[str, ...]) -> bool:
    if in_interrupt(waker_stack):
        return False
    return any(row.ends.fullmatch(bare(frame)) for frame in waker_stack)
