"""Which trace events there are of modules without BTF that says it, or whose BTF is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

# The second is where it was before it had a place of its own, and may still be.
_MOUNTS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_SYSTEMS: Final = ("sunrpc", "nfsd", "nfs", "jbd2", "xfs")


def has_event(name: str, mounts: tuple[Path, ...] = _MOUNTS) -> bool:
    """Return whether a module of NFS or of a filesystem has a trace event of that name now."""
    return any(
        (mount / "events" / system / name).is_dir() for mount in mounts for system in _SYSTEMS
    )
