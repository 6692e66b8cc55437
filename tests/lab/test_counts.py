"""Counts of operations against the kernel's own, of client and server."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Guests
from counting import LEAST, WORK, compare


@pytest.mark.parametrize("vers", ["3", "4.0", "4.1", "4.2"])
def test_equal_the_kernels_own(lab: Guests, tmp_path: Path, vers: str) -> None:
    assert len(compare(lab, tmp_path, vers, WORK[vers])) >= LEAST[vers]
