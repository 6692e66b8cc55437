"""The schema for people and for programs: SCHEMA.md and its JSON twin."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tracer.schema import SCHEMA_VERSION, TABLES, Table

_HEAD = f"""\
# Tables of a capture

Schema version {SCHEMA_VERSION}. Written by `nfsblame schema`; do not edit.

A capture is a folder:

    CAPTURE/<table>/dt=YYYY-MM-DD/host=NAME/*.parquet   one folder per table, UTC day and host
    CAPTURE/.journal/<recording>/*.arrows               not yet sealed: Arrow IPC streams

Any Parquet engine reads it, and captures of many hosts can lie in one folder:

    duckdb -c "SELECT host, op, sum(count) FROM
        read_parquet('CAPTURE/latency/*/*/*.parquet', hive_partitioning = true) GROUP BY ALL"

- Null means unknown, never zero. A column that may not be null always has a value.
- Timestamps are UTC, in microseconds. Columns ending in `_us` are microseconds; those ending in
  `_mono_us` are the host's CLOCK_MONOTONIC and compare only within one host and boot.
- `pid` with `start_us` (or `pid_start_us`, `waker_start_us`) names one process for good: its start
  in CLOCK_BOOTTIME. `/proc` tells a start only to 10 ms: where a row was made from it, the
  last four digits are 0.
- The host's name stands in the path (`host=`) and in the footer, not in a column.
- Files of one name, a *segment*, can be read without any others: the stacks, processes and probes
  that their rows refer to stand in each segment again.

The footer of every file has the key `nfsblame`, JSON: `schema` (this version), `version`, `host`,
`kernel`, `boot_id`, `sides`, `threshold_us`, `interval_s`, `clock` (one moment in CLOCK_MONOTONIC,
wall clock and their distance to CLOCK_BOOTTIME, ns), `start_us` (of the recording), `begin_us` and
`end_us` (of this file), `recording`, `segment`, `command`, `addresses`, `nfsd_threads`, `probes`,
`losses` and `overhead` (of the recording up to `end_us`), `ended` (why recording ended; null: it
went on after this file, or was killed). Readers ignore keys they do not know.
"""


def markdown() -> str:
    """Return the text of SCHEMA.md."""
    return "\n".join([_HEAD, *(_section(table) for table in TABLES)])


def as_json() -> dict[str, Any]:
    """Return the schema as JSON has it: tables with their columns."""
    return {"schema": SCHEMA_VERSION, "tables": [asdict(table) for table in TABLES]}


def _section(table: Table) -> str:
    lines = [
        f"## {table.name}",
        "",
        table.about,
        "",
        "| column | type | null | meaning | example |",
        "| --- | --- | --- | --- | --- |",
    ]
    for column in table.columns:
        null = "yes" if column.nullable else "no"
        cells = (f"`{column.name}`", column.type, null, column.about, f"`{column.example}`")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
