"""Who holds a BPF program, by what processes have open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.procfs.aside import Aside
from tracer.procfs.programs import Holding, Programs, holdings

PROGRAM = "prog_type:\t29\nprog_jited:\t1\nprog_tag:\t6deef7357e7b4530\nprog_id:\t41\n"
LINK = "link_type:\ttracing\nlink_id:\t7\nprog_tag:\t6deef7357e7b4530\nprog_id:\t41\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A loader with a program and a link of it, another's program, and no process at all."""
    has = {
        (402, "3"): ("anon_inode:bpf-prog", PROGRAM),
        (402, "4"): ("anon_inode:bpf_link", LINK),
        (402, "5"): ("/var/log/agent", "prog_id:\t41\n"),
        (403, "3"): ("anon_inode:bpf-prog", PROGRAM.replace("41", "42")),
        (404, "3"): ("anon_inode:bpf-map", "map_id:\t41\n"),
    }
    for (pid, number), (link, text) in has.items():
        folder = tmp_path / str(pid)
        for name in ("fd", "fdinfo"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "fd" / number).symlink_to(link)
        (folder / "fdinfo" / number).write_text(text)
        (folder / "stat").write_text(f"{pid} (agentd) S {'0 ' * 18}310 0")
    (tmp_path / "sys").mkdir()
    return tmp_path


def test_a_loader_is_found_once_by_program_and_link(proc: Path) -> None:
    assert holdings(proc, [41]) == [Holding(41, 402, 3_100_000_000)]
    assert {one.pid for one in holdings(proc, [41, 42])} == {402, 403}
    assert holdings(proc, [43]) == []


def test_what_is_unreadable_is_left_out(proc: Path) -> None:
    (proc / "402" / "stat").write_text("no stat")
    (proc / "403" / "stat").unlink()
    assert holdings(proc, [41, 42]) == []


def test_each_program_is_looked_for_once(proc: Path) -> None:
    aside = Aside()
    programs = Programs(proc, aside)
    assert programs.found() == []
    programs.want(41)
    found = programs.found()
    aside.settle(5)
    assert (found or programs.found()) == [Holding(41, 402, 3_100_000_000)]
    programs.want(41)
    assert programs.found() == []
    aside.settle(5)
    assert programs.found() == []
