"""Things made once and kept in the cache, however many labs ask for them at the same time."""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lablib import places


def digest(*parts: str | bytes) -> str:
    """A short name for what goes into a cached thing."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; it goes with the process, whatever happens to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cached folder of that key, made by `make` in a temporary folder and then renamed."""
    final = places.cache() / kind / key
    if final.exists():
        return final
    with locked(final.parent / f"{key}.lock"):
        if not final.exists():
            draft = final.parent / f"{key}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            make(draft)
            draft.rename(final)
    return final
