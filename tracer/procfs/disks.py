"""The disk below a filesystem, by the links of /sys/dev/block."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tracer.procfs.mounts import MINOR_BITS

# Partitions on volumes on volumes: no more steps than these.
_DEEPEST: Final = 8


class Disks:
    """Names of block devices by the kernel's dev_t. ``sys_root`` is /sys."""

    def __init__(self, sys_root: Path) -> None:
        self._folder = sys_root / "dev/block"
        self._below: dict[int, str | None] = {}

    def below(self, dev: int) -> str | None:
        """Return the one disk that holds a device, through partitions and mapped volumes.

        None for what lies on several disks or on none, as filesystems of the network do.
        """
        if dev not in self._below:
            at = self._folder / f"{dev >> MINOR_BITS}:{dev & ((1 << MINOR_BITS) - 1)}"
            self._below[dev] = _disk(at.resolve()) if dev >> MINOR_BITS else None
        return self._below[dev]


def _disk(device: Path) -> str | None:
    """Return the name of the disk below the folder of a device."""
    for _ in range(_DEEPEST):
        if not device.is_dir():
            return None
        if (device / "partition").exists():
            device = device.parent
        slaves = _names(device / "slaves")
        if not slaves:
            return device.name
        if len(slaves) > 1:
            return None
        device = (device / "slaves" / slaves[0]).resolve()
    return None


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
