"""BPF programs that guests have compiled, kept for the next: it takes each of them a minute."""

import os
import shutil
from pathlib import Path

from lablib import places
from lablib.guest import Guest

# Where nfsblame keeps them, by all that went into them.
IN_GUEST = "/var/cache/nfsblame"
# Those of a version are one for each kernel and each set of sides.
_NEWEST = 16


def folder() -> Path:
    """Where they are kept."""
    return places.cache() / "compiled"


def add(payload: Path) -> None:
    """Gives the newest to guests to come; nfsblame itself finds out whether one fits."""
    target = payload / "compiled"
    target.mkdir()
    kept = sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in kept[-_NEWEST:]:
        shutil.copy(path, target)


def take(guest: Guest) -> None:
    """Keeps what this guest has compiled, and none before it."""
    for name in guest.run(["ls", IN_GUEST]).stdout.decode().split():
        final = folder() / name
        if final.exists():
            continue
        found = guest.run(["cat", f"{IN_GUEST}/{name}"])
        if found.returncode == 0:
            final.parent.mkdir(parents=True, exist_ok=True)
            draft = final.with_suffix(f".{os.getpid()}")
            draft.write_bytes(found.stdout)
            draft.replace(final)
