"""How a recording begins and ends, with children and kernel played by hand."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracer import recorder, wire
from tracer.children import END_SIGNALS, Loaded
from tracer.errors import Exit, NfsblameError
from tracer.outbox import Interval, Outbox
from tracer.recorder import Recorder, Settings


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Undo what a recorder does to this process's signals."""
    handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "output": Path("/nonexistent"),
        "sides": ["server"],
        "threshold_us": 100_000,
        "interval_s": 60.0,
        "duration_s": None,
        "max_size_bytes": 1 << 30,
        "ready_file": None,
        "command": [],
    }
    return Settings(**given | changes)


def made(**changes: Any) -> Recorder:
    return Recorder(settings(**changes), lambda *_: None)


class FakeCollector:
    """Drains intervals with so many bytes of facts."""

    stuck_before = 0

    def __init__(self, size: int = 10) -> None:
        self._size = size
        self.looks = 0
        self.drained = 0

    def stop(self) -> None:
        """As the real one."""

    def gather(self) -> None:
        """As the real one, whose ring is not full."""
        self.looks += 1

    def drain(self) -> Interval:
        self.drained += 1
        tick = {"mono_ns": 1, "intervals": 1, "losses": {}, "overhead": {}}
        return Interval(tick=tick, facts=[(wire.NAMES, b" " * self._size)])


class Pipes:
    """An outbox with the end that the writer has, and a wake-up."""

    def __init__(self) -> None:
        self.theirs, ours = os.pipe()
        self.box = Outbox(ours)
        self.wake, self.waker = os.pipe()

    def close(self) -> None:
        for fd in (self.theirs, self.wake, self.waker):
            os.close(fd)
        if not self.box.closed:
            self.box.close()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.close()


