"""Where a process belongs: pod, container, volume; a kernel thread, what it works for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tracer.model import Process

_SHORT_ID: Final = 12


def pod_name(process: Process | None) -> str | None:
    """Return ``namespace/name`` of a process's pod, its uid if that is all there is."""
    if process is None:
        return None
    if process.pod_namespace and process.pod_name:
        return f"{process.pod_namespace}/{process.pod_name}"
    return process.pod_uid


def belongs_to(process: Process | None, volumes: Iterable[str] = ()) -> list[str]:
    """Return in words where a process belongs; empty if nothing is known."""
    words = []
    if pod := pod_name(process):
        words.append(f"pod {pod}")
    elif process and process.container:
        words.append(f"container {process.container[:_SHORT_ID]}")
    names = sorted(set(volumes))
    if names:
        words.append(f"volume{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return words
