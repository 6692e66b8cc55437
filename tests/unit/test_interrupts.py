"""Whether interrupts take much of a CPU, by /proc/stat as it was and as it is."""

from __future__ import annotations

import pytest

from tracer.interrupts import Interrupts
from tracer.procfs.symbols import Extent


class Stat:
    """What /proc/stat says."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def read(self) -> tuple[bytes, ...] | None:
        text = self.texts.pop(0)
        return (text.encode(),) if text else None


def stat(*cpus: tuple[int, int, int]) -> str:
    """Return a text in which each CPU was so long idle, in interrupts, and in softirqs."""
    lines = (
        f"cpu{number} 5 0 5 {idle} 0 {irq} {softirq} 0 0 0"
        for number, (idle, irq, softirq) in enumerate(cpus)
    )
    # The first line is the sum of all: one CPU of many does not show in it.
    return "\n".join(["cpu  1000 0 0 0 0 0 9000 0 0 0", *lines, "intr 1 2 3", ""])


@pytest.mark.parametrize(
    ("now", "much"),
    [
        (stat((190, 0, 0), (200, 0, 0)), False),
        (stat((190, 5, 5), (200, 0, 0)), True),
        (stat((200, 0, 0), (190, 0, 9)), False),
        (stat((200, 0, 0), (190, 0, 11)), True),
        (stat((100, 0, 0), (100, 0, 0)), False),  # no time has passed
        (stat((100, 0, 0), (100, 0, 0), (10, 0, 80)), False),  # a CPU that is new
        ("cpu0 5 0\ncpu1 nonsense\n", False),
        ("", False),
    ],
)
def test_much_is_a_tenth_of_the_time_of_any_cpu(
    monkeypatch: pytest.MonkeyPatch, now: str, much: bool
) -> None:
    interrupts = Interrupts({})
    monkeypatch.setattr(interrupts, "_stat", Stat(stat((100, 0, 0), (100, 0, 0)), now))
    assert interrupts.take_much() is False
    assert interrupts.take_much() is much


def test_of_the_functions_from_which_their_work_is_done_some_are_there() -> None:
    extents = {"irq_exit_rcu": Extent(16, 32), "schedule": Extent(32, 64)}
    assert Interrupts(extents).code == [(16, 32)]
