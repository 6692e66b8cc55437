from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.procfs.processes import (
    Facts,
    ProcessTable,
    ProcReader,
    parse_cgroup,
    parse_command_line,
    parse_stat,
    parse_uid,
)

START_NS = 3_105_432_109
TICKS = 310


@pytest.fixture
def proc_root(tmp_path: Path) -> Path:
    """Return a /proc with one process, 402 qaxsafed, that started at tick 310."""
    root = tmp_path / "proc"
    add(root, 402, "qaxsafed", TICKS)
    return root


def add(
    root: Path,
    pid: int,
    comm: str,
    ticks: int,
    *,
    state: str = "S",
    flags: int = 0x400000,
    exe: str | None = "/opt/qaxsafe/qaxsafed",
    cgroup: str = "0::/system.slice/qax.service\n",
) -> None:
    folder = root / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    rest = f"{state} 1 {pid} {pid} 0 -1 {flags} " + "0 " * 12 + f"{ticks} " + "0 " * 30
    (folder / "stat").write_text(f"{pid} ({comm}) {rest}\n")
    (folder / "status").write_text(f"Name:\t{comm}\nUid:\t1001\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
    (folder / "cgroup").write_text(cgroup)
    if exe:
        (folder / "exe").unlink(missing_ok=True)
        (folder / "exe").symlink_to(exe)


def test_facts_of_a_process(proc_root: Path) -> None:
    assert ProcReader(proc_root).facts(402, START_NS) == Facts(
        comm="qaxsafed",
        exe="/opt/qaxsafe/qaxsafed",
        uid=1001,
        ppid=1,
        cgroup="/system.slice/qax.service",
        container=None,
        state="S",
        kthread=False,
    )


@pytest.mark.parametrize("start_ns", [3_099_999_999, 3_110_000_000, 0])
def test_a_pid_that_was_used_again_is_not_believed(proc_root: Path, start_ns: int) -> None:
    assert ProcReader(proc_root).facts(402, start_ns) is None


@pytest.mark.parametrize("start_ns", [3_100_000_000, 3_109_999_999])
def test_starts_are_compared_to_the_tick(proc_root: Path, start_ns: int) -> None:
    assert ProcReader(proc_root).facts(402, start_ns) is not None


def test_process_that_ended(proc_root: Path) -> None:
    assert ProcReader(proc_root).facts(999, START_NS) is None


def test_kernel_thread(proc_root: Path) -> None:
    add(proc_root, 640, "nfsd", TICKS, flags=0x208040, exe=None)
    facts = ProcReader(proc_root).facts(640, START_NS)
    assert facts is not None
    assert (facts.kthread, facts.exe, facts.comm) == (True, None, "nfsd")


def test_executable_that_was_replaced(proc_root: Path) -> None:
    add(proc_root, 403, "qaxsafed", TICKS, exe="/opt/qaxsafe/qaxsafed (deleted)")
    facts = ProcReader(proc_root).facts(403, START_NS)
    assert facts is not None
    assert facts.exe == "/opt/qaxsafe/qaxsafed"


def test_this_process_by_the_real_proc() -> None:
    stat = parse_stat(Path("/proc/self/stat").read_text())
    assert stat is not None
    facts = ProcReader().facts(os.getpid(), stat.start_ticks * 10_000_000 + 123)
    assert facts is not None
    assert (facts.uid, facts.ppid) == (os.getuid(), os.getppid())
    assert facts.exe == str(Path("/proc/self/exe").readlink())


@pytest.mark.parametrize("name", ["a b", "a) R 1 (b", "((", "))", ""])
def test_names_with_anything_in_them(name: str) -> None:
    rest = "T 7 " + "0 " * 4 + "0 " + "0 " * 12 + "55 0"
    stat = parse_stat(f"12 ({name}) {rest}")
    assert stat is not None
    assert (stat.comm, stat.state, stat.ppid, stat.start_ticks) == (name, "T", 7, 55)


@pytest.mark.parametrize("text", ["", "12 (a", "12 (a) R", "a b c", "1 (x) R " + "y " * 30])
def test_what_is_no_stat(text: str) -> None:
    assert parse_stat(text) is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/system.slice/ssh.service\n", "/system.slice/ssh.service"),
        ("9:name=systemd:/\n4:memory:/docker/x\n0::/\n", "/docker/x"),
        ("4:cpu,cpuacct:/a\n3:memory:/b\n", "/b"),
        ("0::/\n", "/"),
        ("", None),
    ],
)
def test_cgroup_path(text: str, path: str | None) -> None:
    assert parse_cgroup(text) == path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        # Of all separators a name may hold every one but the newline.
        ("0::/a\x0b0::/docker/x\n", "/a\x0b0::/docker/x"),
        ("0::/a\u20280::/b\r0::/c\n", "/a\u20280::/b\r0::/c"),
        ("0::/a:b::/c\n", "/a:b::/c"),
        ("0::/gone (deleted)\n", "/gone"),
        ("nonsense\n", None),
    ],
)
def test_cgroup_of_any_name(text: str, path: str | None) -> None:
    assert parse_cgroup(text) == path


