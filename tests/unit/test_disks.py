"""Which disk a filesystem lies on, and whom a disk worked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from blame_cases import AGENT, REDIS, processes, server
from hypothesis import given
from hypothesis import strategies as st

from tracer.blame.disks import DiskUsers
from tracer.model import DiskUse, Process
from tracer.procfs.disks import Disks

VDB, VDB1, LVM, WIDE = (253 << 20 | 16, 253 << 20 | 17, 254 << 20, 254 << 20 | 1)


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """A machine with vdb, a partition of it, a volume on that, and one on two disks."""
    devices = tmp_path / "devices"
    for name in ("vdb/vdb1", "vda", "dm-0/slaves", "dm-1/slaves"):
        (devices / name).mkdir(parents=True)
    (devices / "vdb/vdb1/partition").write_text("1\n")
    links = {"253:16": "vdb", "253:17": "vdb/vdb1", "254:0": "dm-0", "254:1": "dm-1"}
    (tmp_path / "dev/block").mkdir(parents=True)
    for number, name in links.items():
        (tmp_path / "dev/block" / number).symlink_to(devices / name)
    (devices / "dm-0/slaves/vdb1").symlink_to(devices / "vdb/vdb1")
    for name in ("vda", "vdb"):
        (devices / f"dm-1/slaves/{name}").symlink_to(devices / name)
    return Disks(tmp_path)


@pytest.mark.parametrize(
    ("dev", "name"),
    [(VDB, "vdb"), (VDB1, "vdb"), (LVM, "vdb"), (WIDE, None), (44, None), (8 << 20, None)],
)
def test_disk_below_a_device(disks: Disks, dev: int, name: str | None) -> None:
    assert disks.below(dev) == name


def used(begin: int, end: int, busy: int, process=AGENT, disk="vdb") -> DiskUse:
    return DiskUse(process, disk, begin, end, 1, busy)


def users(*uses: DiskUse, kthread: bool = False) -> DiskUsers:
    known = processes(*(Process(key, kthread=kthread) for key in (AGENT, REDIS)))
    return DiskUsers(server(disk_use=uses, processes=known))


def test_a_wait_is_shared_by_whom_the_disk_worked_for() -> None:
    found = users(used(0, 100, 60), used(0, 100, 20, REDIS), used(100, 200, 100))
    assert found.shares("vdb", 0, 100) == {AGENT: 0.6, REDIS: 0.2}
    assert found.shares("vdb", 50, 150) == {AGENT: 0.8, REDIS: 0.1}


@pytest.mark.parametrize(
    ("disk", "start", "end"), [("vda", 0, 100), (None, 0, 100), ("vdb", 100, 200), ("vdb", 50, 50)]
)
def test_nobody_who_used_another_disk_or_at_another_time(
    disk: str | None, start: int, end: int
) -> None:
    assert users(used(0, 100, 100)).shares(disk, start, end) == {}


def test_kernel_threads_and_the_unknown_are_nobody() -> None:
    assert users(used(0, 100, 100), kthread=True).shares("vdb", 0, 100) == {}
    strangers = DiskUsers(server(disk_use=[used(0, 100, 100)], processes={}))
    assert strangers.shares("vdb", 0, 100) == {}


TIMES = st.tuples(st.integers(0, 500), st.integers(1, 300), st.integers(0, 400))


@given(st.lists(TIMES), st.integers(0, 500), st.integers(1, 500))
def test_no_more_than_the_whole_wait(
    uses: list[tuple[int, int, int]], start: int, lasted: int
) -> None:
    rows = [used(begin, begin + length, busy) for begin, length, busy in uses]
    shares = users(*rows).shares("vdb", start, start + lasted)
    overlapping = any(r.begin_mono_us < start + lasted and r.end_mono_us > start for r in rows)
    assert sum(shares.values()) <= 1 + 1e-9
    assert bool(shares) == overlapping


def test_totals_by_disk() -> None:
    found = users(used(0, 100, 60), used(100, 200, 30), used(0, 100, 5, disk="vda"))
    assert found.totals(AGENT) == {"vdb": (90, 2), "vda": (5, 1)}
    assert found.totals(REDIS) == {}
