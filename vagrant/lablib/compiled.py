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
    for path in newest():
        shutil.copy(path, target)


def newest() -> list[Path]:
    """Those that guests to come are given."""
    return sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)[-_NEWEST:]


def is_prepared(guest: Guest) -> bool:
    """Whether one of its kernel and side was, with this nfsblame: loading all takes 20 s again."""
    mark = _mark(guest)
    there = {path.name for path in newest()}
    return mark.exists() and there.issuperset(mark.read_text().split())


def _mark(guest: Guest) -> Path:
    """Lists what guests were given when one like this was prepared: one of these fits."""
    kernel = json.loads((guest.folder.parent / "lab.json").read_text())["kernel"]
    side = "server" if guest.name == "server" else "client"
    return folder() / f"{wheels.of_nfsblame().name}-{kernel}-{side}"


def take(guest: Guest) -> None:
    """Keeps what a guest that is prepared has compiled, and none before it."""
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
    _mark(guest).write_text(" ".join(path.name for path in newest()))
