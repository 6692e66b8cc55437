"""Which disk a filesystem lies on, and whom a disk worked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from blame_cases import AGENT, REDIS, processes, server
from hypothesis import given
from hypothesis import strategies as st

from tracer.blame.disks import DiskUsers, is_journal
from tracer.model import DiskUse, Process, ProcessKey
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
    ("dev", "device", "disk"),
    [
        (VDB, "vdb", "vdb"),
        (VDB1, "vdb", "vdb"),
        (LVM, "dm-0", "vdb"),
        (WIDE, "dm-1", None),
        (44, None, None),
        (8 << 20, None, None),
    ],
)
def test_a_device_and_the_disk_below_it(
    disks: Disks, dev: int, device: str | None, disk: str | None
) -> None:
    assert (disks.device(dev), disks.below(dev)) == (device, disk)


def used(begin: int, end: int, busy: int, process=AGENT, disk="vdb") -> DiskUse:
    return DiskUse(process, disk, begin, end, 1, busy)


def users(*uses: DiskUse, thread: str | None = None) -> DiskUsers:
    rows = (Process(key, comm=thread, kthread=thread is not None) for key in (AGENT, REDIS))
    return DiskUsers(server(disk_use=uses, processes=processes(*rows)))


def test_a_wait_is_shared_by_whom_the_disk_worked_for() -> None:
    found = users(used(0, 100, 60), used(0, 100, 20, REDIS), used(100, 200, 100))
    assert found.shares("vdb", 0, 100) == {AGENT: 0.6, REDIS: 0.2}
    assert found.shares("vdb", 50, 150) == {AGENT: 0.8, REDIS: 0.1}


def moved(size: int, process: ProcessKey | None = AGENT, **for_whom: str) -> DiskUse:
    return replace(used(0, 100, 20, process), moved_bytes=size, **for_whom)


def test_where_the_time_goes_into_what_is_moved_it_is_his_who_had_it_moved() -> None:
    others = used(0, 100, 20, REDIS), moved(40, None, client="10.9.0.3")
    found = users(moved(960), *others)
    assert found.moved_shares("vdb", 0, 100) == {AGENT: 0.6 * 0.96, REDIS: 0}
    assert found.moved_shares("vdb", 100, 200) == found.moved_shares("vda", 0, 100) == {}


def test_what_a_disk_moves_for_nfsd_is_nobodys() -> None:
    rows = processes(Process(AGENT, comm="nfsd", kthread=True), Process(REDIS, comm="redis"))
    found = DiskUsers(server(disk_use=[moved(750), moved(250, REDIS)], processes=rows))
    assert found.moved_shares("vdb", 0, 100) == {REDIS: 0.4 * 0.25}


@pytest.mark.parametrize(
    ("disk", "start", "end"), [("vda", 0, 100), (None, 0, 100), ("vdb", 100, 200), ("vdb", 50, 50)]
)
def test_nobody_who_used_another_disk_or_at_another_time(
    disk: str | None, start: int, end: int
) -> None:
    assert users(used(0, 100, 100)).shares(disk, start, end) == {}


def test_what_a_disk_does_for_nfsd_is_nobodys() -> None:
    assert users(used(0, 100, 100), thread="nfsd").shares("vdb", 0, 100) == {}


@pytest.mark.parametrize("thread", ["jbd2/vdb-8", "xfsaild/vdb", "btrfs-transaction"])
def test_journals_are_known_by_their_threads(thread: str) -> None:
    assert is_journal(Process(AGENT, comm=thread, kthread=True))
    assert not is_journal(Process(AGENT, comm=thread, kthread=False))
    assert not is_journal(Process(AGENT, comm="kworker/0:1", kthread=True))


def test_other_threads_of_the_kernel_count() -> None:
    found = users(used(0, 100, 100), thread="kworker/u8:1")
    assert found.shares("vdb", 0, 100) == {AGENT: 1.0}


def test_a_process_may_have_the_name_of_a_kernels_thread() -> None:
    rows = processes(Process(AGENT, comm="nfsd", kthread=False))
    found = DiskUsers(server(disk_use=[used(0, 100, 100)], processes=rows))
    assert found.shares("vdb", 0, 100) == {AGENT: 1.0}


def test_who_is_not_known_counts() -> None:
    strangers = DiskUsers(server(disk_use=[used(0, 100, 100)], processes={}))
    assert strangers.shares("vdb", 0, 100) == {AGENT: 1.0}
    assert users(used(0, 100, 70, process=None)).shares("vdb", 0, 100) == {None: 0.7}


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
    assert found.totals({AGENT}) == {"vdb": (90, 2), "vda": (5, 1)}
    assert found.totals({REDIS}) == {}


@pytest.mark.parametrize(
    ("uses", "disk"),
    [
        ((("vdb", 2, 900),), "vdb"),
        ((("vdb", 2, 900), ("vda", 2, 100)), "vdb"),
        ((("vdb", 2, 500), ("vda", 2, 500)), None),
        ((("vdb", 9, 900),), None),
        ((), None),
    ],
)
def test_the_disk_that_did_most_for_a_process(
    uses: tuple[tuple[str, int, int], ...], disk: str | None
) -> None:
    rows = tuple(
        DiskUse(REDIS, name, second * 1_000_000, second * 1_000_000 + 67_000, 1, busy_us)
        for name, second, busy_us in uses
    )
    users = DiskUsers(server(disk_use=rows))
    assert users.main_disk(REDIS, 1_000_000, 3_000_000) == disk
    assert users.main_disk(AGENT, 1_000_000, 3_000_000) is None
    assert users.main_disk(None, 1_000_000, 3_000_000) is None
