"""Tables of the schema as Arrow, rows as record batches, record batches as stream messages.

A journal is an Arrow IPC stream: the schema, then batches, each a message of its
own. Writing messages one by one (rather than through a stream writer, which has
a state) lets a failed write be undone by truncation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute

from tracer.schema import Table

METADATA_KEY: Final = b"nfsblame"

pc: Any = pyarrow.compute
"""Arrow's functions, untyped: the stubs know too few combinations of arrays and scalars."""

_TYPES: Final[dict[str, pa.DataType]] = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


@lru_cache
def arrow_schema(table: Table) -> pa.Schema:
    """Return a table's schema in Arrow."""
    return pa.schema([pa.field(c.name, _TYPES[c.type], c.nullable) for c in table.columns])


def record_batch(table: Table, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows (column -> value; a column left out is null) as one batch.

    Raises ValueError naming the column if a null is where none may be.
    """
    schema = arrow_schema(table)
    batch = pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=schema)
    for column, values in zip(table.columns, batch.columns, strict=True):
        if values.null_count and not column.nullable:
            raise ValueError(f"{table.name}.{column.name} must not be null")
    return batch


def header(table: Table, metadata: bytes) -> bytes:
    """Return the message that begins a stream of a table."""
    schema = arrow_schema(table).with_metadata({METADATA_KEY: metadata})
    return bytes(schema.serialize())


def message(batch: pa.RecordBatch) -> bytes:
    """Return the message that adds a batch to a stream."""
    return bytes(batch.serialize())


def read_stream(source: Any) -> tuple[pa.Table, bool]:
    """Return all complete batches of a stream, and whether it was whole.

    ``source`` is bytes or a file. Raises pa.ArrowInvalid if not even the schema
    is there. A batch cut off by a crash ends the stream.
    """
    reader = pa.ipc.open_stream(source)
    batches = []
    whole = True
    while True:
        try:
            batch = reader.read_next_batch()
            batch.validate(full=True)
        except StopIteration:
            break
        except (pa.ArrowException, OSError):
            whole = False
            break
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=reader.schema), whole
