"""The size bound of a capture's folder: the oldest segments go first."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from tracer.store.layout import SealedFile, sealed_files


def folder_bytes(capture: Path) -> int:
    """Return the bytes of all files under a capture's folder."""
    total = 0
    for path in capture.rglob("*"):
        with suppress(OSError):  # it may vanish between listing and asking
            total += path.stat().st_size if path.is_file() else 0
    return total


def enforce(capture: Path, max_bytes: int) -> str | None:
    """Remove the oldest sealed segments until the folder is within ``max_bytes``.

    Returns a sentence on what was removed, None if nothing was. A segment goes
    as a whole, in all its tables: what is left can be read without it.
    """
    over = folder_bytes(capture) - max_bytes
    if over <= 0:
        return None
    segments: defaultdict[str, list[SealedFile]] = defaultdict(list)
    for file in sealed_files(capture):
        segments[file.segment].append(file)
    removed: list[str] = []
    freed = 0
    for segment in sorted(segments):
        if freed >= over:
            break
        for file in segments[segment]:
            freed += file.path.stat().st_size
            file.path.unlink()
            _remove_empty(file.path.parent)
        removed.append(segment)
    if not removed:
        return None
    span = removed[0] if len(removed) == 1 else f"{removed[0]} to {removed[-1]}"
    return f"removed {freed} bytes of the oldest data, segment {span}, to stay within --max-size"


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # not empty, the usual case
        folder.rmdir()
        folder.parent.rmdir()
