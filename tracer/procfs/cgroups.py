"""Control groups by the kernel's id: what a process was in that has ended with its group.

The id is the inode number of the group's folder and is never used again, so a
path that was found once stays right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracer.rows.text import decoded

_MOST: Final = 1 << 16


class Cgroups:
    """Paths in the v2 hierarchy under ``root`` (/sys/fs/cgroup), kept after their end."""

    def __init__(self, root: Path) -> None:
        unified = root / "unified"  # of a host that has v1 as well
        self._hybrid = unified.is_dir()
        self._root = unified if self._hybrid else root
        self._is_v2 = (self._root / "cgroup.controllers").exists()
        self._paths: dict[int, str] = {}
        self._walked = False

    def new_interval(self) -> None:
        """Let ids that were unknown so far be looked for once more."""
        self._walked = False

    def path(self, identifier: int) -> str | None:
        """Return the path of a group; None if it ended before it was ever looked for."""
        if identifier not in self._paths and not self._walked and self._is_v2:
            self._walked = True
            if len(self._paths) > _MOST:
                self._paths.clear()
            self._paths.update(_walk(self._root))
            if self._hybrid:  # processes that no one has put anywhere in v2
                self._paths.pop(_inode(self._root), None)
        return self._paths.get(identifier)


def _walk(root: Path) -> Iterator[tuple[int, str]]:
    """Yield (inode, path) of every folder under ``root``, the highest first."""
    yield _inode(root), "/"
    folders = [(os.fsencode(root), "")]
    left = _MOST
    while folders and left:
        folder, path = folders.pop()
        try:
            with os.scandir(folder) as entries:
                below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # it has ended meanwhile
            continue
        for entry in below[:left]:
            left -= 1
            name = f"{path}/{decoded(entry.name)}"
            yield entry.inode(), name
            folders.append((entry.path, name))


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0
