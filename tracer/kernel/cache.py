"""Compiled objects on disk, so that a second start needs no compiler.

The key covers all that went in: the source, the -D flags (with them the kernel's
layout) and the machine. What is loaded into the kernel as root must have been
written by root: anything else in the folder is not believed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tracer import __version__
from tracer.kernel.objects import Object

FOLDER: Final = Path("/var/cache/nfsblame")


def key(source: str, flags: Sequence[str]) -> str:
    """Return the name under which an object is kept."""
    text = "\0".join((__version__, platform.machine(), source, *flags))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(name: str, folder: Path = FOLDER) -> Object | None:
    """Return the object kept under a name, None if there is none to be trusted."""
    path = folder / f"{name}.json"
    try:
        with path.open() as file:
            for status in (os.fstat(file.fileno()), folder.stat()):
                if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return None
            return Object.from_json(file.read())
    except (OSError, ValueError):
        return None


def store(name: str, content: Object, folder: Path = FOLDER) -> None:
    """Keep an object. Raises OSError if the folder cannot be written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content.to_json())
        Path(draft).replace(folder / f"{name}.json")
    except OSError:
        Path(draft).unlink()
        raise
