"""The host's texts that the collector reads while it runs, through descriptors opened before.

The host's filesystems may all hang by then: nothing here opens a file once it is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tracer.procfs.exports import exported_devices

# Texts the writer turns into samples; whichever exist.
SAMPLED: Final = (
    "/proc/stat",
    "/proc/meminfo",
    "/proc/diskstats",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/net/netstat",
    "/proc/loadavg",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
)
_DISKS: Final = Path("/sys/block")
_EXPORTS: Final = ("/proc/fs/nfsd/exports", "/proc/self/mountinfo")
_READ_BYTES: Final = 1 << 16
_MESSAGE_BYTES: Final = 8192


class Samples:
    """The texts to sample; those this kernel lacks are left out."""

    def __init__(self, paths: Sequence[str] = SAMPLED, disks: Path = _DISKS) -> None:
        # Whether a volume of the device mapper lets no I/O through for now.
        volumes = sorted(map(str, disks.glob("*/dm/suspended")))
        names = [*paths, *volumes]
        self._fds = {path: fd for path in names if (fd := _opened(path)) is not None}

    def read(self) -> dict[str, str]:
        """Return path -> text of those that can be read now."""
        texts: dict[str, str] = {}
        for path, fd in self._fds.items():
            try:
                texts[path] = whole(fd).decode(errors="replace")
            except OSError:  # PSI files answer EOPNOTSUPP where pressure is switched off
                continue
        return texts


class Texts:
    """Several texts that only together make sense."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._fds = [_opened(path) for path in paths]

    def read(self) -> tuple[bytes, ...] | None:
        """Return them as they are now, in order; None if one of them cannot be read."""
        fds = [fd for fd in self._fds if fd is not None]
        if len(fds) < len(self._fds):
            return None
        try:
            return tuple(map(whole, fds))
        except OSError:
            return None


class Exported:
    """The filesystems that nfsd exports."""

    def __init__(self, paths: Sequence[str] = _EXPORTS) -> None:
        self._texts = Texts(paths)

    def devices(self) -> frozenset[int] | None:
        """Return the dev_t of each now; None on a host without nfsd, or if it cannot be told."""
        texts = self._texts.read()
        return None if texts is None else exported_devices(*texts)


class Message(NamedTuple):
    """One message of the kernel's log."""

    mono_us: int
    text: str


class KernelLog:
    """What the kernel logs from now on; nothing where /dev/kmsg may not be read."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self._fd = _opened(path)
        if self._fd is None:
            return
        try:
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._close()

    def read(self) -> Iterator[Message]:
        """Yield the messages since the last call."""
        while self._fd is not None:
            try:
                line = os.read(self._fd, _MESSAGE_BYTES).decode(errors="backslashreplace")
            except BlockingIOError:
                return
            except BrokenPipeError:  # overwritten before we read it; go on with the next
                continue
            except OSError:
                self._close()
                return
            head, _, text = line.partition(";")
            fields = head.split(",")
            if len(fields) > 2 and fields[2].isdigit():
                yield Message(int(fields[2]), text.split("\n", 1)[0])

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def whole(fd: int) -> bytes:
    """Return a file of /proc from its beginning; one read gives a page of it at most.

    Raises OSError.
    """
    parts: list[bytes] = []
    at = 0
    while part := os.pread(fd, _READ_BYTES, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
