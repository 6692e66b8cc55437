"""Slow operations on very many files, some of which have names of any bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from builders import START_S, Frame, S, capture, interval, op

from tracer.blame import analyse
from tracer.reader import read_captures
from tracer.records import OpRec
from tracer.report.text import console_for, render

FILES = 10_000
INTERVALS = 10
HOSTILE = b"\x1b[31m\n'\"\\\xe9\xe2\x80\xae"


def slow(number: int, second: int) -> OpRec:
    """Return an operation of a second on a file of its own."""
    begin_ns = (START_S + second) * S
    rec = op(number, arrival_ns=begin_ns, begin_ns=begin_ns, end_ns=begin_ns + S, ino=number)
    name = HOSTILE + str(number).encode()
    rec.name[0][: len(name)] = name
    return rec


def frames() -> Iterator[list[Frame]]:
    each = FILES // INTERVALS
    for second in range(INTERVALS):
        numbers = range(1 + second * each, 1 + (second + 1) * each)
        yield interval(second + 1, ops=[slow(number, second) for number in numbers])


def test_every_file_has_its_name_and_none_harms_the_report(tmp_path: Path) -> None:
    (found,) = read_captures([capture(tmp_path / "capture", frames())])
    assert len({one.file for one in found.operations}) == FILES
    assert found.operations[0].file == ".../\x1b[31m\n'\"\\\\xe9\u202e1"
    file = io.StringIO()
    render(analyse([found]), console_for(file))
    assert all(line.isprintable() for line in file.getvalue().split("\n"))
