"""The files of a recording: journal, sealing, the size bound, and disks that are full."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import hello

from tracer.errors import Exit, NfsblameError
from tracer.rows.assembler import event
from tracer.schema import TABLES
from tracer.store.footer import Footer
from tracer.store.journal import Backlog, JournalFile, Message
from tracer.store.keeper import Keeper, Settings
from tracer.store.layout import journals, sealed_files
from tracer.store.retention import folder_bytes
from tracer.store.unsealed import read_segments

TS = 1_795_344_000_000_000  # 2026-11-22 10:40 UTC
DAY_US = 86_400_000_000
FOOTER = Footer.of_hello(hello())


def rows(*texts: str, ts: int = TS) -> dict[str, list[dict[str, object]]]:
    """Return an interval with events alone."""
    tables: dict[str, list[dict[str, object]]] = {table.name: [] for table in TABLES}
    tables["events"] = [event(ts, "note", "test", text) for text in texts]
    return tables


def sealed_texts(capture: Path) -> list[str]:
    return [
        text
        for file in sealed_files(capture)
        for text in pq.read_table(file.path, partitioning=None)["text"].to_pylist()
    ]


def journal_texts(capture: Path) -> list[str]:
    return [
        text
        for folder in journals(capture)
        for segment in read_segments(folder)
        for text in segment.tables["events"]["text"].to_pylist()
    ]


def settled(keeper: Keeper) -> Keeper:
    """Wait until the keeper's thread has nothing to do."""
    while keeper.busy:
        time.sleep(0.001)
    return keeper


