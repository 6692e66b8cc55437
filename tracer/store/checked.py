"""Tables from files that anyone may have written: checked before anything trusts them.

A table of the wrong form is refused as a whole; rows that cannot be true (a
negative count, a bucket that does not exist) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from tracer.histogram import bucket_of
from tracer.records import HOLDS, LAYERS, SIDES, WAIT_KINDS
from tracer.schema import Column, Table
from tracer.store.arrow import arrow_schema, pc

_LONGEST_TEXT: Final = 16384
_MOST: Final = 1 << 50  # 35 years in microseconds, a petabyte in bytes
_MOST_SUM: Final = float(1 << 62)
_TIMES: Final = (946_684_800_000_000, 7_258_118_400_000_000)  # 2000 to 2200, microseconds

# Columns whose numbers are names or may be negative.
_ANY_NUMBER: Final = (
    *("op_id", "parent_id", "stack_id", "waker_stack_id"),
    *("status", "status_before"),
)
# Who has given back more than he took has taken less than nothing.
_LOWEST: Final = {"taken_bytes": -_MOST}
_HIGHEST: Final = {"bucket": bucket_of((1 << 64) - 1), "xid": (1 << 32) - 1}
_WORDS: Final = {
    ("latency", "side"): SIDES,
    ("latency", "layer"): LAYERS,
    ("operations", "side"): SIDES,
    ("operations", "layer"): LAYERS,
    ("waits", "side"): SIDES,
    ("counts", "side"): SIDES,
    ("waits", "kind"): WAIT_KINDS,
    ("holders", "kind"): HOLDS,
}


class Unfit(ValueError):
    """A table that cannot be used; the message says why."""


def checked(rows: pa.Table, table: Table) -> tuple[pa.Table, int]:
    """Return ``rows`` in the form of ``table`` and how many were left out. Raises Unfit."""
    try:
        rows.validate(full=True)
    except pa.ArrowInvalid as error:
        raise Unfit("damaged") from error
    if len(set(rows.schema.names)) != len(rows.schema.names):
        raise Unfit("a column stands there twice")
    schema = arrow_schema(table)
    columns = [_column(rows, column, schema.field(column.name).type) for column in table.columns]
    whole = pa.table(columns, names=schema.names)
    kept = whole
    conditions = list(_conditions(whole, table))
    if conditions:
        keep = conditions[0]
        for condition in conditions[1:]:
            keep = pc.and_(keep, condition)
        kept = whole.filter(keep)
    for column in table.columns:
        if column.type == "int64" and column.name not in _ANY_NUMBER:
            total = pc.sum(kept[column.name].cast(pa.float64())).as_py()
            if total is not None and total > _MOST_SUM:
                raise Unfit(f"column {column.name} adds up to more than can be")
    return pa.table(kept.columns, schema=schema), whole.num_rows - kept.num_rows


def _column(rows: pa.Table, column: Column, expected: pa.DataType) -> Any:
    """Return a column with its type; of nulls if an optional one is missing."""
    if column.name not in rows.schema.names:
        if not column.nullable:
            raise Unfit(f"column {column.name} is missing")
        return pa.array([None] * rows.num_rows, expected)
    values = rows[column.name]
    if values.type != expected:
        if column.type != "string" or not _is_text(values.type):
            raise Unfit(f"column {column.name} is {values.type}, not {expected}")
        values = values.cast(expected)
    if column.type == "string" and (pc.max(pc.binary_length(values)).as_py() or 0) > _LONGEST_TEXT:
        values = pc.utf8_slice_codeunits(values, 0, _LONGEST_TEXT)
    return values


def _is_text(type_: pa.DataType) -> bool:
    """Return whether other tools that rewrote a capture may have stored a string so."""
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(pa.types.is_large_string(type_) or pa.types.is_string(type_))


def _conditions(rows: pa.Table, table: Table) -> Iterator[Any]:
    """Yield what must hold for a row to be kept; only conditions that some row fails."""
    for column in table.columns:
        values = rows[column.name]
        if not column.nullable and values.null_count:
            yield pc.is_valid(values)
        if column.type == "timestamp":
            yield from _within(values.cast(pa.int64()), *_TIMES)
        elif column.type == "int64" and column.name not in _ANY_NUMBER:
            lowest, highest = _LOWEST.get(column.name, 0), _HIGHEST.get(column.name, _MOST)
            yield from _within(values, lowest, highest)
        elif column.type == "double":
            good = pc.fill_null(pc.is_finite(values), True)
            if not pc.all(good).as_py():
                yield good
        elif (table.name, column.name) in _WORDS:
            words = pa.array(_WORDS[table.name, column.name].values())
            good = pc.is_in(values, value_set=words)
            if not pc.all(good).as_py():
                yield good


def _within(values: Any, low: int, high: int) -> Iterator[Any]:
    bounds = pc.min_max(values).as_py()
    if bounds["min"] is not None and not low <= bounds["min"] <= bounds["max"] <= high:
        good = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
        yield pc.fill_null(good, True)
