"""Who has a lease that is to be given up, by /proc/locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.procfs.aside import Aside
from tracer.procfs.leases import Leases

# As Linux 6.1 prints them.
LOCKS = """\
1: LEASE  BREAKING  READ  713 fe:10:131 0 EOF
2: LEASE  ACTIVE    WRITE 714 fe:10:132 0 EOF
3: DELEG  BREAKING  READ  171 fe:10:133 0 EOF
4: POSIX  ADVISORY  WRITE 715 fe:10:134 0 EOF
4: -> POSIX  ADVISORY  WRITE 716 fe:10:134 0 EOF
5: LEASE  BREAKING  READ  999 fe:10:135 0 EOF
6: LEASE  BREAKING  READ  <none>:0 fe:10:135 0 EOF
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for pid in (171, 713, 714, 715, 716):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {'0 ' * 18}310 0")
    (tmp_path / "locks").write_text(LOCKS)
    return tmp_path


def found(leases: Leases, aside: Aside) -> list[int]:
    """What a look finds, once it has come to its end."""
    at_once = leases.found()
    aside.settle(5)
    return [pid for pid, _ in at_once or leases.found()]


def test_who_keeps_a_lease_that_others_want_is_told_once(proc: Path) -> None:
    now = [0.0]
    aside = Aside()
    leases = Leases(proc, aside, lambda: now[0])
    assert found(leases, aside) == []
    leases.want(None)
    assert found(leases, aside) == [713]
    now[0] = 10
    leases.want(None)
    assert found(leases, aside) == []
    (proc / "locks").write_text(LOCKS.replace(" ACTIVE  ", " BREAKING"))
    now[0] = 11
    leases.want(None)
    assert found(leases, aside) == []
    now[0] = 20
    leases.want(None)
    assert found(leases, aside) == [714]


def test_no_locks_no_leases(tmp_path: Path) -> None:
    aside = Aside()
    leases = Leases(tmp_path, aside)
    leases.want(None)
    assert found(leases, aside) == []