class Disk:
    """A disk with so many bytes left: writes what fits, then fails, as write(2) does."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.error = errno.ENOSPC

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if not self.free:
            raise OSError(self.error, os.strerror(self.error))
        written = os.pwrite(fd, data[: self.free], offset)
        self.free -= written
        return written


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def keeper_on(tmp_path: Path, said: list[str]) -> Callable[..., Keeper]:
    def make(disk: Disk | None = None, **settings: float) -> Keeper:
        pwrite = disk.pwrite if disk else os.pwrite
        given = Settings(tmp_path, **{"max_bytes": 1 << 30} | settings)  # type: ignore[arg-type]
        return Keeper(given, FOOTER, said.append, pwrite)

    return make


def test_an_interval_is_in_the_journal_at_once_and_sealed_at_the_end(
    tmp_path: Path, keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    keeper = keeper_on()
    assert keeper.add(rows("one"), FOOTER) is False
    assert journal_texts(tmp_path) == ["one"]
    assert keeper.add(rows("two"), FOOTER) is False
    assert journal_texts(tmp_path) == ["one", "two"]
    assert keeper.finish(FOOTER) is True
    assert journals(tmp_path) == []
    assert sealed_texts(tmp_path) == ["one", "two"]
    assert said == []


def test_nothing_is_opened_after_the_start(
    tmp_path: Path, keeper_on: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_on()
    keeper.add(rows("first"), FOOTER)
    keeper._thread.submit(lambda: None).result()  # recovery, which comes first there, has ended

    def refuse(*args: object, **kwargs: object) -> int:
        raise AssertionError(f"opened {args}")

    with monkeypatch.context() as patch:
        for name in ("open", "mkdir", "stat", "scandir"):
            patch.setattr(os, name, refuse)
        patch.setattr("builtins.open", refuse)
        for number in range(10):
            keeper.add(rows(str(number)), FOOTER)
    assert len(journal_texts(tmp_path)) == 11
    keeper.finish(FOOTER)


def test_rotation_by_size_seals_while_the_journal_goes_on(
    tmp_path: Path, keeper_on: Callable[..., Keeper]
) -> None:
    keeper = keeper_on(rotate_bytes=20_000)
    begun = sum(settled(keeper).add(rows(f"{n:04d}" + "x" * 1000), FOOTER) for n in range(100))
    assert begun >= 4
    keeper.finish(FOOTER)
    assert [text[:4] for text in sealed_texts(tmp_path)] == [f"{n:04d}" for n in range(100)]
    footers = [
        Footer.from_metadata(pq.read_metadata(file.path).metadata, b"nfsblame")
        for file in sealed_files(tmp_path)
    ]
    assert [f.segment for f in footers] == sorted({f.segment for f in footers})
    assert len({f.recording for f in footers}) == 1


def test_rotation_by_time(tmp_path: Path, keeper_on: Callable[..., Keeper]) -> None:
    keeper = keeper_on(rotate_seconds=0.0)
    for text in ("one", "two"):
        assert settled(keeper).add(rows(text), FOOTER) is True
    assert settled(keeper).add(rows(), FOOTER) is False
    keeper.finish(FOOTER)
    assert [file.segment[-5:] for file in sealed_files(tmp_path)] == ["00001", "00002"]
    assert sealed_texts(tmp_path) == ["one", "two"]


def test_a_segment_over_midnight_is_in_the_folders_of_both_days(
    tmp_path: Path, keeper_on: Callable[..., Keeper]
) -> None:
    keeper = keeper_on()
    keeper.add(rows("today"), FOOTER)
    keeper.add(rows("tomorrow", ts=TS + DAY_US), FOOTER)
    keeper.finish(FOOTER)
    days = {file.path.parent.parent.name: file.segment for file in sealed_files(tmp_path)}
    assert set(days) == {"dt=2026-11-22", "dt=2026-11-23"}
    assert len(set(days.values())) == 1


def test_the_oldest_data_goes_first_and_a_note_says_so(
    tmp_path: Path, keeper_on: Callable[..., Keeper]
) -> None:
    bound = 60_000
    keeper = keeper_on(max_bytes=bound)
    notes: list[str] = []
    for number in range(200):
        text = f"{number:04d}" + os.urandom(400).hex()  # does not compress well
        settled(keeper).add(rows(text), FOOTER)
        notes += keeper.notes
        keeper.notes.clear()
        # One journal is being filled while the other becomes Parquet.
        assert folder_bytes(tmp_path) <= bound + 2 * bound // 8
    keeper.finish(FOOTER)
    kept = [text[:4] for text in sealed_texts(tmp_path)]
    assert 20 < len(kept) < 150
    assert kept == [f"{n:04d}" for n in range(200)][-len(kept) :]
    assert notes
    assert "to stay within --max-size" in notes[0]


def test_a_full_disk_is_told_once_waited_for_and_nothing_is_lost_or_damaged(
    tmp_path: Path, keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    disk = Disk(free=1 << 30)
    keeper = keeper_on(disk)
    keeper.add(rows("before"), FOOTER)
    disk.free = 100  # the next message is cut in its middle
    for number in range(5):
        keeper.add(rows(f"full {number}"), FOOTER)
        assert journal_texts(tmp_path) == ["before"]
        (segment,) = read_segments(journals(tmp_path)[0])
        assert segment.whole
    assert len(said) == 1
    assert "No space left" in said[0]
    assert "free space" in said[0]

    disk.free = 1 << 30
    keeper.add(rows("after"), FOOTER)
    expected = ["before", *(f"full {n}" for n in range(5)), "after"]
    assert journal_texts(tmp_path) == expected
    assert len(said) == 2
    assert "again, nothing lost" in said[1]
    assert keeper.finish(FOOTER) is True
    assert sealed_texts(tmp_path) == expected


def test_memory_has_a_bound_and_what_is_dropped_is_counted(
    tmp_path: Path, keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    disk = Disk(free=0)
    keeper = keeper_on(disk, memory_bytes=10_000)
    for number in range(100):
        keeper.add(rows(f"{number:04d}" + "x" * 1000), FOOTER)
    assert 90 <= keeper.dropped < 100
    disk.free = 1 << 30
    keeper.add(rows("after"), FOOTER)
    assert "had to be dropped" in said[-1]
    keeper.finish(FOOTER)
    kept = sealed_texts(tmp_path)
    assert len(kept) == 101 - keeper.dropped
    assert kept[-1] == "after"


def test_a_disk_that_stays_full_loses_the_rest_and_says_so(
    keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    keeper = keeper_on(Disk(free=0))
    keeper.add(rows("lost"), FOOTER)
    assert keeper.finish(FOOTER) is False
    assert "they are lost" in said[-1]


def test_where_sealing_fails_the_journal_stays_and_is_read(
    tmp_path: Path, keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    (tmp_path / "events").write_text("in the way of the table's folder")
    keeper = keeper_on()
    keeper.add(rows("kept"), FOOTER)
    assert keeper.finish(FOOTER) is True
    assert journal_texts(tmp_path) == ["kept"]
    assert "safe in the journal" in said[0]

    (tmp_path / "events").unlink()
    keeper_on().finish(FOOTER)  # the next recording there
    assert sealed_texts(tmp_path) == ["kept"]
    assert journals(tmp_path) == []


def test_a_journal_whose_writer_lives_is_left_alone(
    tmp_path: Path, keeper_on: Callable[..., Keeper]
) -> None:
    first = keeper_on()
    first.add(rows("first"), FOOTER)
    second = keeper_on()
    second.add(rows("second"), FOOTER)
    assert sealed_texts(tmp_path) == []
    second.finish(FOOTER)
    assert sealed_texts(tmp_path) == ["second"]
    first.finish(FOOTER)
    assert sorted(sealed_texts(tmp_path)) == ["first", "second"]


@pytest.mark.parametrize("name", ["a-file", "a-file/below"])
def test_output_that_cannot_be_written(tmp_path: Path, name: str, said: list[str]) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(NfsblameError, match="give a folder on a local disk with -o") as error:
        Keeper(Settings(tmp_path / name, 1 << 30), FOOTER, said.append)
    assert error.value.exit_code == Exit.USAGE


def test_a_partial_write_is_undone(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    disk = Disk(free=10)
    file = JournalFile(fd, disk.pwrite)
    file.append(b"12345678")
    with pytest.raises(OSError, match="No space"):
        file.append(b"abcdef")
    assert (tmp_path / "journal").read_bytes() == b"12345678"
    disk.free = 4
    file.append(b"ABCD")
    assert (tmp_path / "journal").read_bytes() == b"12345678ABCD"


def test_the_backlog_drops_the_oldest() -> None:
    backlog = Backlog(bound_bytes=10)
    assert backlog.add(Message("events", b"12345", 1)) == 0
    assert backlog.add(Message("events", b"12345", 2)) == 0
    assert backlog.add(Message("events", b"1", 3)) == 1
    assert (len(backlog), backlog.rows) == (2, 5)


def test_a_journal_that_reaches_the_size_bound_while_sealing_hangs(
    tmp_path: Path, keeper_on: Callable[..., Keeper], said: list[str]
) -> None:
    keeper = keeper_on(max_bytes=4000, rotate_bytes=1 << 30)
    keeper._sealing = (keeper._sets[1], FOOTER)  # as if it hung
    keeper._retry_at = float("inf")
    for _ in range(10):
        keeper.add(rows("x" * 1000), FOOTER)
    assert keeper._sets[0].size <= 4000
    assert "--max-size" in said[0]
