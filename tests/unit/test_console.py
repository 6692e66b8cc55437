"""What is told of a lost guest's console."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "vagrant"))

from lablib.guest import CONSOLE_LINES, telling

BOOT = [f"boot {number}" for number in range(500)]
STACK = [f"[  276.937220]  frame_{number}" for number in range(2 * CONSOLE_LINES)]


def test_a_panic_is_told_from_its_beginning() -> None:
    panic = "[  276.937220] watchdog: BUG: soft lockup - CPU#1 stuck for 56s!"
    told = telling("\r\n".join([*BOOT, panic, *STACK]))
    assert told == [panic, *STACK[: CONSOLE_LINES - 1]]


def test_a_short_panic_is_told_with_what_came_before_it() -> None:
    panic = "[   12.000000] Oops: 0002"
    told = telling("\n".join([*BOOT, panic, *STACK[:3]]))
    assert told[-4:] == [panic, *STACK[:3]]
    assert len(told) == CONSOLE_LINES


def test_without_trouble_the_end_is_told() -> None:
    assert telling("\n".join(BOOT)) == BOOT[-CONSOLE_LINES:]
    assert telling("") == []
