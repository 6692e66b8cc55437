"""Segments that are still in a journal: reading them, and sealing those whose writer is dead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracer.schema import SCOPE_SELF, TABLES
from tracer.store.arrow import METADATA_KEY, pc, read_stream
from tracer.store.footer import BadFooter, Footer, OtherVersion
from tracer.store.journal import JournalFolder
from tracer.store.layout import LETTERS, journal_file, journals
from tracer.store.sealed import remains, write_table


@dataclass(frozen=True, slots=True)
class JournalSegment:
    """What one set of a journal holds: the tables that have rows, and their account."""

    footer: Footer
    tables: dict[str, pa.Table]
    whole: bool
    """False if a stream ends in the middle of a batch."""


def read_segments(folder: Path) -> list[JournalSegment]:
    """Return the segments in a journal folder, oldest first. Raises OSError, OtherVersion.

    Streams that are empty or damaged from their begin are left out.
    """
    segments = []
    for letter in LETTERS:
        footer: Footer | None = None
        tables: dict[str, pa.Table] = {}
        all_whole = True
        for table in TABLES:
            path = journal_file(folder, table.name, letter)
            data = path.read_bytes() if path.exists() else b""
            try:
                rows, whole = read_stream(data)
                found = Footer.from_metadata(rows.schema.metadata, METADATA_KEY)
            except (pa.ArrowException, BadFooter):
                all_whole &= not data
                continue
            all_whole &= whole
            footer = footer or found
            tables[table.name] = rows
        if footer is not None:
            segments.append(JournalSegment(_with_rows(footer, tables), tables, all_whole))
    return sorted(segments, key=lambda segment: segment.footer.segment)


def recover(capture: Path) -> list[str]:
    """Seal the journals of dead writers. Returns notes on what was done. Raises OSError."""
    notes = []
    for path in journals(capture):
        folder = JournalFolder.claim(path)
        if folder is None:
            continue  # its writer lives
        try:
            segments = read_segments(path)
        except OtherVersion as error:
            notes.append(f"left the journal {path} alone: it is of {error}")
            continue
        for segment in segments:
            for table in TABLES:
                if table.name in segment.tables:
                    write_table(capture, table, segment.tables[table.name], segment.footer)
            notes.append(f"recovered {segment.footer.segment}, which had not been ended")
        for leftover in remains(capture, path.name):
            leftover.unlink(missing_ok=True)
        folder.remove()
    return notes


def _with_rows(footer: Footer, tables: dict[str, pa.Table]) -> Footer:
    """Return the footer brought up to the segment's end by what its rows tell."""
    ends = [pc.max(rows["ts"].cast(pa.int64())).as_py() for rows in tables.values() if len(rows)]
    losses = dict(footer.losses)
    for row in _rows(tables, "events", "kind", "name", "count"):
        if row["kind"] == "loss":
            losses[row["name"]] = losses.get(row["name"], 0) + row["count"]
    overhead = {
        row["metric"]: row["value"]
        for row in _rows(tables, "samples", "scope", "metric", "value")
        if row["scope"] == SCOPE_SELF
    }
    return replace(
        footer,
        end_us=max([footer.end_us, *ends]),
        losses=losses,
        overhead={**footer.overhead, **overhead},
    )


def _rows(tables: dict[str, pa.Table], table: str, *columns: str) -> list[dict[str, Any]]:
    return tables[table].select(list(columns)).to_pylist() if table in tables else []
