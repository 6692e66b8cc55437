from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from click.testing import CliRunner

import tracer
from tracer.commands.schema import command
from tracer.model import Holder, Wait
from tracer.records import HOLDS, WAIT_KINDS
from tracer.schema import TABLES
from tracer.schema_text import markdown
from tracer.store.arrow import arrow_schema


def test_schema_md_is_what_the_command_prints() -> None:
    text = (Path(tracer.__file__).parent / "SCHEMA.md").read_text()
    assert text == markdown(), "run: nfsblame schema > tracer/SCHEMA.md"
    assert CliRunner().invoke(command).output == text


def test_json_holds_every_column() -> None:
    output = CliRunner().invoke(command, ["--format", "json"]).output
    tables = {t["name"]: [c["name"] for c in t["columns"]] for t in json.loads(output)["tables"]}
    assert tables == {t.name: [c.name for c in t.columns] for t in TABLES}


def test_help_has_an_example() -> None:
    assert "nfsblame schema --format json" in CliRunner().invoke(command, ["--help"]).output


def test_types_are_those_every_engine_reads() -> None:
    types = {str(field.type) for table in TABLES for field in arrow_schema(table)}
    assert types == {"int64", "double", "bool", "string", "timestamp[us, tz=UTC]"}


def test_column_names_are_unique_and_described() -> None:
    for table in TABLES:
        names = [column.name for column in table.columns]
        assert len(set(names)) == len(names)
        assert all(column.about and column.example for column in table.columns)


@pytest.mark.parametrize(("kind", "stored"), [(Holder, HOLDS), (Wait, WAIT_KINDS)])
def test_every_kind_that_is_known_can_be_read_back(
    kind: type[Holder | Wait], stored: dict[int, str]
) -> None:
    assert set(get_args(get_type_hints(kind)["kind"])) == set(stored.values())
