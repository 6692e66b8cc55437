"""Keeps a recording on disk: journal each interval, seal now and then, stay within the bound.

Sealing and removing may hang for long, because they open files: they happen in a
thread of their own, and intervals reach the journal all the while.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tracer.errors import Exit, NfsblameError
from tracer.schema import TABLES
from tracer.store.arrow import header, message, record_batch
from tracer.store.footer import Footer
from tracer.store.journal import Backlog, JournalFolder, JournalSet, Message, Pwrite
from tracer.store.layout import recording_name, segment_name
from tracer.store.retention import enforce
from tracer.store.sealed import seal
from tracer.store.unsealed import recover

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Say = Callable[[str], None]

_RETRY_SEAL_S: Final = 10.0
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Where to write, how much, and when to seal."""

    output: Path
    max_bytes: int
    rotate_bytes: int = 16 * _MIB
    rotate_seconds: float = 900.0
    memory_bytes: int = 64 * _MIB

    @property
    def segment_bytes(self) -> int:
        """Journal size at which to seal: small enough that old segments can make room."""
        return max(1, min(self.rotate_bytes, self.max_bytes // 8))


class Keeper:
    """One recording's files.

    ``say`` takes what the user must know at once, ``notes`` collects what belongs
    into the capture's events and ``dropped`` the rows that found no place: the
    caller takes both into the next interval's rows.
    """

    def __init__(
        self, settings: Settings, footer: Footer, say: Say, pwrite: Pwrite = os.pwrite
    ) -> None:
        self.notes: list[str] = []
        self.dropped = 0
        self._settings = settings
        self._say = say
        self._pwrite = pwrite
        self._backlog = Backlog(settings.memory_bytes)
        self._in_trouble = False
        self._folder: JournalFolder | None = None
        self._sets: list[JournalSet] = []  # the one in use first
        self._segments = 0
        self._began = 0.0
        # Sealing: the set that is being sealed, if any, and the job in the thread.
        self._thread = ThreadPoolExecutor(1, "seal")
        self._sealing: tuple[JournalSet, Footer] | None = None
        self._job: Future[list[str]] | None = None
        self._retry_at = 0.0
        try:
            self._open(footer)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise NfsblameError(
                    f"cannot write to {settings.output} ({error.strerror}): "
                    "give a folder on a local disk with -o",
                    Exit.USAGE,
                ) from error
            self._tell_trouble(error)
        self._job = self._thread.submit(recover, settings.output)

    @property
    def busy(self) -> bool:
        """Whether the thread is at work: sealing, removing, or recovering."""
        return self._job is not None and not self._job.done()

    def add(self, rows: Rows, footer: Footer) -> bool:
        """Write one interval; return whether a new segment begins with the next one.

        Never raises for a disk that cannot take it: what is not written is kept in
        memory, up to the bound, and tried again with the next interval.
        """
        for table in TABLES:
            if rows[table.name]:
                batch = record_batch(table, rows[table.name])
                self.dropped += self._backlog.add(
                    Message(table.name, message(batch), batch.num_rows)
                )
        self._write(footer)
        self._tend_sealing()
        return self._rotate(footer)

    def make_room(self) -> None:
        """Remove what is over the bound now, so that the note of it can still be written."""
        if self._job is not None:
            self._collect(wait=True)
        self._job = self._thread.submit(self._enforce)
        self._collect(wait=True)

    def finish(self, footer: Footer) -> bool:
        """Seal what is left and end; return whether all of it is on disk.

        Blocks as long as the disk does. Where sealing fails the journal stays: it
        is complete, and read as well as Parquet.
        """
        self._write(footer)
        if self._job is not None:
            self._collect(wait=True)
        if self._sealing is not None:  # failed before: once more
            self._submit_seal()
            self._collect(wait=True)
        if self._sets and self._sets[0].size and self._sealing is None:
            self._sealing = (self._sets[0], self._stamped(footer))
            self._submit_seal()
            self._collect(wait=True)
        self._thread.shutdown()
        if len(self._backlog):
            self._say(
                f"{self._settings.output} never had room for the last {self._backlog.rows} rows: "
                "they are lost; free space there before you record again"
            )
        if self._folder is not None:
            if self._sealing is None:
                with suppress(OSError):  # empty journals are harmless
                    self._folder.remove()
            else:
                self._folder.leave()
        return not len(self._backlog)

    def _open(self, footer: Footer) -> None:
        """Open every file that writing the journal needs. Raises OSError."""

        def name(number: int) -> str:
            return recording_name(footer.start_us, footer.host, footer.boot_id, number)

        self._folder = self._folder or JournalFolder.create(self._settings.output, name)
        self._sets = self._folder.open_sets(self._settings.max_bytes, self._pwrite)
        self._begin(footer)

    def _begin(self, footer: Footer) -> None:
        """Start a segment in the set that is in use."""
        self._segments += 1
        self._began = time.monotonic()
        metadata = self._stamped(footer).to_json()
        self._sets[0].begin({table.name: header(table, metadata) for table in TABLES})

    def _stamped(self, footer: Footer) -> Footer:
        """Return the footer with the names that only the keeper knows."""
        assert self._folder is not None
        recording = self._folder.path.name
        return replace(footer, recording=recording, segment=segment_name(recording, self._segments))

    def _write(self, footer: Footer) -> None:
        """Bring the backlog, usually one interval, into the journal."""
        try:
            if not self._sets:
                self._open(footer)
            self._backlog.write_to(self._sets[0])
        except OSError as error:
            self._tell_trouble(error)
            return
        if self._in_trouble:
            self._in_trouble = False
            lost = f"; {self.dropped} rows had to be dropped" if self.dropped else ", nothing lost"
            self._say(f"writing to {self._settings.output} again{lost}")
            self.notes.append(f"writing again{lost}")

    def _tell_trouble(self, error: OSError) -> None:
        if self._in_trouble:
            return
        self._in_trouble = True
        self._say(
            f"cannot write to {self._settings.output} ({error.strerror}): recording goes on in "
            f"memory, up to {self._settings.memory_bytes // _MIB} MiB; free space there and it "
            "will be written"
        )
        self.notes.append(f"cannot write: {error.strerror}; kept in memory")

    def _rotate(self, footer: Footer) -> bool:
        """Hand the segment to sealing and begin another if it is time and sealing is idle."""
        if not self._sets or self._sealing is not None or self._job is not None:
            return False
        size = self._sets[0].size
        due = size >= self._settings.segment_bytes or (
            size and time.monotonic() - self._began >= self._settings.rotate_seconds
        )
        if not due or len(self._backlog):
            return False
        self._sealing = (self._sets[0], self._stamped(footer))
        self._sets.reverse()
        self._begin(footer)
        self._submit_seal()
        return True

    def _tend_sealing(self) -> None:
        """Take the outcome of a job that has ended; try a failed one again after a while."""
        if self._job is not None:
            self._collect(wait=False)
        elif self._sealing is not None and time.monotonic() >= self._retry_at:
            self._submit_seal()

    def _submit_seal(self) -> None:
        assert self._sealing is not None
        self._job = self._thread.submit(self._seal, *self._sealing)

    def _seal(self, journal: JournalSet, footer: Footer) -> list[str]:
        """Make room, then seal. Runs in the thread."""
        notes = self._enforce()
        seal(self._settings.output, journal, footer)
        journal.clear()
        return notes

    def _enforce(self) -> list[str]:
        removed = enforce(self._settings.output, self._settings.max_bytes)
        return [removed] if removed else []

    def _collect(self, wait: bool) -> None:
        """Take over what the job in the thread came to, if it has ended or ``wait`` is set."""
        assert self._job is not None
        if not (wait or self._job.done()):
            return
        try:
            self.notes += self._job.result()
        except OSError as error:
            if not self._retry_at:
                self._say(
                    f"cannot seal in {self._settings.output} ({error.strerror}): the data is "
                    "safe in the journal there, `nfsblame report` reads it; free space and the "
                    "next recording there seals it"
                )
            self._retry_at = time.monotonic() + _RETRY_SEAL_S
        if self._sealing is not None and not self._sealing[0].size:
            self._sealing = None
        self._job = None
