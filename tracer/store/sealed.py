"""Sealing: a segment's journal becomes Parquet, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tracer.schema import TABLES, Table
from tracer.store.arrow import METADATA_KEY, arrow_schema, pc, read_stream
from tracer.store.footer import Footer
from tracer.store.journal import FileSlice, JournalSet
from tracer.store.layout import SEALED_SUFFIX, sealed_folder

_ROW_GROUP_ROWS: Final = 1 << 20


def seal(capture: Path, journal: JournalSet, footer: Footer) -> None:
    """Write each table of a segment as Parquet. Raises OSError; may be called again.

    The journal is left alone: it is cleared only when every file is on disk, and
    readers prefer it to files of the same segment.
    """
    for table in TABLES:
        file = journal.files[table.name]
        if file.size:
            rows, _ = read_stream(FileSlice(file.fd, file.size))
            write_table(capture, table, rows, footer)


def write_table(capture: Path, table: Table, rows: pa.Table, footer: Footer) -> None:
    """Write the rows of one segment to the files of their days. Raises OSError."""
    schema = arrow_schema(table)
    for day, of_day in _by_day(rows):
        folder = sealed_folder(capture, table.name, day, footer.host)
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {METADATA_KEY: footer.to_json()}
        _write_file(
            folder / f"{footer.segment}{SEALED_SUFFIX}",
            pa.table(of_day.columns, schema=schema.with_metadata(metadata)),
            [column.name for column in table.columns if column.type == "string"],
        )


def remains(capture: Path, recording: str) -> Iterator[Path]:
    """Yield the temporary files that a dead writer of ``recording`` left behind."""
    yield from capture.glob(f"*/dt=*/host=*/.{recording}*.tmp")


def _by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield (YYYY-MM-DD, rows) of each UTC day in ``rows``."""
    days = rows["ts"].cast(pa.timestamp("us")).cast(pa.date32())
    found = pc.unique(days).to_pylist()
    for day in found:
        if len(found) == 1:  # all but one segment a day: spare the copy
            yield str(day), rows
        else:
            yield str(day), rows.filter(pc.equal(days, pa.scalar(day, pa.date32())))


def _write_file(path: Path, table: pa.Table, text_columns: list[str]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                use_dictionary=text_columns,  # type: ignore[arg-type]  # the stubs know only bool
                row_group_size=_ROW_GROUP_ROWS,
                version="2.6",
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name must be on disk before the journal is cleared.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