@pytest.mark.parametrize(
    ("name", "comm"),
    [
        ("a\nb", "a\nb"),
        (r"a\nb", r"a\nb"),
        ("\x1b[31m\x07", "\x1b[31m\x07"),
        # What it happens to do now is not what it did when it was seen.
        ("kworker/u4:0-flush-0:45", "kworker/u4:0"),
        ("kworker/0:1H+xprtiod", "kworker/0:1H"),
        ("kworker/0:1", "kworker/0:1"),
    ],
)
def test_name_as_the_process_has_it(name: str, comm: str) -> None:
    stat = parse_stat(f"12 ({name}) S 7 " + "0 " * 17 + "55 0")
    assert stat is not None
    assert stat.comm == comm


@pytest.mark.parametrize(
    ("status", "uid"),
    [
        ("Name:\tx\nUid:\t1001\t0\t0\t0\n", 1001),
        # A process may call itself so.
        ("Name:\tUid:\t0\t0\t0\nUid:\t1001\t0\t0\t0\n", 1001),
        ("Name:\tx\x0bUid:\t0\nUid:\t1001\t0\t0\t0\n", 1001),
        ("Name:\tx\n", None),
        ("", None),
    ],
)
def test_uid(status: str, uid: int | None) -> None:
    assert parse_uid(status) == uid


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"", None),
        (b"sleep\0001\0", "sleep 1"),
        (b"sh\0-c\0a b\0", "sh -c 'a b'"),
        (b"title without end", "'title without end'"),
        (b"a\0\0b\0", "a '' b"),
    ],
)
def test_command_line(raw: bytes, line: str | None) -> None:
    assert parse_command_line(raw) == line


def test_executable_of_any_bytes(proc_root: Path) -> None:
    exe = b"/opt/\xe9\n\x1b'".decode("utf-8", "surrogateescape")
    add(proc_root, 404, "x", TICKS, exe=exe)
    facts = ProcReader(proc_root).facts(404, START_NS)
    assert facts is not None
    assert facts.exe == "/opt/\\xe9\n\x1b'"


class TestProcessTable:
    def test_a_process_is_written_once_and_again_when_it_changes(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        assert table.comm(402, START_NS) == "qaxsafed"
        assert [row[:2] for row in table.changed()] == [(402, START_NS)]

        table.comm(402, START_NS)
        assert table.changed() == []

        add(proc_root, 402, "qaxsafed", TICKS, state="T")
        table.watch(402, START_NS)
        ((_, _, facts),) = table.changed()
        assert facts.state == "T"

    def test_only_watched_processes_are_read_again(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.comm(402, START_NS)
        table.changed()
        add(proc_root, 402, "qaxsafed", TICKS, state="T")
        table.comm(402, START_NS)
        assert table.changed() == []

    def test_the_end_of_a_watched_process_leaves_its_facts(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.watch(402, START_NS)
        table.changed()
        add(proc_root, 402, "another", TICKS + 1)
        table.watch(402, START_NS)
        ((_, _, facts),) = table.changed()
        assert (facts.comm, facts.state) == ("qaxsafed", None)

    def test_exec_is_noticed(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.watch(402, START_NS)
        table.changed()
        add(proc_root, 402, "scanner", TICKS, exe="/opt/qaxsafe/scanner")
        table.watch(402, START_NS)
        ((_, _, facts),) = table.changed()
        assert (facts.comm, facts.exe) == ("scanner", "/opt/qaxsafe/scanner")

    def test_what_the_kernel_noted_names_a_process_that_ended(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.learn(999, START_NS, Facts(comm="cp", exe="cp", uid=33, ppid=5))
        assert table.comm(999, START_NS) == "cp"
        assert table.changed() == [(999, START_NS, Facts(comm="cp", exe="cp", uid=33, ppid=5))]

    def test_a_note_that_comes_late_still_names_it(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        assert table.comm(999, START_NS) is None
        table.changed()
        table.learn(999, START_NS, Facts(comm="cp", exe="cp"))
        assert table.comm(999, START_NS) == "cp"
        assert len(table.changed()) == 1

    def test_proc_knows_better_than_the_note(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.learn(402, START_NS, Facts(comm="sh", exe="sh", uid=0, ppid=9))
        table.watch(402, START_NS)
        ((_, _, facts),) = table.changed()
        assert (facts.comm, facts.exe, facts.uid) == ("qaxsafed", "/opt/qaxsafe/qaxsafed", 1001)

    def test_each_segment_has_every_process_that_it_refers_to(self, proc_root: Path) -> None:
        table = ProcessTable(ProcReader(proc_root))
        table.comm(402, START_NS)
        table.changed()
        table.new_segment()
        assert table.changed() == []
        table.comm(402, START_NS)
        assert len(table.changed()) == 1
