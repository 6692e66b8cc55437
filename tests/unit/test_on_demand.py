"""Programs that are attached while there is a use for them."""

from __future__ import annotations

import os

import pytest

from tracer.kernel import bpf
from tracer.kernel.on_demand import OnDemand


class Kernel:
    """What is attached, and what the kernel refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.links: list[int] = []
        self.refuses: str | None = None

    def attach(self, program: int, tracepoint: str) -> int:
        self.asked.append((program, tracepoint))
        if tracepoint == self.refuses:
            raise OSError
        self.links.append(os.dup(0))
        return self.links[-1]

    @property
    def attached(self) -> int:
        return sum(map(is_open, self.links))


def is_open(link: int) -> bool:
    try:
        os.fstat(link)
    except OSError:
        return False
    return True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(bpf, "attach_raw_tracepoint", made.attach)
    return made


def test_each_is_attached_once_and_detached_again(kernel: Kernel) -> None:
    both = OnDemand([(7, "mm_page_alloc"), (8, "mm_page_free")])
    assert kernel.attached == 0
    both.attach()
    both.attach()
    assert kernel.asked == [(7, "mm_page_alloc"), (8, "mm_page_free")]
    assert kernel.attached == 2
    both.detach()
    both.detach()
    assert kernel.attached == 0
    both.attach()
    assert len(kernel.asked) == 4
    both.detach()


def test_one_without_the_other_is_of_no_use(kernel: Kernel) -> None:
    kernel.refuses = "mm_page_free"
    both = OnDemand([(7, "mm_page_alloc"), (8, "mm_page_free")])
    both.attach()
    assert kernel.attached == 0
    both.attach()
    assert len(kernel.asked) == 2


def test_none_can_be_had(kernel: Kernel) -> None:
    none = OnDemand([])
    none.attach()
    assert kernel.asked == []
    none.detach()
