"""Which processes the kernel asks: who has a daemon's channel open, or a netfilter queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.descriptors import descriptors

_NETLINK_NETFILTER: Final = "12"
_STATD: Final = "rpc.statd.pid"
_FUSE: Final = "/dev/fuse"


class Asked(NamedTuple):
    """A process, and what it is asked through, see schema.HOLDERS."""

    pid: int
    kind: str
    what: str


def asked(proc: Path) -> Iterator[Asked]:
    """Yield the processes that have a channel of the kernel's, or a netfilter queue.

    Queues are those of this network namespace; which socket has one is told by
    net/netfilter/nfnetlink_queue ("%5u %6u ..": queue number, port id, ..).
    """
    queues = _queues(proc)
    for pid, _, target in descriptors(proc):
        # /proc/net is a link of each process's own: /proc/402/net/rpc/nfsd.export/channel
        path = Path(target)
        if path.name == "channel" and path.parent.parent.name == "rpc":
            yield Asked(pid, "channel", path.parent.name)
        # Through which nfsd keeps who its clients are: /run/rpc_pipefs/nfsd/cld
        elif path.parts[-3:] == ("rpc_pipefs", "nfsd", "cld"):
            yield Asked(pid, "channel", path.name)
        # It is asked by RPC, to whatever port it has; this file it keeps open while it runs.
        elif path.name == _STATD:
            yield Asked(pid, "channel", "statd")
        # Through which a filesystem in user space is asked.
        elif target == _FUSE:
            yield Asked(pid, "channel", "fuse")
        for queue in queues.get(target, ()):
            yield Asked(pid, "queue", queue)


def _queues(proc: Path) -> dict[str, list[str]]:
    """Return the numbers of the netfilter queues behind each socket, as a descriptor names it."""
    found: dict[str, list[str]] = {}
    sockets = {
        row[2]: f"socket:[{row[9]}]"
        for row in _rows(proc / "net/netlink")
        if row[1] == _NETLINK_NETFILTER
    }
    for row in _rows(proc / "net/netfilter/nfnetlink_queue"):
        if row[1] in sockets:
            found.setdefault(sockets[row[1]], []).append(row[0])
    return found


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except OSError:  # no such module
        return []
