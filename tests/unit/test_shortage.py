"""Who takes memory is counted while it is short, and only then."""

from __future__ import annotations

import os

import pytest

from tracer import shortage
from tracer.shortage import PROGRAMS, Shortage

SECOND = 1_000_000_000


class Kernel:
    """When memory was short, and what is attached."""

    def __init__(self) -> None:
        self.last_ns = 0
        self.attached: list[str] = []
        self.refuses: str | None = None

    def lookup(self, _fd: int, _key: bytes, _size: int) -> bytes:
        return self.last_ns.to_bytes(8, "little")

    def attach(self, program: int, event: str) -> int:
        if event == self.refuses:
            raise OSError
        assert list(PROGRAMS.values()).index(event) == program
        self.attached.append(event)
        return os.dup(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(shortage.bpf, "lookup", made.lookup)
    monkeypatch.setattr(shortage.bpf, "attach_raw_tracepoint", made.attach)
    return made


@pytest.fixture
def memory(kernel: Kernel) -> Shortage:
    return Shortage(3, {name: number for number, name in enumerate(PROGRAMS)})


def is_open(link: int) -> bool:
    try:
        os.fstat(link)
    except OSError:
        return False
    return True


def test_nothing_is_counted_while_memory_was_never_short(kernel: Kernel, memory: Shortage) -> None:
    memory.follow(50 * SECOND)
    assert kernel.attached == []


def test_it_is_counted_through_pauses_and_no_longer(kernel: Kernel, memory: Shortage) -> None:
    kernel.last_ns = 50 * SECOND
    memory.follow(51 * SECOND)
    memory.follow(59 * SECOND)
    assert kernel.attached == list(PROGRAMS.values())
    links = list(memory._links)
    memory.follow(61 * SECOND)
    assert not any(map(is_open, links))
    kernel.last_ns = 62 * SECOND
    memory.follow(63 * SECOND)
    assert kernel.attached == 2 * list(PROGRAMS.values())
    memory.close()


def test_who_gives_back_must_be_seen_too(kernel: Kernel) -> None:
    kernel.last_ns = 50 * SECOND
    Shortage(3, {"on_mm_page_alloc": 0, "on_mm_page_free": None}).follow(51 * SECOND)
    assert kernel.attached == []


def test_what_the_kernel_refuses_once_is_not_asked_for_again(
    kernel: Kernel, memory: Shortage
) -> None:
    kernel.last_ns = 50 * SECOND
    kernel.refuses = "mm_page_free"
    memory.follow(51 * SECOND)
    memory.follow(52 * SECOND)
    assert kernel.attached == ["mm_page_alloc"]
    assert memory._links == []
