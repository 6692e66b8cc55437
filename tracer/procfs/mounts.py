"""Which mount point a device number in the kernel stands for, and when.

Device numbers of NFS are used again after umount, and one filesystem may be mounted
in many places and in namespaces that ours does not see. So each reading of mountinfo
is kept with the time for which it may hold, and what it leaves open is unknown.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.containers import volume_of_mount
from tracer.rows.text import decoded

MINOR_BITS: Final = 20
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_EVER: Final = 1 << 62


class Mount(NamedTuple):
    """One line of mountinfo: which folder of which source is mounted where.

    The folder alone does not tell: NFS calls the root of every mount ``/``, though two
    of one filesystem may be of different folders of the server.
    """

    source: str
    point: str


class Place(NamedTuple):
    """Where an operation was: mount point and volume of its pod, None where unknown."""

    point: str | None = None
    volume: str | None = None


NOWHERE: Final = Place()
Mounted = Mapping[int, tuple[Mount, ...]]
"""The kernel's dev_t -> its mounts, the oldest first."""


def parse_mountinfo(text: bytes) -> Mounted:
    """Return the mounts of every device in /proc/PID/mountinfo."""
    mounts: defaultdict[int, tuple[Mount, ...]] = defaultdict(tuple)
    # Paths are any bytes; of separators only the newline is escaped.
    for line in text.split(b"\n"):
        fields = line.split(b" ")
        major, _, minor = fields[2].partition(b":") if len(fields) > 4 else (b"", b"", b"")
        if major.isdigit() and minor.isdigit():
            dev = int(major) << MINOR_BITS | int(minor)
            # After the separator: type, source, options.
            rest = line.partition(b" - ")[2].split(b" ")
            source = b"".join(rest[1:2]).rstrip(b"/") + fields[3]
            mounts[dev] += (Mount(unescaped(source), unescaped(fields[4])),)
    return dict(mounts)


def place_of(mounts: Iterable[Mount], pod_uid: str | None) -> Place:
    """Return where a process is in a filesystem that is mounted in these places.

    That is the volume of its own pod; else the mount that the others are parts of, the
    oldest if they are the same. Unknown where several parts are mounted side by side.
    """
    volumes = {mount: volume_of_mount(mount.point) for mount in mounts}
    own = [m for m, volume in volumes.items() if volume and volume.pod_uid == pod_uid]
    candidates = own or list(volumes)
    names = {volume.name if volume else None for volume in map(volumes.get, candidates)}
    # One that is in no pod, or whose pod is unknown, is in the volume if nothing else can be.
    volume = names.pop() if len(names) == 1 and (own or pod_uid is None) else None
    for mount in candidates:
        if all(_is_part(other.source, mount.source) for other in candidates):
            return Place(mount.point, volume)
    return Place(None, volume)


@dataclass(slots=True)
class _State:
    """The mounts of a device; from and until are the readings when they were not so."""

    mounts: tuple[Mount, ...]
    from_ns: int
    until_ns: int = _EVER


@dataclass(slots=True)
class _Namespace:
    """What one mount namespace has mounted, by device, over the interval."""

    read_ns: int = 0
    text: bytes = b""
    states: dict[int, list[_State]] = field(default_factory=dict)

    def update(self, text: bytes, read_ns: tuple[int, int], begin_ns: int) -> None:
        """Take in what mountinfo was between two times; forget what was over at ``begin_ns``."""
        before_ns, (self.read_ns, now_ns) = self.read_ns, read_ns
        if text == self.text:
            return
        self.text = text
        mounted = parse_mountinfo(text)
        for dev in self.states.keys() | mounted.keys():
            states = [state for state in self.states.get(dev, []) if state.until_ns > begin_ns]
            open_ = states[-1] if states and states[-1].until_ns == _EVER else None
            now = mounted.get(dev, ())
            if open_ is None or open_.mounts != now:
                if open_ is not None:
                    open_.until_ns = now_ns
                if now:
                    states.append(_State(now, before_ns))
            self.states[dev] = states

    def over(self, begin_ns: int) -> bool:
        """Return whether nothing has been mounted in it since ``begin_ns``."""
        return all(s.until_ns <= begin_ns for states in self.states.values() for s in states)

    def during(self, dev: int, begin_ns: int, end_ns: int) -> list[tuple[Mount, ...]]:
        """Return all that a device may have been mounted as in an interval."""
        return [
            state.mounts
            for state in self.states.get(dev, [])
            if state.from_ns < end_ns and state.until_ns > begin_ns
        ]


