"""Names and places in a capture's folder; everything that knows a path is in here.

::

    CAPTURE/<table>/dt=YYYY-MM-DD/host=NAME/<segment>.parquet    sealed
    CAPTURE/.journal/<recording>/<table>.<a|b>.arrows            not yet sealed

A *recording* is one run of ``record``; a *segment* is a stretch of it that is
sealed at once and can be read alone. Names begin with the time the recording
began and count segments, so they sort by age.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tracer.schema import TABLES

JOURNAL_FOLDER: Final = ".journal"
JOURNAL_SUFFIX: Final = ".arrows"
SEALED_SUFFIX: Final = ".parquet"
LETTERS: Final = ("a", "b")

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One Parquet file of a capture, as its path tells."""

    path: Path
    table: str
    segment: str


def safe_host(host: str) -> str:
    """Return a host's name as it stands in paths."""
    safe = _UNSAFE.sub("_", host)
    return safe if safe.strip(".") else f"_{safe}"


def recording_name(wall_us: int, host: str, boot_id: str, number: int) -> str:
    """Return the name of a recording that began at ``wall_us``; sorts by age."""
    began = datetime.fromtimestamp(wall_us / 1e6, UTC)
    boot = _UNSAFE.sub("_", boot_id)[:8]
    return f"{began:%Y%m%dT%H%M%SZ}-{safe_host(host)}-{boot}-{number}"


def segment_name(recording: str, number: int) -> str:
    """Return the name of a recording's n-th segment; sorts by age."""
    return f"{recording}-{number:05d}"


def journals(capture: Path) -> list[Path]:
    """Return the journal folders of a capture, oldest recording first."""
    folder = capture / JOURNAL_FOLDER
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def journal_file(folder: Path, table: str, letter: str) -> Path:
    """Return the path of one table's journal."""
    return folder / f"{table}.{letter}{JOURNAL_SUFFIX}"


def sealed_folder(capture: Path, table: str, day: str, host: str) -> Path:
    """Return the folder of a day's files of a table."""
    return capture / table / f"dt={day}" / f"host={safe_host(host)}"


def sealed_files(capture: Path) -> Iterator[SealedFile]:
    """Yield every Parquet file that a writer has sealed; temporary files are not among them."""
    for table in TABLES:
        for path in sorted((capture / table.name).glob(f"dt=*/host=*/*{SEALED_SUFFIX}")):
            if not path.name.startswith("."):
                yield SealedFile(path, table.name, path.name.removesuffix(SEALED_SUFFIX))


def is_capture(folder: Path) -> bool:
    """Return whether a folder has the tables of a capture or a journal in it."""
    return (folder / JOURNAL_FOLDER).is_dir() or any((folder / t.name).is_dir() for t in TABLES)
