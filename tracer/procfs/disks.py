"""The block device of a filesystem and the disk below it, by the links of /sys/dev/block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracer.procfs.mounts import MINOR_BITS

# Partitions on volumes on volumes: no more steps than these.
_DEEPEST: Final = 8


class Disks:
    """Names of block devices by the kernel's dev_t. ``sys_root`` is /sys."""

    def __init__(self, sys_root: Path) -> None:
        self._folder = sys_root / "dev/block"
        self._paths: dict[int, tuple[str, ...]] = {}

    def device(self, dev: int) -> str | None:
        """Return the block device itself: a mapped volume, or the disk of a partition.

        None for what is none, as filesystems of the network are.
        """
        return self._path(dev)[0] or None

    def below(self, dev: int) -> str | None:
        """Return the one disk that holds a device, through partitions and mapped volumes.

        None for what lies on several disks or on none.
        """
        return self._path(dev)[-1] or None

    def _path(self, dev: int) -> tuple[str, ...]:
        if dev not in self._paths:
            at = self._folder / f"{dev >> MINOR_BITS}:{dev & ((1 << MINOR_BITS) - 1)}"
            self._paths[dev] = tuple(_path(at.resolve())) if dev >> MINOR_BITS else ("",)
        return self._paths[dev]


def _path(device: Path) -> Iterator[str]:
    """Yield the names from the folder of a device down to its one disk, or to ""."""
    for _ in range(_DEEPEST):
        if not device.is_dir():
            break
        if (device / "partition").exists():
            device = device.parent
        yield device.name
        slaves = _names(device / "slaves")
        if not slaves:
            return
        if len(slaves) > 1:
            break
        device = (device / "slaves" / slaves[0]).resolve()
    yield ""


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
