"""Replies that a server's threads cannot hand to the network: whose client takes none in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from tracer.blame.charge import Charge, Culprit, Link
from tracer.blame.hosts import Host
from tracer.blame.intervals import spans
from tracer.blame.join import Join
from tracer.blame.signatures import sends_reply
from tracer.model import Operation, Wait


class Replies:
    """Whom the threads of servers wait for when they send. ``host`` is a capture's index."""

    def __init__(self, hosts: Sequence[Host], join: Join) -> None:
        self._hosts = hosts
        self._join = join

    def receiver(self, host: int, op: Operation, wait: Wait) -> Culprit | None:
        """Return the client whose reply a thread could not send, None if that was no such wait.

        The reply waits in the thread once the socket is full: the client, or the network
        to it, has not taken in what was sent before.
        """
        if op.side != "server" or op.peer is None or wait.kind != "blocked":
            return None
        if self._hosts[host].suspects.finding(wait, op.side).wait_class != "network":
            return None
        if not sends_reply(wait.stack):
            return None
        client = self._join.client_at(host, op.peer)
        name = op.peer if client is None else self._hosts[client].capture.host
        return Culprit("host", name, name)

    def slow(self, client: str) -> Culprit | None:
        """Return the client of this name if replies to it have waited for long."""
        return self._slow.get(client)

    @cached_property
    def _slow(self) -> dict[str, Culprit]:
        """Return by name the clients for each of which one reply at least was a stall by itself."""
        found: dict[str, Culprit] = {}
        for index, host in enumerate(self._hosts):
            for op in host.served:
                waits = [
                    (receiver, span.total_us)
                    for span in spans(op)
                    if (receiver := self.receiver(index, op, span.wait))
                ]
                if sum(us for _, us in waits) >= max(1, host.capture.threshold_us):
                    found |= {receiver.name: receiver for receiver, _ in waits}
        return found


def charge_for(receiver: Culprit) -> Charge:
    """Return the charge for the time in which a reply could not be sent."""
    return Charge("network", receiver, (Link(receiver.name, None, "send"),))
