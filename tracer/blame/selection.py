"""Which stalls a report counts, where it was asked for some only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
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

    def resolved(self, captures: Sequence[HostCapture]) -> Selection:
        """Return it with a client's host name for an address of it, if its capture is there."""
        hosts = {
            capture.host
            for capture in captures
            if "client" in capture.sides and self.client in capture.addresses
        }
        return replace(self, client=hosts.pop()) if len(hosts) == 1 else self

    def check(self, captures: Sequence[HostCapture]) -> None:
        """Raise NothingSelected for what none of the recorded operations is or has."""
        asked = {name: value for name in _HAS if (value := self.asks(name)) is not None}
        seen = [*_seen(captures)] if asked else []
        for name, value in asked.items():
            known = {each for attributes in seen for each in attributes[name]}
            if value not in known:
                given = getattr(self, name)
                raise NothingSelected(f"--{name} {given}: recorded were {_listed(known)}")
        if asked and not any(
            all(value in attributes[name] for name, value in asked.items()) for attributes in seen
        ):
            raise NothingSelected(f"{self.words()}: no recorded operation is all of that")

    def words(self) -> str:
        """Return what was asked for, as on the command line; empty if nothing was."""
        asked = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"--{name} {value}" for name, value in asked if value is not None)


EVERYTHING: Final = Selection()
_LISTED: Final = 20


_Attributes = dict[str, set[str]]


def _names(*names: str | None) -> list[str | None]:
    return [name.upper().removeprefix("OP_") for name in names if name]


def _process(op: Operation) -> Iterable[str | None]:
    return op.comm, str(op.process.pid) if op.process else None


_HAS: Final[dict[str, Callable[[Operation], Iterable[str | None]]]] = {
    "op": lambda op: _names(op.op, op.nfs_op),
    "process": _process,
    "mount": lambda op: [op.mount],
    "client": lambda op: [op.host if op.side == "client" else op.peer],
}


def _seen(captures: Iterable[HostCapture]) -> Iterator[_Attributes]:
    """Yield what each operation is and has that was recorded, however fast."""
    for capture in captures:
        for op in capture.operations:
            yield {name: {value for value in has(op) if value} for name, has in _HAS.items()}
        for row in capture.recorded:
            found: dict[str, Iterable[str | None]] = {
                "op": _names(row.op),
                "process": [row.comm, str(row.pid) if row.pid else None],
                "mount": [row.mount],
                "client": [capture.host if row.side == "client" else row.peer],
            }
            yield {name: {value for value in values if value} for name, values in found.items()}


def _listed(known: Iterable[str]) -> str:
    names = sorted(known) or ["none"]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
