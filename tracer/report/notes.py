"""What happened on a host while it was recorded, in the order in which it did."""

from __future__ import annotations

from typing import Final

from tracer.model import Event, HostCapture

_NAMES: Final = frozenset({"clock", "mounts", "exports", "modules", "nfsd", "foreign"})


def notes(capture: HostCapture) -> list[Event]:
    """Return the notes that a reader of the report should know."""
    found = [one for one in capture.events if one.kind == "note" and one.name in _NAMES]
    return sorted(found, key=lambda one: one.ts)
