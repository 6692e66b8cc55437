"""``nfsblame record`` up to where it needs a kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tracer import host
from tracer.commands import record
from tracer.errors import Exit, NfsblameError
from tracer.host import KernelSupport
from tracer.outbox import Interval
from tracer.recorder import Ended, Settings

SERVER = KernelSupport(
    root=True,
    btf=True,
    module_btf=frozenset({"nfsd"}),
    lockdown=None,
    modules=frozenset({"nfsd"}),
    nfsd_threads=8,
    nfs_mounts=0,
)
Run = Callable[..., tuple[Result, list[Settings]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Return a function that runs the command with a recorder that ends at once."""

    def run(
        *arguments: str, ended: Ended | None = None, support: KernelSupport = SERVER
    ) -> tuple[Result, list[Settings]]:
        seen: list[Settings] = []

        class Recorder:
            def __init__(self, settings: Settings, _status: object) -> None:
                seen.append(settings)

            def run(self) -> Ended:
                return ended or Ended("duration", sealed=True, writer_status=0)

        monkeypatch.setattr(record, "Recorder", Recorder)
        monkeypatch.setattr(host, "kernel_support", lambda: support)
        monkeypatch.setattr(record, "_LOCK", tmp_path / "lock")
        monkeypatch.setattr(record.subprocess, "run", lambda *_, **__: None)
        return CliRunner().invoke(record.command, ["-o", str(tmp_path / "c d"), *arguments]), seen

    return run


def test_defaults(run: Run, tmp_path: Path) -> None:
    result, (settings,) = run()
    assert result.exit_code == Exit.DONE
    assert settings.output == tmp_path / "c d"
    assert (settings.sides, settings.threshold_us, settings.interval_s) == (
        ["server"],
        100_000,
        1.0,
    )
    assert (settings.duration_s, settings.max_size_bytes) == (None, 1 << 30)
    assert "recording the server side" in result.stderr
    # What is printed can be typed.
    assert result.stdout == f"Next: nfsblame report '{tmp_path / 'c d'}'\n"


@pytest.mark.parametrize(
    ("option", "text", "field", "value"),
    [
        ("--duration", "60", "duration_s", 60.0),
        ("--duration", "2h", "duration_s", 7200.0),
        ("--threshold", "250", "threshold_us", 250_000),
        ("--threshold", "1.5s", "threshold_us", 1_500_000),
        ("--interval", "200ms", "interval_s", 0.2),
        ("--max-size", "500M", "max_size_bytes", 500 << 20),
        ("--max-size", "2GiB", "max_size_bytes", 2 << 30),
        ("--max-size", "1.5g", "max_size_bytes", 3 << 29),
        ("--max-size", "16777216", "max_size_bytes", 16 << 20),
    ],
)
def test_options(run: Run, option: str, text: str, field: str, value: object) -> None:
    result, (settings,) = run(option, text)
    assert result.exit_code == Exit.DONE
    assert getattr(settings, field) == value


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--threshold", "soon", "write a number and us, ms, s, min or h"),
        ("--threshold", "0", "1ms to 1h"),
        ("--threshold", "-5ms", "is no duration"),
        ("--threshold", "2h", "1ms to 1h"),
        ("--threshold", "9" * 400, "is no duration"),
        ("--interval", "10ms", "100ms to 1m"),
        ("--duration", "0.5s", "1s to 2160h"),
        ("--max-size", "1M", "at least 16M"),
        ("--max-size", "-1G", "500M or 2G"),
        ("--max-size", "big", "500M or 2G"),
        ("--max-size", "9" * 400, "500M or 2G"),
        ("--max-size", "20\u212a", "500M or 2G"),  # KELVIN SIGN, a k to the regular expression
        ("--side", "left", "'left' is not one of"),
    ],
)
def test_nonsense_is_usage_with_what_is_accepted(
    run: Run, option: str, text: str, said: str
) -> None:
    result, seen = run(option, text)
    assert (result.exit_code, seen) == (Exit.USAGE, [])
    assert said in " ".join(result.stderr.split())


