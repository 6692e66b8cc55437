from __future__ import annotations

import subprocess
import sys

import pytest

from tracer.clocks import Clocks, ClockWatch, cpu_ns, read_clocks, read_clocks_closely

S = 1_000_000_000
START = Clocks(100 * S, 150 * S, 1_795_344_000 * S, 100 * S)


def later(mono_s: float = 1, boot_s: float = 1, wall_s: float = 1, took_s: float = 0) -> Clocks:
    """Return the clocks when they have gone on by so much."""
    mono_ns = START.mono_ns + int(mono_s * S)
    return Clocks(
        mono_ns,
        START.boot_ns + int(boot_s * S),
        START.wall_ns + int(wall_s * S),
        mono_ns + int(took_s * S),
    )


def said(*looks: Clocks) -> list[str]:
    following = iter((START, *looks))
    watch = ClockWatch(lambda: next(following))
    return [text for _ in looks for text in watch.changes()]


@pytest.mark.parametrize(
    ("looks", "text"),
    [
        ([later(wall_s=3601)], "set forward by 3600.0 s"),
        ([later(wall_s=-3599)], "set back by 3600.0 s"),
        ([later(boot_s=61, wall_s=61)], "suspended for 60.0 s"),
        ([later(wall_s=3601), later(2, 2, 3602)], "set forward by 3600.0 s"),
        # A look that took too long is made up for by the next one.
        ([later(wall_s=3601, took_s=5), later(2, 2, 3602)], "set forward by 3600.0 s"),
    ],
)
def test_what_happened_is_said_once(looks: list[Clocks], text: str) -> None:
    (only,) = said(*looks)
    assert text in only


@pytest.mark.parametrize(
    "looks",
    [
        [later()],
        [later(wall_s=1.01)],  # slewed
        [later(wall_s=9, took_s=8)],  # not on a CPU between two clocks
        [later(3600, 3600, 3600)],
    ],
)
def test_nothing_happened(looks: list[Clocks]) -> None:
    assert said(*looks) == []


def test_both_at_once() -> None:
    assert len(said(later(boot_s=61, wall_s=3661))) == 2


def test_real_clocks() -> None:
    assert list(ClockWatch(read_clocks).changes()) == []


def test_the_closest_of_several_looks_counts() -> None:
    looks = [later(n, n, n, took_s=took) for n, took in enumerate((3, 2, 0.1, 2, 3))]
    assert read_clocks_closely(iter(looks).__next__) == looks[2]


def test_cpu_time_of_another_process() -> None:
    busy = "from time import *\nwhile process_time() < 0.2: pass\n"
    busy += "print(process_time_ns(), flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-ISc", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        own_ns = int(process.stdout.readline())
        assert own_ns <= cpu_ns(process.pid) < own_ns + S
        process.communicate(b"\n")
    assert cpu_ns(process.pid) == 0