class Mounts:
    """Mount points by device, of our own mount namespace and of others.

    ``proc_root`` is /proc. Times are CLOCK_MONOTONIC ns. No descriptor of another
    namespace is kept: it would keep the namespace, and all that is mounted there.
    """

    def __init__(self, proc_root: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._proc = proc_root
        self._clock = clock
        self._own = _Namespace()
        self._others: dict[str, _Namespace] = {}
        self._interval = (0, _EVER)
        self._read: set[str] = set()  # in this interval

    def new_interval(self, begin_ns: int, end_ns: int) -> None:
        """Answer for what ended in this interval, which is over, from now on."""
        self._interval = (begin_ns, end_ns)
        self._read.clear()

    def discover(self) -> None:
        """Read the mounts of every namespace that a process is in."""
        found = set()
        began_ns = self._clock()
        for pid in _numbers(self._proc):
            name = self._namespace(pid)
            if name is not None and name not in found:
                found.add(name)
                self._update(name, pid)
        for name in self._others.keys() - found:
            # The last process may have ended while we looked.
            self._others[name].update(b"", (began_ns, self._clock()), self._interval[0])
            if self._others[name].over(self._interval[0]):
                del self._others[name]

    def place(self, dev: int, pid: int, pod_uid: str | None) -> Place:
        """Return where a process was in the filesystem ``dev``; pid 0 is none, dev 0 too."""
        if not dev:
            return NOWHERE
        self._update("own", None)
        states = self._own.during(dev, *self._interval)
        if states:
            return _agreed(states, pod_uid)
        name = self._namespace(pid) if pid else None
        if name is not None:
            self._update(name, pid)
            states = self._others[name].during(dev, *self._interval) if name in self._others else []
            if states:
                return _agreed(states, pod_uid)
        if "all" not in self._read:
            self._read.add("all")
            self.discover()
        return _agreed(
            (
                state
                for namespace in self._others.values()
                for state in namespace.during(dev, *self._interval)
            ),
            pod_uid,
        )

    def _update(self, name: str, pid: int | None) -> None:
        """Read a namespace's mountinfo, once in an interval."""
        if name in self._read:
            return
        self._read.add(name)
        began_ns = self._clock()
        try:
            process = "self" if pid is None else str(pid)
            text = (self._proc / process / "mountinfo").read_bytes()
        except OSError:
            return
        if pid is not None and self._namespace(pid) != name:  # it moved, or ended
            return
        namespace = self._own if pid is None else self._others.setdefault(name, _Namespace())
        namespace.update(text, (began_ns, self._clock()), self._interval[0])

    def _namespace(self, pid: int) -> str | None:
        """Return the name of a process's mount namespace; None if it has ended."""
        try:
            return str((self._proc / str(pid) / "ns/mnt").readlink())
        except OSError:
            return None


def _agreed(states: Iterable[tuple[Mount, ...]], pod_uid: str | None) -> Place:
    """Return the place that all states lead to; None for what they differ in."""
    places = {place_of(state, pod_uid) for state in states}
    points = {place.point for place in places}
    volumes = {place.volume for place in places}
    return Place(
        points.pop() if len(points) == 1 else None, volumes.pop() if len(volumes) == 1 else None
    )


def _is_part(source: str, of: str) -> bool:
    return f"{source.rstrip('/')}/".startswith(f"{of.rstrip('/')}/")


def unescaped(field_: bytes) -> str:
    """Return a path of /proc with its octal escapes (of space, tab, newline, ...) undone."""
    return decoded(_ESCAPE.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), field_))


def _numbers(folder: Path) -> Iterator[int]:
    try:
        yield from (int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
    except OSError:
        return
