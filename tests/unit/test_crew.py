"""nfsd's threads: what is told to the programs, and what becomes of what they count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.crew import Crew
from tracer.kernel import bpf
from tracer.records import CrewRec, CrewSize

S = 1_000_000_000


class Kernel:
    """The two maps, and the file with the number of threads."""

    def __init__(self, stats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rec = CrewRec()
        self.size = CrewSize()
        self._stats = stats
        self.threads(8)
        monkeypatch.setattr(bpf, "lookup", lambda *_: bytes(self.rec))
        monkeypatch.setattr(bpf, "update", self._update)
        monkeypatch.setattr("tracer.crew.time.monotonic_ns", lambda: 100 * S)

    def threads(self, count: int) -> None:
        self._stats.write_text(f"rc 0 0 1\nth {count} 0 0.000 0.000\nra 32 0\n")

    def _update(self, _fd: int, _key: bytes, value: bytes) -> None:
        self.size = CrewSize.from_buffer_copy(value)

    def told(self) -> tuple[int, int, int]:
        return self.size.threads, self.size.before, self.size.begun_ns


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path / "nfsd", monkeypatch)


@pytest.fixture
def crew(kernel: Kernel, tmp_path: Path) -> Crew:
    """Return it as it is once its first figures were taken."""
    crew = Crew({"crew": 1, "crew_size": 2}, [str(tmp_path / "nfsd")])
    crew.figures(100 * S)
    return crew


def test_the_first_figures_are_where_the_sums_begin(kernel: Kernel, tmp_path: Path) -> None:
    crew = Crew({"crew": 1, "crew_size": 2}, [str(tmp_path / "nfsd")])
    crew.were_at_work(8)
    figures = crew.figures(101 * S) or {}
    assert (figures["none_free_us"], figures["none_free_times"]) == (0, 0)
    figures = crew.figures(102 * S) or {}
    assert (figures["none_free_us"], figures["none_free_times"]) == (2_000_000, 1)


def test_time_in_which_none_is_free_goes_on(kernel: Kernel, crew: Crew) -> None:
    crew.were_at_work(0)
    assert kernel.told() == (8, 0, 0)
    kernel.rec = CrewRec(busy=8, since_ns=101 * S, none_ns=5 * S, times=3)
    assert crew.figures(103 * S) == {
        "threads": 8,
        "busy": 8,
        "none_free_us": 7_000_000,
        "none_free_times": 3,
    }
    # It ends between the reading of the two stamps: what was told stands.
    kernel.rec = CrewRec(busy=7, since_ns=0, none_ns=5 * S, times=3)
    assert (crew.figures(104 * S) or {})["none_free_us"] == 7_000_000
    kernel.rec = CrewRec(busy=2, since_ns=0, none_ns=8 * S, times=3)
    assert (crew.figures(105 * S) or {})["none_free_us"] == 8_000_000


def test_all_were_held_before_recording_began(kernel: Kernel, crew: Crew) -> None:
    crew.were_at_work(8)
    assert kernel.told() == (8, 8, 100 * S)
    figures = crew.figures(103 * S) or {}
    assert (figures["busy"], figures["none_free_us"], figures["none_free_times"]) == (
        8,
        3_000_000,
        1,
    )
    # One has ended: the programs have counted the time, from the stamp that they were given.
    kernel.rec = CrewRec(busy=(1 << 64) - 1, none_ns=4 * S)
    figures = crew.figures(105 * S) or {}
    assert (figures["busy"], figures["none_free_us"], figures["none_free_times"]) == (
        7,
        4_000_000,
        1,
    )
    assert kernel.told() == (8, 8, 0)


def test_threads_come_and_go(kernel: Kernel, crew: Crew) -> None:
    crew.were_at_work(0)
    kernel.threads(16)
    assert (crew.figures(101 * S) or {})["threads"] == 16
    assert kernel.told() == (16, 0, 0)
    # A server without threads has no time in which none is free.
    kernel.threads(0)
    assert (crew.figures(102 * S) or {})["threads"] == 0
    assert kernel.told() == (0, 0, 0)


def test_nothing_is_known_without_a_server(kernel: Kernel, tmp_path: Path) -> None:
    crew = Crew({"crew": 1, "crew_size": 2}, [str(tmp_path / "absent")])
    crew.were_at_work(0)
    assert crew.figures(101 * S) is None
    assert kernel.told() == (0, 0, 0)
