"""Who takes memory is counted while it is short, and only then."""

from __future__ import annotations

import pytest

from tracer import shortage
from tracer.kernel.on_demand import OnDemand
from tracer.shortage import Shortage

SECOND = 1_000_000_000


class Kernel(OnDemand):
    """When memory was short, and whether who takes it is counted."""

    def __init__(self) -> None:
        self.last_ns = 0
        self.counts = False

    def lookup(self, _fd: int, _key: bytes, _size: int) -> bytes:
        return self.last_ns.to_bytes(8, "little")

    def attach(self) -> None:
        self.counts = True

    def detach(self) -> None:
        self.counts = False


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(shortage.bpf, "lookup", made.lookup)
    return made


@pytest.fixture
def memory(kernel: Kernel) -> Shortage:
    return Shortage(3, kernel)


def test_nothing_is_counted_while_memory_was_never_short(kernel: Kernel, memory: Shortage) -> None:
    memory.follow(50 * SECOND)
    assert not kernel.counts


def test_it_is_counted_through_pauses_and_no_longer(kernel: Kernel, memory: Shortage) -> None:
    kernel.last_ns = 50 * SECOND
    for second, counts in ((51, True), (59, True), (61, False)):
        memory.follow(second * SECOND)
        assert kernel.counts is counts
    kernel.last_ns = 62 * SECOND
    memory.follow(63 * SECOND)
    assert kernel.counts
    memory.close()
    assert not kernel.counts
