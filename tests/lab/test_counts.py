"""Counts of operations against the kernel's own, of client and server."""

from __future__ import annotations

from pathlib import Path

from conftest import Guests
from counting import LEAST, WORK, compare


def test_equal_the_kernels_own(lab: Guests, tmp_path: Path) -> None:
    for vers, asked in compare(lab, tmp_path, WORK).items():
        assert len(asked) >= LEAST[vers]