@pytest.mark.parametrize("number", END_SIGNALS)
def test_a_signal_while_compiling_ends_at_once_and_leaves_no_child(
    own_signals: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    child = tmp_path / "child"
    child.write_text("#!/bin/sh\nexec sleep 60\n")
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    started: list[subprocess.Popen[bytes]] = []

    class Spy(recorder.Compiler):
        def __init__(self, sides: list[str]) -> None:
            super().__init__(sides)
            started.append(self.process)

        def wait(self, stop: int) -> bool:
            os.kill(os.getpid(), number)
            return super().wait(stop)

    monkeypatch.setattr(recorder, "Compiler", Spy)
    with pytest.raises(NfsblameError, match="nothing was written") as caught:
        made().run()
    assert caught.value.exit_code == Exit.INCOMPLETE
    assert started[0].returncode == -signal.SIGKILL


def test_nohup_is_respected_and_a_shells_background_is_not(own_signals: None) -> None:
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    wake = recorder._signal_wakeup()
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(BlockingIOError):
        os.read(wake, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
        assert os.read(wake, 1) == bytes([number])


def test_a_required_probe_that_is_missing_ends_it_with_what_is_lost() -> None:
    described = {
        "program": "on_svc_process",
        "kind": "raw_tp",
        "target": "svc_process",
        "purpose": "begin",
        "lost": "the server",
        "required": True,
    }
    recording = made()
    with pytest.raises(NfsblameError, match=r"svc_process: gone.*cannot see the server") as caught:
        recording._note_probe(described, "gone")
    assert caught.value.exit_code == Exit.KERNEL
    recording._note_probe({**described, "required": False}, "gone")
    (row,) = recording._probes
    assert (row["attached"], row["reason"], row["lost"]) == (False, "gone", "the server")


def test_types_that_lack_a_field_of_the_look_are_a_named_degradation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Seeder:
        def __init__(self, *_: object) -> None:
            raise KeyError("OFF_task_struct__tasks")

    monkeypatch.setattr(recorder.seed, "Seeder", Seeder)
    recording = made()
    recording._look_back(Loaded({}, [], [], {}), None, None, {})  # type: ignore[arg-type]
    (row,) = recording._probes
    assert row["attached"] is False
    assert "OFF_task_struct__tasks" in row["reason"]
    assert row["lost"] == "what was stuck before recording began"


def test_the_loop_ends_with_a_signal(pipes: Pipes) -> None:
    os.write(pipes.waker, b"!")
    assert made()._loop(FakeCollector(), pipes.box, pipes.wake) == "signal"  # type: ignore[arg-type]


def test_the_loop_ends_when_its_time_is_over(pipes: Pipes) -> None:
    recording = made(duration_s=0.1, interval_s=0.03)
    assert recording._loop(FakeCollector(), pipes.box, pipes.wake) == "duration"  # type: ignore[arg-type]
    received = os.read(pipes.theirs, 1 << 16)
    ticks = [kind for kind, _ in wire.FrameParser().feed(received) if kind == wire.TICK]
    assert len(ticks) >= 2


def test_the_loop_ends_when_the_writer_is_gone(pipes: Pipes) -> None:
    os.close(pipes.theirs)
    pipes.theirs = os.dup(pipes.wake)
    recording = made(interval_s=0.01)
    assert recording._loop(FakeCollector(), pipes.box, pipes.wake) == "writer gone"  # type: ignore[arg-type]


def test_an_interval_larger_than_the_pipe_is_gone_before_the_next(pipes: Pipes) -> None:
    """The loop waits for room in the pipe, not for the next interval."""
    size = 3 << 20
    pipes.box.put(FakeCollector(size).drain())
    received = 0

    def read() -> None:
        nonlocal received
        while received < size:
            received += len(os.read(pipes.theirs, 1 << 20))
        os.write(pipes.waker, b"!")

    reader = threading.Thread(target=read)
    reader.start()
    collector = FakeCollector()
    reason = made(interval_s=60.0)._loop(collector, pipes.box, pipes.wake)  # type: ignore[arg-type]
    reader.join()
    assert reason == "signal"
    assert received >= size
    assert not collector.drained


def test_a_writer_that_hangs_costs_the_loop_no_cpu(pipes: Pipes) -> None:
    pipes.box.put(FakeCollector(3 << 20).drain())
    collector = FakeCollector()
    made(duration_s=0.3)._loop(collector, pipes.box, pipes.wake)  # type: ignore[arg-type]
    assert collector.looks <= recorder._LOOKS
    assert pipes.box.behind


class FakeWriter:
    """A writer process that ends with a status."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-ISc", code], stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self.fd = os.dup(self.process.stdin.fileno())
        self.process.stdin.close()


@pytest.mark.parametrize(("status", "sealed"), [(0, True), (5, False)])
def test_the_end_reaches_the_writer_and_its_status_us(status: int, sealed: bool) -> None:
    writer = FakeWriter(f"import sys; data = sys.stdin.buffer.read(); sys.exit({status})")
    box = Outbox(writer.fd)
    ended = made()._end(FakeCollector(), box, writer, "duration")  # type: ignore[arg-type]
    assert (ended.reason, ended.sealed, ended.writer_status) == ("duration", sealed, status)


def test_a_writer_at_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_HANGS_S", 0.3)
    busy = "import sys, time\nwhile time.process_time() < 1.0: pass\nsys.stdin.buffer.read()"
    writer = FakeWriter(busy)
    ended = made()._end(FakeCollector(4 << 20), Outbox(writer.fd), writer, "signal")  # type: ignore[arg-type]
    assert (ended.sealed, ended.writer_status) == (True, 0)


@pytest.mark.parametrize(
    ("limit", "code"),
    [("_HANGS_S", "import time; time.sleep(60)"), ("_SEAL_S", "while True: pass")],
)
def test_a_writer_that_hangs_is_left_after_a_while(
    monkeypatch: pytest.MonkeyPatch, limit: str, code: str
) -> None:
    monkeypatch.setattr(recorder, limit, 0.1)
    writer = FakeWriter(code)
    box = Outbox(writer.fd)
    ended = made()._end(FakeCollector(4 << 20), box, writer, "signal")  # type: ignore[arg-type]
    assert (ended.sealed, ended.writer_status) == (False, None)
    writer.process.kill()
    writer.process.wait()


def test_a_limit_that_may_not_be_raised_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    class Libc:
        def mlockall(self, _flags: int) -> int:
            return -1

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    monkeypatch.setattr(recorder.ctypes, "CDLL", lambda *_, **__: Libc())
    recorder._lock_memory()
    assert "cannot lock memory" in capsys.readouterr().err


def test_the_first_frame_says_all_that_the_writer_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder.host, "nfsd_threads", lambda: 8)
    hello = json.loads(json.dumps(made()._hello()))
    documented = wire.__doc__ or ""
    for key in hello:
        assert f'"{key}"' in documented or key == "start_s", key
    assert abs(hello["wall_ns"] - time.time_ns()) < 60 * 10**9
