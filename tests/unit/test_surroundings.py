"""Names of pods, command lines, groups that have ended: what may take long, or may be gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tracer.procfs.aside import Aside
from tracer.procfs.cgroups import Cgroups
from tracer.procfs.containers import Pod
from tracer.procfs.pods import look
from tracer.procfs.processes import Facts, ProcessTable, ProcReader
from tracer.procfs.surroundings import Surroundings

ID = "3f5a0c" + "0123456789abcdef" * 3 + "0123456789"
UID = "8f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
REDIS = Facts(comm="redis-server", state="S", pod_uid=UID, container=ID)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestAside:
    def test_answer_is_there_when_it_is_there(self) -> None:
        aside, gate = Aside(), threading.Event()
        assert not aside.ask("a", lambda: gate.wait(10))
        assert not aside.ask("a", lambda: gate.wait(10))
        gate.set()
        aside.settle(10)
        assert aside.ask("a", lambda: None)
        assert aside.take("a") is True
        assert not aside.ask("a", lambda: 2)

    def test_nobody_waits_for_long_for_what_hangs(self) -> None:
        aside, gate = Aside(), threading.Event()
        aside.ask("a", lambda: gate.wait(60))
        began = time.monotonic()
        aside.settle(0.1)
        assert time.monotonic() - began < 5
        gate.set()

    def test_not_everything_can_be_asked_at_once(self) -> None:
        aside, gate = Aside(), threading.Event()
        for number in range(5000):
            aside.ask(number, lambda: gate.wait(60))
        gate.set()
        aside.settle(10)
        assert aside.ask(0, lambda: None)
        assert not aside.ask(4999, lambda: None)


class TestPods:
    @pytest.fixture
    def logs(self, tmp_path: Path) -> Path:
        (tmp_path / "pods" / f"default_redis-0_{UID}").mkdir(parents=True)
        (tmp_path / "pods" / "\x1b[31m").mkdir()
        return tmp_path

    def complete(self, logs: Path, facts: Facts) -> Facts:
        beside = Surroundings(logs, ProcReader(logs), Aside(), command_lines=False)
        until(lambda: not beside.complete(811, 1, facts)[1])
        return beside.complete(811, 1, facts)[0]

    def test_by_log_folder(self, logs: Path) -> None:
        assert self.complete(logs, REDIS) == replace(
            REDIS, pod_namespace="default", pod_name="redis-0"
        )

    def test_by_link_of_the_container(self, tmp_path: Path) -> None:
        (tmp_path / "containers").mkdir()
        (tmp_path / "containers" / f"redis-0_default_redis-{ID}.log").symlink_to("/nowhere")
        assert self.complete(tmp_path, REDIS).pod_name == "redis-0"

    def test_unknown_without_folders(self, tmp_path: Path) -> None:
        assert self.complete(tmp_path / "none", REDIS) == REDIS

    def test_one_that_comes_later_is_found(self, logs: Path) -> None:
        beside = Surroundings(logs, ProcReader(logs), Aside(), command_lines=False)
        other = replace(REDIS, pod_uid=UID.replace("8", "9"), container=None)
        until(lambda: not beside.complete(812, 1, other)[1])
        (logs / "pods" / f"default_redis-1_{other.pod_uid}").mkdir()
        assert beside.complete(812, 1, other)[0] == other
        beside.new_interval()
        until(lambda: not beside.complete(812, 1, other)[1])
        assert beside.complete(812, 1, other)[0].pod_name == "redis-1"

    def test_two_that_claim_one_uid_are_none(self, logs: Path) -> None:
        (logs / "pods" / f"default_impostor_{UID}").mkdir()
        assert look(logs)[0] == {UID: None}
        assert look(logs / "none") == ({}, {})
        assert Pod("a", "b") != Pod("b", "a")


def process(root: Path, pid: int, line: bytes) -> None:
    folder = root / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (redis) S 1 " + "0 " * 17 + "310 0\n")
    (folder / "cmdline").write_bytes(line)


class TestCommandLines:
    def seen(self, root: Path, *, asked: bool) -> Facts:
        read = ProcReader(root)
        aside = Aside()
        beside = Surroundings(root, read, aside, command_lines=asked)
        table = ProcessTable(read, beside.complete)
        table.comm(811, 3_105_000_000)
        rows = table.changed()
        aside.settle(10)
        return [*rows, *table.changed()][-1][2]

    def test_only_if_asked_for(self, tmp_path: Path) -> None:
        process(tmp_path, 811, b"redis-server\0--requirepass\0two words\0")
        assert self.seen(tmp_path, asked=False).command_line is None
        line = "redis-server --requirepass 'two words'"
        assert self.seen(tmp_path, asked=True).command_line == line

    def test_any_bytes(self, tmp_path: Path) -> None:
        process(tmp_path, 811, b"a\xff\n\x1b\0" + b"x" * 100_000)
        line = self.seen(tmp_path, asked=True).command_line
        assert line is not None
        assert line.startswith("'a\\xff\n\x1b' xx")
        assert len(line) < 5000

    def test_kernel_threads_and_zombies_have_none(self, tmp_path: Path) -> None:
        process(tmp_path, 811, b"")
        assert self.seen(tmp_path, asked=True).command_line is None


class TestCgroups:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "system.slice/qax.service").mkdir(parents=True)
        (tmp_path / "cgroup.controllers").touch()
        return tmp_path

    def test_group_is_known_after_its_end(self, root: Path) -> None:
        group = root / "system.slice/qax.service"
        identifier = group.stat().st_ino
        cgroups = Cgroups(root)
        assert cgroups.path(identifier) == "/system.slice/qax.service"
        assert cgroups.path(root.stat().st_ino) == "/"
        group.rmdir()
        cgroups.new_interval()
        assert cgroups.path(1) is None
        assert cgroups.path(identifier) == "/system.slice/qax.service"

    def test_group_that_was_never_seen_is_unknown(self, root: Path) -> None:
        group = root / "system.slice/qax.service"
        identifier = group.stat().st_ino
        group.rmdir()
        assert Cgroups(root).path(identifier) is None

    def test_walks_once_in_an_interval(self, root: Path) -> None:
        cgroups = Cgroups(root)
        cgroups.path(1)
        (root / "new").mkdir()
        identifier = (root / "new").stat().st_ino
        assert cgroups.path(identifier) is None
        cgroups.new_interval()
        assert cgroups.path(identifier) == "/new"

    def test_a_host_with_v1_alone_has_no_ids(self, root: Path) -> None:
        (root / "cgroup.controllers").unlink()
        assert Cgroups(root).path(root.stat().st_ino) is None

    def test_root_of_a_hybrid_says_nothing(self, tmp_path: Path) -> None:
        unified = tmp_path / "unified"
        (unified / "a").mkdir(parents=True)
        (unified / "cgroup.controllers").touch()
        cgroups = Cgroups(tmp_path)
        assert cgroups.path((unified / "a").stat().st_ino) == "/a"
        assert cgroups.path(unified.stat().st_ino) is None

    def test_names_of_any_bytes(self, root: Path) -> None:
        folder = bytes(root) + b"/\xe9\x1b"
        Path(folder.decode("utf-8", "surrogateescape")).mkdir()
        identifier = Path(folder.decode("utf-8", "surrogateescape")).stat().st_ino
        assert Cgroups(root).path(identifier) == "/\\xe9\x1b"