def error_of(result: Result) -> NfsblameError:
    assert isinstance(result.exception, NfsblameError)
    return result.exception


def test_without_root_nothing_is_touched(run: Run, tmp_path: Path) -> None:
    support = KernelSupport(**{**{f: getattr(SERVER, f) for f in SERVER.__slots__}, "root": False})
    result, seen = run(support=support)
    assert (error_of(result).exit_code, seen) == (Exit.PRIVILEGE, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["-o", "--ready-file"])
def test_a_folder_that_cannot_be_made_is_named_with_its_option(
    run: Run, tmp_path: Path, option: str
) -> None:
    (tmp_path / "file").write_text("")
    result, seen = run(option, str(tmp_path / "file" / "below" / "x"))
    assert (error_of(result).exit_code, seen) == (Exit.USAGE, [])
    assert f"{tmp_path / 'file'} is not a folder; give another {option}" in str(result.exception)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(NfsblameError, match="File name too long") as caught:
        record.check_output(tmp_path / ("x" * 300), "-o")
    assert caught.value.exit_code == Exit.USAGE


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NfsblameError, match="is not writable; give another -o"):
        record.check_output(tmp_path / "capture", "-o")


def test_folders_that_are_yet_to_be_made_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.check_output(tmp_path / "a" / "b" / "c", "-o")
    monkeypatch.chdir(tmp_path)
    record.check_output(Path("capture"), "-o")
    assert list(tmp_path.iterdir()) == []


# One recording per host


def test_a_second_nfsblame_is_told_of_the_first(tmp_path: Path) -> None:
    first = record.take_lock(tmp_path / "lock")
    with pytest.raises(NfsblameError, match=rf"pid {os.getpid()}\).*kill -TERM") as caught:
        record.take_lock(tmp_path / "lock")
    assert caught.value.exit_code == Exit.USAGE
    os.close(first)
    os.close(record.take_lock(tmp_path / "lock"))


def test_a_lock_left_by_a_dead_process_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("123456789\n")
    fd = record.take_lock(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    os.close(fd)


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    fd = record.take_lock(tmp_path / "lock")
    child = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(60)"])
    os.close(fd)
    os.close(record.take_lock(tmp_path / "lock"))
    child.kill()
    child.wait()


def test_no_place_for_the_lock_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(NfsblameError, match=os.strerror(errno.ENOENT)) as caught:
        record.take_lock(tmp_path / "none" / "lock")
    assert caught.value.exit_code == Exit.USAGE


# The end


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (Ended("signal", False, None), Exit.INCOMPLETE, "its disk hangs or is full"),
        (Ended("signal", False, 5), Exit.INCOMPLETE, "its disk hangs or is full"),
        (Ended("writer gone", False, 2), Exit.USAGE, "ended with status 2"),
        (Ended("writer gone", False, -9), Exit.INCOMPLETE, "ended with status -9"),
    ],
)
def test_a_capture_that_is_not_whole(run: Run, ended: Ended, code: Exit, said: str) -> None:
    result, _ = run(ended=ended)
    assert error_of(result).exit_code == code
    assert said in result.stderr + str(result.exception)
    assert "nfsblame report" in result.output + str(result.exception)


class Terminal:
    """A stderr that is a terminal, or not."""

    def __init__(self, tty: bool) -> None:
        self.isatty = lambda: tty


def interval(**parts: Any) -> Interval:
    return Interval(tick={}, **parts)


def test_status_on_a_terminal_and_nothing_on_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(record.click, "echo", lambda text, **_: said.append(text))
    monkeypatch.setattr(record.sys, "stderr", Terminal(tty=False))
    record.status_line()(interval(), 1.0)
    assert said == []
    monkeypatch.setattr(record.sys, "stderr", Terminal(tty=True))
    show = record.status_line()
    show(interval(), 1.0)
    show(interval(finished=[(22, b"x")]), 2.0)
    show(interval(finished=[(22, b"x")], in_flight={22: b"x"}), 3.0)
    assert ["no stall" in said[0], "slow operations" in said[1], "are stuck" in said[2]] == [
        True
    ] * 3
