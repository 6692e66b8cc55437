"""Which trace events there are, for kernels whose modules have no BTF that says it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# The second is where it was before it had a place of its own, and may still be.
_MOUNTS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_SYSTEMS: Final = ("sunrpc", "nfsd", "nfs")


def has_event(name: str, mounts: tuple[Path, ...] = _MOUNTS) -> bool:
    """Return whether a module of NFS has a trace event of that name now."""
    return any(
        (mount / "events" / system / name).is_dir() for mount in mounts for system in _SYSTEMS
    )
