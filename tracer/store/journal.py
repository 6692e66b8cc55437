"""The journal: what was recorded since the last sealing, safe against ``kill -9``.

All its files are opened when recording starts, because later an open() may be
held by the very agent that is being observed. There are two sets: while one is
being sealed, which needs opens and may hang, intervals go to the other.
"""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tracer.schema import TABLES
from tracer.store.layout import JOURNAL_FOLDER, LETTERS, journal_file

Pwrite = Callable[[int, bytes, int], int]


class JournalFile:
    """One append-only file that never ends in half a message, unless the process is killed."""

    def __init__(self, fd: int, pwrite: Pwrite = os.pwrite) -> None:
        self.fd = fd
        self._pwrite = pwrite
        self.size = 0

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end; on OSError the file is as it was before."""
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                written += self._pwrite(self.fd, view[written:], self.size + written)  # type: ignore[arg-type]
        except OSError:
            os.ftruncate(self.fd, self.size)
            raise
        self.size += len(data)

    def clear(self) -> None:
        """Make the file empty, to be used again."""
        os.ftruncate(self.fd, 0)
        self.size = 0


class JournalSet:
    """One segment's journal: a file for each table. Empty until ``begin`` and a first row.

    It takes no more than ``limit`` bytes: while sealing is held up, all goes in here.
    """

    def __init__(self, files: Mapping[str, JournalFile], limit: int = 1 << 62) -> None:
        self.files = files
        self._limit = limit
        self._headers: dict[str, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def begin(self, headers: Mapping[str, bytes]) -> None:
        """Start a segment in cleared files; ``headers`` are the streams' first messages."""
        self._headers = dict(headers)

    def append(self, table: str, data: bytes) -> None:
        """Add a message to a table's stream; raises OSError, with nothing half written."""
        file = self.files[table]
        if self.size + len(data) > self._limit:
            raise OSError(errno.EDQUOT, "the journal has reached --max-size")
        file.append(data if file.size else self._headers[table] + data)

    def clear(self) -> None:
        """Forget a segment that is sealed."""
        for file in self.files.values():
            file.clear()


class JournalFolder:
    """A recording's journal folder, locked for as long as its writer lives."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def create(cls, capture: Path, name: Callable[[int], str]) -> JournalFolder:
        """Make the folder under the first ``name(0), name(1), ..`` that is free.

        Raises OSError.
        """
        for number in itertools.count():
            path = capture / JOURNAL_FOLDER / name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            folder = cls.claim(path)
            if folder is not None:
                return folder
        raise AssertionError("unreachable: numbers do not end")

    @classmethod
    def claim(cls, path: Path) -> JournalFolder | None:
        """Return the folder of a writer that is dead; None if it lives or the folder is gone."""
        try:
            lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_fd)
            return None
        return cls(path, lock_fd)

    def open_sets(self, limit: int = 1 << 62, pwrite: Pwrite = os.pwrite) -> list[JournalSet]:
        """Create and open the files of both sets. On OSError none stays open."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        opened: list[int] = []
        try:
            for letter in LETTERS:
                for table in TABLES:
                    path = journal_file(self.path, table.name, letter)
                    opened.append(os.open(path, flags, 0o644))
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        files = [JournalFile(fd, pwrite) for fd in opened]
        names = [table.name for table in TABLES]
        return [
            JournalSet(dict(zip(names, files[at : at + len(names)], strict=True)), limit)
            for at in range(0, len(files), len(names))
        ]

    def remove(self) -> None:
        """Delete the folder and what is in it, then let go of the lock."""
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()
        self.leave()

    def leave(self) -> None:
        """Let go of the lock and leave the folder to the next writer's recovery."""
        os.close(self._lock_fd)


class Message(NamedTuple):
    """One record batch on its way to the journal."""

    table: str
    data: bytes
    rows: int


class Backlog:
    """Messages that could not be written yet, oldest first, within a bound.

    Almost always empty: it fills when the disk is full.
    """

    BOUND_BYTES: Final = 64 << 20

    def __init__(self, bound_bytes: int = BOUND_BYTES) -> None:
        self._bound = bound_bytes
        self._messages: deque[Message] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(message.rows for message in self._messages)

    def add(self, message: Message) -> int:
        """Queue a message; return how many rows were dropped to stay within the bound."""
        self._messages.append(message)
        self._bytes += len(message.data)
        dropped = 0
        while self._bytes > self._bound:
            oldest = self._messages.popleft()
            self._bytes -= len(oldest.data)
            dropped += oldest.rows
        return dropped

    def write_to(self, journal: JournalSet) -> None:
        """Write all messages in order; on OSError those not written stay."""
        while self._messages:
            journal.append(self._messages[0].table, self._messages[0].data)
            self._bytes -= len(self._messages.popleft().data)


class FileSlice(io.RawIOBase):
    """Reads an open file from its begin, without an open() and without moving its offset."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill ``buffer`` from the file, up to the size given at the start."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = os.pread(self._fd, min(len(view), self._size - self._at), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
