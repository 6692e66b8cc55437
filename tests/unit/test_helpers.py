"""Which programs the kernel has started and waits for."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from tracer import wire
from tracer.procfs.aside import Aside
from tracer.procfs.helpers import WAITED_FOR, Helpers
from tracer.reader import read_captures

KTHREAD = 0x00208040


def add(proc: Path, pid: int, comm: str, parent: int, flags: int = 0) -> None:
    """Add a process to a /proc."""
    (proc / str(pid)).mkdir(parents=True)
    rest = f"S {parent} 0 0 0 0 {flags} {'0 ' * 12}310 0"
    (proc / str(pid) / "stat").write_text(f"{pid} ({comm}) {rest}")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine on which a worker has started nfsidmap, and kthreadd something else."""
    root = tmp_path / "no-proc"  # where builders.capture() looks
    add(root, 1, "systemd", 0)
    add(root, 2, "kthreadd", 0, KTHREAD)
    add(root, 30, "kworker/u4:1-events_unbound", 2, KTHREAD)
    add(root, 900, "nfsidmap", 30)
    add(root, 901, "modprobe", 2)
    add(root, 902, "bash", 1)
    add(root, 903, "orphan", 77)
    (root / "904").mkdir()
    return root


def found(helpers: Helpers, aside: Aside) -> list[int]:
    """What a look finds, once it has come to its end."""
    at_once = helpers.found()
    aside.settle(5)
    return [pid for pid, _ in at_once or helpers.found()]


def test_a_program_that_a_worker_has_started_is_told_once(proc: Path) -> None:
    now = [0.0]
    aside = Aside()
    helpers = Helpers(proc, aside, lambda: now[0])
    assert found(helpers, aside) == []
    helpers.want(None)
    assert found(helpers, aside) == [900]
    now[0] = 10
    helpers.want(None)
    assert found(helpers, aside) == []


@pytest.mark.parametrize(("function", "pids"), [(WAITED_FOR, [900]), ("io_schedule", [])])
def test_it_is_looked_for_where_an_operation_waits_for_one(
    proc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, pids: list[int]
) -> None:
    monkeypatch.setattr(builders, "KALLSYMS", f"ffffffff91000000 T {function}\n")
    stack = builders.json_frame(wire.STACKS, {"8": [0xFFFFFFFF91000010]})
    waiting = builders.op_in_flight(off_ns=10**9, off_stack=8)
    path = builders.capture(
        tmp_path / "capture", [builders.interval(1, stack, ops=[waiting]), builders.interval(2)]
    )
    (host,) = read_captures([path])
    told = [(row.process.pid, row.kind, row.what) for row in host.holders]
    assert told == [(pid, "channel", "key") for pid in pids]
