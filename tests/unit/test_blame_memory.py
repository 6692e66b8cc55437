"""Who is named for a wait for memory, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blame_cases import (
    HOG,
    NFSD,
    OTHER,
    REDIS,
    SCHEDULE,
    between,
    call,
    client,
    named,
    processes,
    served,
    server,
    us,
    wait,
)

from tracer.blame import analyse
from tracer.model import MemoryUse, Process, ProcessKey

WORKER = ProcessKey(601, 9_600_000)

ROWS = processes(
    Process(HOG, comm="indexd", exe="/opt/index/indexd", cgroup="/index"),
    Process(WORKER, comm="indexd", exe="/opt/index/indexd", cgroup="/index"),
    Process(OTHER, comm="backupd", exe="/opt/backupd", cgroup="/backup"),
    Process(NFSD, comm="nfsd", kthread=True),
)
RECLAIM = (
    *SCHEDULE,
    "schedule_timeout",
    "reclaim_throttle",
    "shrink_node",
    "do_try_to_free_pages",
    "try_to_free_pages",
    "__alloc_pages_slowpath.constprop.0",
    "folio_alloc",
    "page_cache_ra_unbounded",
    "nfsd_splice_read",
)
LIMIT = (
    *SCHEDULE,
    "io_schedule",
    "shrink_node",
    "try_to_free_mem_cgroup_pages",
    "try_charge_memcg",
)

HOGS = ("process", "indexd", "reclaim")


def freed(first, last, kind="reclaiming", **changes):
    return wait(first, last, (), kind=kind, **changes)


def took(process, megabytes, first=9.5, last=12.0):
    return MemoryUse(process, us(first), us(last), megabytes << 20)


def analysis(*uses, waits=None, **values):
    ops = values.pop("ops", None) or [served(10, 12, *(waits or [freed(10, 11.9)]))]
    known = {"processes": ROWS, "listeners": (), "memory_use": uses}
    return analyse([server(ops, **(known | values))])


@pytest.mark.parametrize(
    "waits",
    [
        pytest.param([freed(10, 11.9)], id="at work"),
        pytest.param([wait(10, 11.9, RECLAIM)], id="asleep, by its stack"),
        pytest.param([freed(10, 11.9, in_flight=True)], id="not ended"),
    ],
)
def test_who_took_clearly_most_is_named(waits):
    found = analysis(took(HOG, 300), took(OTHER, 100), took(None, 50), waits=waits)
    assert named(found) == [HOGS]
    (first,) = found.verdict.culprits
    assert first.stall_us == first.direct_us == us(1.9)
    assert [item.link.name for item in first.chain] == ["indexd"]
    assert "took 315 MB while memory was short, 67 % of what was taken then" in first.evidence
    assert "it took the memory (reclaim)" in found.verdict.summary
    assert found.causes["reclaim"] == us(1.9)


@pytest.mark.parametrize(
    "uses",
    [
        pytest.param([], id="nothing counted"),
        pytest.param([took(HOG, 300), took(OTHER, 300)], id="two hogs"),
        pytest.param([took(HOG, 300), took(OTHER, 200)], id="nobody has clearly most"),
        pytest.param([took(HOG, 300), took(None, 400)], id="most is the kernel's"),
        pytest.param([took(HOG, 300), took(NFSD, 400)], id="most is nfsd's"),
        pytest.param([took(NFSD, 400)], id="all is a kernel thread's"),
        pytest.param([took(ProcessKey(7, 7), 400)], id="all is a process's that is not known"),
        pytest.param([took(HOG, 4)], id="too little to tell by one page in 16"),
        pytest.param([took(HOG, 300, 13, 14)], id="after the wait"),
        pytest.param([took(HOG, 300, -9, -0.1)], id="long before the wait"),
        pytest.param([took(HOG, 300), took(HOG, -297)], id="and given back"),
    ],
)
def test_nobody_is_named_else(uses):
    found = analysis(*uses)
    assert named(found) == []
    assert found.causes["reclaim"] == us(1.9)


@pytest.mark.parametrize(
    ("comm", "kthread", "names"),
    [
        ("kswapd0", True, [HOGS]),
        ("kcompactd1", True, [HOGS]),
        ("kworker/0:1", True, []),
        ("kswapd0", False, [("process", "kswapd0", "cpu")]),
    ],
)
def test_the_cpu_that_freeing_memory_takes_is_the_takers_too(comm, kthread, names):
    ran = ProcessKey(55, 200_000)
    rows = ROWS | processes(Process(ran, comm=comm, kthread=kthread))
    waits = [freed(10, 11.9, kind="runnable", waker=ran)]
    assert named(analysis(took(HOG, 300), waits=waits, processes=rows)) == names


def test_what_was_taken_just_before_is_what_is_lacking():
    assert named(analysis(took(HOG, 300, 9.2, 9.9), took(None, 50))) == [HOGS]


def test_what_the_kernel_gives_back_it_has_not_kept():
    assert named(analysis(took(HOG, 300), took(None, 900), took(None, -850))) == [HOGS]


def test_processes_of_one_program_are_one():
    found = analysis(took(HOG, 120), took(WORKER, 180), took(OTHER, 100))
    assert named(found) == [HOGS]
    assert found.verdict.culprits[0].culprit.process == WORKER
    assert any(line.startswith("took 315 MB") for line in found.verdict.culprits[0].evidence)


def test_scripts_of_one_interpreter_are_not():
    rows = {key: replace(row, exe="/usr/bin/python3") for key, row in ROWS.items()}
    rows = {key: replace(row, comm="python3") for key, row in rows.items()}
    both = (took(HOG, 200), took(WORKER, 200))
    assert named(analysis(*both, processes=rows)) == []


def test_nobody_is_named_if_not_all_was_counted():
    assert named(analysis(took(HOG, 300), losses={"uses_full": 1})) == []


def test_a_little_of_each_operation_is_no_stall_of_it():
    found = analysis(took(HOG, 300), waits=[freed(10, 10.04)])
    assert named(found) == []
    assert found.causes["reclaim"] == us(0.04)


def test_a_thread_that_was_to_take_a_request_up_had_to_free_memory_first():
    op = served(10, 12, freed(10, 11.9), queue=1.95)
    found = analysis(took(HOG, 300), ops=[op])
    assert named(found) == [HOGS]
    assert found.verdict.culprits[0].stall_us == us(1.9)


def test_requests_wait_for_threads_that_free_memory_for_their_next():
    ops = [between(10, 11.9, freed(10, 11.9)) for _ in range(2)]
    ops += [served(10, 12, queue=1.95, xid=xid) for xid in (1, 2, 3)]
    found = analysis(took(HOG, 300), ops=ops, nfsd_threads=2)
    (first,) = found.verdict.culprits
    assert (first.culprit.name, first.operations) == ("indexd", 3)
    assert first.stall_us == pytest.approx(us(3 * 1.9), rel=0.03)


class TestLimit:
    rows = ROWS | processes(
        Process(REDIS, comm="redis-server", exe="/usr/bin/redis", cgroup="/index")
    )

    def analysis(self, *uses, **values):
        ops = [call(10, 12, values.pop("wait", freed(10, 11.9, kind="limited")))]
        known = {"processes": self.rows, "memory_use": uses}
        return analyse([client(ops, **(known | values))])

    @pytest.mark.parametrize("how", [freed(10, 11.9, kind="limited"), wait(10, 11.9, LIMIT)])
    def test_who_took_most_within_it_is_named(self, how):
        found = self.analysis(took(HOG, 30), took(OTHER, 900), took(None, 900), wait=how)
        assert named(found) == [HOGS]

    def test_nobody_outside_of_it_is(self):
        assert named(self.analysis(took(OTHER, 900))) == []

    def test_it_may_have_been_the_process_itself(self):
        found = self.analysis(took(REDIS, 30), took(OTHER, 900))
        assert named(found) == [("process", "redis", "reclaim")]

    def test_nobody_is_if_the_cgroup_is_not_known(self):
        rows = self.rows | processes(Process(REDIS, comm="redis-server"))
        assert named(self.analysis(took(HOG, 30), processes=rows)) == []
