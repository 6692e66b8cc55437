"""Which stalls a report counts, where it was asked for some only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from tracer.blame.stalls import Stall
from tracer.model import HostCapture, Operation


class NothingSelected(ValueError):
    """A value that no recorded operation has; the text says which there are."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a stall must be to be counted; None asks for nothing.

    ``op``: NFS operation or call, in any case of letters; ``process``: comm or pid of who
    waited; ``mount``: of the client; ``client``: address or host name. A stall keeps its
    whole bill: what it waited for is followed through operations that are not counted.
    """

    op: str | None = None
    process: str | None = None
    mount: str | None = None
    client: str | None = None

    def takes(self, stall: Stall) -> bool:
        """Return whether a stall is counted."""
        by_victim = {"process": stall.victim.comm, "client": stall.victim.host}
        return all(
            asked in (*has(stall.operation), by_victim.get(name))
            for name, has in _HAS.items()
            if (asked := self.asks(name)) is not None
        )

    def asks(self, name: str) -> str | None:
        """Return what is asked of an attribute."""
        value: str | None = getattr(self, name)
        return value.upper().removeprefix("OP_") if value and name == "op" else value

    def check(self, captures: Sequence[HostCapture]) -> None:
        """Raise NothingSelected for what none of the recorded operations is or has.

        Where none at all was slow enough to be recorded one by one, nothing is known.
        """
        for name, has in _HAS.items():
            asked = self.asks(name)
            known = {
                value
                for capture in captures
                for op in capture.operations
                for value in has(op)
                if value
            }
            if name == "op":
                rows = (row for capture in captures for row in capture.latency)
                known |= {row.op.upper().removeprefix("OP_") for row in rows}
            if asked is not None and known and asked not in known:
                given = getattr(self, name)
                raise NothingSelected(f"--{name} {given}: recorded were {_listed(known)}")

    def words(self) -> str:
        """Return what was asked for, as on the command line; empty if nothing was."""
        asked = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"--{name} {value}" for name, value in asked if value is not None)


EVERYTHING: Final = Selection()
_LISTED: Final = 20


def _process(op: Operation) -> Iterable[str | None]:
    return op.comm, str(op.process.pid) if op.process else None


_HAS: Final[dict[str, Callable[[Operation], Iterable[str | None]]]] = {
    "op": lambda op: [name.upper().removeprefix("OP_") for name in (op.op, op.nfs_op) if name],
    "process": _process,
    "mount": lambda op: [op.mount],
    "client": lambda op: [op.host if op.side == "client" else op.peer],
}


def _listed(known: Iterable[str]) -> str:
    names = sorted(known)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
