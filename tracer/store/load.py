"""Loads the files of captures: segments with their tables, and what was wrong with others.

One damaged file costs that file: it is named in ``problems``. Files of another
schema version end the command, because what they mean is not known here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tracer import __version__
from tracer.errors import Exit, NfsblameError
from tracer.schema import SCHEMA_VERSION, TABLES
from tracer.store.arrow import METADATA_KEY
from tracer.store.checked import Unfit, checked
from tracer.store.footer import BadFooter, Footer, OtherVersion
from tracer.store.layout import SealedFile, is_capture, journals, safe_host, sealed_files
from tracer.store.unsealed import read_segments

_DEPTH: Final = 4  # of folders that hold captures of many hosts
_MAX_ROWS: Final = 100_000_000
_MAX_BYTES: Final = 8 << 30
_BY_NAME: Final = {table.name: table for table in TABLES}


@dataclass(slots=True)
class Segment:
    """All tables of one segment."""

    footer: Footer
    tables: dict[str, list[pa.Table]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is missing; ``host`` as it stands in paths, None if not known."""

    text: str
    host: str | None = None


@dataclass(slots=True)
class Loaded:
    """What some folders hold."""

    segments: dict[str, Segment] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    recording: set[str] = field(default_factory=set)
    """Recordings whose writer is at work."""


def load(paths: Iterable[Path]) -> Loaded:
    """Load every capture under ``paths``. Raises NfsblameError for what is none."""
    loaded = Loaded()
    seen: set[tuple[str, str]] = set()  # (table, segment and day): copies count once
    for path in paths:
        for capture in capture_folders(path):
            # A journal is cleared only after its Parquet is there: read in this order
            # nothing is missed, and what is in both is taken from the journal.
            in_journal = _load_journals(capture, loaded)
            for file in sealed_files(capture):
                key = (file.table, f"{file.path.parent.parent.name}/{file.segment}")
                if key in seen or (file.table, file.segment) in in_journal:
                    continue
                seen.add(key)
                _load_sealed(file, loaded)
    return loaded


def capture_folders(path: Path) -> list[Path]:
    """Return the captures at or under a path. Raises NfsblameError if there is none."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise NfsblameError(
            f"{path} {what}: give the folder that `nfsblame record -o` wrote", Exit.USAGE
        )
    found = list(_captures(path, _DEPTH))
    if not found:
        raise NfsblameError(
            f"{path} is not a capture: give the folder that `nfsblame record -o` wrote, "
            "or one that holds such folders",
            Exit.USAGE,
        )
    return found


def _captures(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if is_capture(folder):
            yield folder
        elif depth:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    yield from _captures(path, depth - 1)
    except OSError as error:
        raise NfsblameError(
            f"cannot read {error.filename or folder}: {error.strerror}", Exit.USAGE
        ) from error


def _load_journals(capture: Path, loaded: Loaded) -> set[tuple[str, str]]:
    """Load what is in journals; return the (table, segment) that were found there."""
    found = set()
    for folder in journals(capture):
        try:
            if _is_locked(folder):
                loaded.recording.add(folder.name)
            segments = read_segments(folder)
        except OtherVersion as error:
            raise _other_version(folder, error) from error
        except OSError as error:
            loaded.problems.append(Problem(f"{folder}: {error.strerror}"))
            continue
        for segment in segments:
            for table, rows in segment.tables.items():
                if _add(loaded, segment.footer, table, rows, folder):
                    found.add((table, segment.footer.segment))
    return found


def _load_sealed(file: SealedFile, loaded: Loaded) -> None:
    host = file.path.parent.name.removeprefix("host=")
    try:
        parquet = pq.ParquetFile(file.path)
        footer = Footer.from_metadata(parquet.metadata.metadata, METADATA_KEY)
        _check_size(parquet.metadata)
        rows = parquet.read()
    except OtherVersion as error:
        raise _other_version(file.path, error) from error
    except (BadFooter, Unfit) as error:
        loaded.problems.append(Problem(f"skipped {file.path}: {error}", host))
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        loaded.problems.append(Problem(f"skipped {file.path}: damaged or cut off", host))
    else:
        _add(loaded, footer, file.table, rows, file.path)


def _check_size(metadata: pq.FileMetaData) -> None:
    """Raise Unfit for a file whose few bytes unpack to more than memory can hold."""
    groups = range(metadata.num_row_groups)
    size = sum(metadata.row_group(group).total_byte_size for group in groups)
    if metadata.num_rows > _MAX_ROWS or size > _MAX_BYTES:
        raise Unfit("it claims to hold more than one file can")


def _add(loaded: Loaded, footer: Footer, table: str, rows: pa.Table, source: Path) -> bool:
    """Take rows over if they are fit; return whether they were."""
    host = safe_host(footer.host)
    try:
        good, left_out = checked(rows, _BY_NAME[table])
    except (Unfit, pa.ArrowException) as error:
        loaded.problems.append(Problem(f"skipped {source} ({table}): {error}", host))
        return False
    if left_out:
        text = f"left out {left_out} rows of {source} ({table}) that cannot be true"
        loaded.problems.append(Problem(text, host))
    segment = loaded.segments.setdefault(footer.segment, Segment(footer))
    segment.tables.setdefault(table, []).append(good)
    return True


def _is_locked(folder: Path) -> bool:
    """Return whether the journal's writer lives."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _other_version(path: Path, error: OtherVersion) -> NfsblameError:
    return NfsblameError(
        f"{path} was recorded by nfsblame {error.version}, schema {error.schema}; this nfsblame "
        f"{__version__} reads schema {SCHEMA_VERSION}: install nfsblame {error.version} to read it",
        Exit.USAGE,
    )
