"""What comes and goes on the host while it is recorded: mounts, exports, nfsd, modules.

Recording goes on over all of it; the capture says that it happened. Readings are
texts of /proc, compared with the ones before. What cannot be read is no change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.procfs.aside import Aside
from tracer.rows.text import decoded

_MODULES: Final = frozenset(
    {"nfsd", "nfs", "nfsv3", "nfsv4", "lockd", "sunrpc", "auth_rpcgss", "rpcsec_gss_krb5"}
)
_FILESYSTEMS: Final = (b"nfs", b"nfs4")


class Change(NamedTuple):
    """One change: ``name`` is that of the event, ``text`` says it."""

    name: str
    text: str


class Reading(NamedTuple):
    """What is there; None where it could not be read."""

    mounts: frozenset[str] | None
    exports: frozenset[str] | None
    modules: frozenset[str] | None
    threads: int | None
    """nfsd threads; 0 where no server runs."""

    def to_json(self) -> dict[str, Any]:
        """Return what json.dumps takes."""
        return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in self._asdict().items()}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Reading:
        """Return the reading that ``to_json`` made this of; what is missing is unknown."""
        sets = (found.get(name) for name in ("mounts", "exports", "modules"))
        mounts, exports, modules = (None if one is None else frozenset(one) for one in sets)
        return cls(mounts, exports, modules, found.get("threads"))


def parse_mounts(mountinfo: bytes) -> frozenset[str]:
    """Return the NFS mounts in /proc/PID/mountinfo as ``SOURCE on POINT``, octal escapes as is."""
    found = set()
    for line in mountinfo.split(b"\n"):
        fields, rest = line.split(b" "), line.partition(b" - ")[2].split(b" ")
        if rest[0] in _FILESYSTEMS and len(rest) > 1 and len(fields) > 4:
            found.add(f"{decoded(rest[1])} on {decoded(fields[4])}")
    return frozenset(found)


def parse_exports(etab: bytes) -> frozenset[str]:
    """Return the exports in etab as ``PATH to CLIENT``, octal escapes as is."""
    found = set()
    for line in etab.split(b"\n"):
        path, _, rest = line.partition(b"\t")
        if rest:
            found.add(f"{decoded(path)} to {decoded(rest.partition(b'(')[0])}")
    return frozenset(found)


def parse_modules(modules: bytes) -> frozenset[str]:
    """Return the modules of NFS in /proc/modules."""
    names = (line.partition(b" ")[0].decode("ascii", "replace") for line in modules.split(b"\n"))
    return frozenset(names) & _MODULES


def parse_threads(stats: bytes) -> int | None:
    """Return the number of threads in /proc/net/rpc/nfsd; None if it is not there."""
    for line in stats.split(b"\n"):
        words = line.split()
        if words[:1] == [b"th"] and len(words) > 1 and words[1].isdigit():
            return int(words[1])
    return None


def changes(old: Reading, new: Reading) -> Iterator[Change]:
    """Yield what differs between two readings."""
    for name, before, after, came, went in (
        ("mounts", old.mounts, new.mounts, "mounted", "unmounted"),
        ("exports", old.exports, new.exports, "exported", "no longer exported"),
        ("modules", old.modules, new.modules, "loaded", "unloaded"),
    ):
        if before is None or after is None:
            continue
        yield from (Change(name, f"{went}: {item}") for item in sorted(before - after))
        yield from (Change(name, f"{came}: {item}") for item in sorted(after - before))
    if old.threads is not None and new.threads is not None and old.threads != new.threads:
        yield Change("nfsd", f"from {old.threads} to {new.threads} nfsd threads")


class Exports:
    """The text of etab, which lies on a disk that may hang; read anew when it has changed."""

    def __init__(self, path: Path, aside: Aside) -> None:
        self._path = path
        self._aside = aside
        self._stamp: tuple[int, int] | None = None
        self._text: bytes | None = None

    def __call__(self) -> bytes | None:
        """Return it as last seen; None as long as it was never read."""
        if self._aside.ask("etab", self._look):
            self._text = self._aside.take("etab")
        return self._text

    def _look(self) -> bytes | None:
        try:
            stat = self._path.stat()
            # To open it each time would be work for the very agent under observation.
            stamp = (stat.st_ino, stat.st_mtime_ns)
            if stamp == self._stamp:
                return self._text
            text = self._path.read_bytes()
        except OSError:
            return self._text
        self._stamp = stamp
        return text


class Watch:
    """Compares what is there with what was; ``first`` is from when recording began."""

    def __init__(self, proc: Path, exports: Callable[[], bytes | None], first: Reading) -> None:
        self._proc = proc
        self._exports = exports
        self._last = first
        self._counted = first.threads

    @property
    def threads(self) -> int | None:
        """Return how many nfsd threads there were last; 0 without a server, None if unknown."""
        return self._last.threads

    def changes(self) -> list[Change]:
        """Return what has changed since the last call."""
        old, new, etab = self._last, look(self._proc), self._exports()
        threads = self._settled(new.threads)
        # What could not be read now is compared when it can be again.
        self._last = Reading(
            mounts=old.mounts if new.mounts is None else new.mounts,
            exports=old.exports if etab is None else parse_exports(etab),
            modules=old.modules if new.modules is None else new.modules,
            threads=old.threads if threads is None else threads,
        )
        return list(changes(old, self._last))

    def _settled(self, threads: int | None) -> int | None:
        """Return the number if it was the same at the last look; None if it may be on its way.

        nfsd threads come and go one by one, which takes some ms. On its way to none there
        is nothing beyond it.
        """
        same, self._counted = threads == self._counted, threads
        return threads if same or threads == 0 else None


def look(proc: Path) -> Reading:
    """Return what is there now but for the exports, whose list lies on a disk."""
    mounts, modules = _read(proc / "self/mountinfo"), _read(proc / "modules")
    stats = _read(proc / "net/rpc/nfsd")
    return Reading(
        mounts=None if mounts is None else parse_mounts(mounts),
        exports=None,
        modules=None if modules is None else parse_modules(modules),
        # The file is the module's: without it there is no server.
        threads=0 if stats is None and modules is not None else parse_threads(stats or b""),
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
