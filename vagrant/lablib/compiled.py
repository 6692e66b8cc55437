"""BPF programs that guests have compiled, kept for the next: it takes each of them a minute."""

import json
import os
import shutil
from pathlib import Path

from lablib import places, wheels
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


def is_prepared(guest: Guest) -> bool:
    """Whether it has what one like it had when that was prepared: loading all takes 20 s again."""
    mark = _mark(guest)
    had = mark.read_text().split() if mark.exists() else []
    return bool(had) and names(guest).issuperset(had)


def take(guest: Guest) -> None:
    """Keeps what a guest that is prepared has compiled, and none before it."""
    there = names(guest)
    folder().mkdir(parents=True, exist_ok=True)
    for name in there:
        final = folder() / name
        if final.exists():
            continue
        found = guest.run(["cat", f"{IN_GUEST}/{name}"])
        if found.returncode == 0:
            draft = final.with_suffix(f".{os.getpid()}")
            draft.write_bytes(found.stdout)
            draft.replace(final)
    _mark(guest).write_text(" ".join(there))


def names(guest: Guest) -> set[str]:
    """What a guest was given or has compiled."""
    return set(guest.run(["ls", IN_GUEST]).stdout.decode().split())


def _mark(guest: Guest) -> Path:
    """Where it is kept what a guest of this kernel, side and nfsblame had: one of these fits."""
    kernel = json.loads((guest.folder.parent / "lab.json").read_text())["kernel"]
    side = "server" if guest.name == "server" else "client"
    return folder() / f"{wheels.of_nfsblame().name}-{kernel}-{side}"
