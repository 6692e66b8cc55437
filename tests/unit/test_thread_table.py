"""The thread table, against maps that behave as the kernel's."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tracer.kernel import bpf
from tracer.records import MAP_SIZES, OpRec
from tracer.thread_table import ThreadTable

MAPS = {"threads": 1, "ops": 2, "places": 3, "spare": 4}


class Kernel:
    """The maps, by their descriptors; ``racing`` is what a program does at the next update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maps: dict[int, dict[bytes, bytes]] = {1: {}, 2: {}, 3: {}}
        self.stack: list[bytes] = []
        self.racing: tuple[bytes, bytes] | None = None
        for name in ("update", "lookup", "push_all", "pop"):
            monkeypatch.setattr(bpf, name, getattr(self, name))
        maps = self.maps

        class Batch:
            def __init__(self, fd: int, *_sizes: int) -> None:
                self._fd = fd

            def read(self) -> Iterator[tuple[bytes, bytes]]:
                return iter(maps[self._fd].items())

        monkeypatch.setattr(bpf, "BatchReader", Batch)

    def update(self, fd: int, key: bytes, value: bytes, *, only_new: bool = False) -> None:
        if fd == MAPS["threads"] and self.racing:
            self.maps[fd].update([self.racing])
        if only_new and key in self.maps[fd]:
            raise OSError(errno.EEXIST, "File exists")
        self.maps[fd][key] = value

    def lookup(self, fd: int, key: bytes, _size: int) -> bytes | None:
        return self.maps[fd].get(key)

    def push_all(self, _fd: int, values: Iterable[bytes]) -> None:
        self.stack += values

    def pop(self, _fd: int, _size: int) -> bytes | None:
        return self.stack.pop() if self.stack else None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def table(kernel: Kernel) -> ThreadTable:
    table = ThreadTable(MAPS)
    table.make_room()
    return table


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def test_there_is_room_for_all_and_low_numbers_go_first(kernel: Kernel, table: ThreadTable) -> None:
    assert len(kernel.stack) == MAP_SIZES["MAX_THREADS"]
    assert kernel.stack[-2:] == [number(1), number(0)]
    assert table is not None


def test_what_is_inserted_is_read_again(table: ThreadTable, kernel: Kernel) -> None:
    records = [bytes(OpRec(tid=tid)) for tid in (7, 7 + MAP_SIZES["MAX_PLACES"])]
    assert [table.insert(record) for record in records] == [True, True]
    assert list(table.read()) == records
    assert [table.again(record) for record in records] == records
    # Both have one place: the younger's, and the older is found in `threads`.
    assert kernel.maps[MAPS["places"]] == {
        number(7): (1 << 32 | 7 + MAP_SIZES["MAX_PLACES"]).to_bytes(8, "little")
    }


def test_a_record_that_the_programs_made_is_left_alone(table: ThreadTable, kernel: Kernel) -> None:
    kernel.maps[MAPS["threads"]][number(7)] = number(5)
    assert not table.insert(bytes(OpRec(tid=7)))
    assert kernel.maps[MAPS["ops"]] == {}
    assert len(kernel.stack) == MAP_SIZES["MAX_THREADS"]


def test_a_record_that_a_program_makes_meanwhile_wins(table: ThreadTable, kernel: Kernel) -> None:
    kernel.racing = number(7), number(5)
    assert not table.insert(bytes(OpRec(tid=7)))
    assert kernel.maps[MAPS["threads"]] == {number(7): number(5)}
    assert kernel.maps[MAPS["places"]] == {number(7): (5 << 32 | 7).to_bytes(8, "little")}
    assert len(kernel.stack) == MAP_SIZES["MAX_THREADS"]


def test_without_room_nothing_is_inserted(table: ThreadTable, kernel: Kernel) -> None:
    kernel.stack.clear()
    assert not table.insert(bytes(OpRec(tid=7)))
    assert kernel.maps == {1: {}, 2: {}, 3: {}}


def test_a_record_of_a_thread_that_ended_is_not_read(table: ThreadTable, kernel: Kernel) -> None:
    table.insert(bytes(OpRec(tid=7)))
    kernel.maps[MAPS["ops"]][number(0)] = bytes(OpRec(tid=8))
    assert list(table.read()) == []


def test_any_trouble_but_a_race_is_not_hidden(
    table: ThreadTable, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(fd: int, *_: bytes, only_new: bool = False) -> None:
        if fd == MAPS["threads"]:
            raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(bpf, "update", update)
    with pytest.raises(OSError, match="not permitted"):
        table.insert(bytes(OpRec(tid=7)))


def test_a_place_is_found_by_the_same_bits_as_in_bpf() -> None:
    """Its size is a power of two, for the programs mask and we divide."""
    assert MAP_SIZES["MAX_PLACES"].bit_count() == 1
    text = (Path(__file__).parents[2] / "bpf/threads.h").read_text()
    assert re.search(r"tid & \(MAX_PLACES - 1\)", text)
    assert re.search(r"\(u64\)slot << 32 \| tid", text)
