"""What the collector reads beside the maps, from descriptors it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.procfs.held_open import Exported, KernelLog, Samples, whole


@pytest.fixture
def log(tmp_path: Path) -> KernelLog:
    """Return a log that is not there."""
    return KernelLog(str(tmp_path / "none"))


@pytest.fixture
def kernel(log: KernelLog) -> Iterator[int]:
    """Return the end into which the kernel writes."""
    log._fd, ours = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)  # one read, one record
    yield ours
    os.close(ours)
    os.close(log._fd)


def test_a_log_is_read_until_there_is_no_more(log: KernelLog, kernel: int) -> None:
    os.write(kernel, b"6,1234,5140900,-;nfs: server 10.9.0.1 not responding\n SUBSYSTEM=x\n")
    os.write(kernel, b"4,1235,5140999,-,caller=T1;odd; text \\x0a\xff\n")
    assert list(log.read()) == [
        (5140900, "nfs: server 10.9.0.1 not responding"),
        (5140999, "odd; text \\x0a\\xff"),
    ]
    assert list(log.read()) == []


@pytest.mark.parametrize("record", [b";", b"garbage", b"6,1,soon,-;text\n", b"6,1;text\n"])
def test_what_is_no_record_is_left_out(log: KernelLog, kernel: int, record: bytes) -> None:
    os.write(kernel, record)
    os.write(kernel, b"6,1,7,-;good\n")
    assert list(log.read()) == [(7, "good")]


def test_a_message_that_was_overwritten_does_not_end_the_reading(
    log: KernelLog, kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.write(kernel, b"6,9,7,-;good\n")
    answers = iter([BrokenPipeError(32, "Broken pipe")])
    read = os.read

    def once_overwritten(fd: int, size: int) -> bytes:
        for error in answers:
            raise error
        return read(fd, size)

    monkeypatch.setattr(os, "read", once_overwritten)
    assert list(log.read()) == [(7, "good")]


def test_a_log_that_fails_is_closed(log: KernelLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = log._fd = os.open("/dev/null", os.O_RDONLY)

    def fail(_fd: int, _size: int) -> bytes:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "read", fail)
    assert list(log.read()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert list(log.read()) == []


def test_what_was_logged_before_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(b"6,1,7,-;before\n")
    log = KernelLog(str(path))
    with path.open("ab") as kernel:
        kernel.write(b"6,2,8,-;after\n")
    assert next(log.read()) == (8, "after")


def test_samples_are_read_again_from_the_same_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    path.write_bytes(b"cpu 1\xff\n")
    gone, folder = str(tmp_path / "gone"), str(tmp_path)  # a folder cannot be read
    samples = Samples([str(path), gone, folder])
    assert samples.read() == {str(path): "cpu 1\ufffd\n"}
    path.write_bytes(b"cpu 22\n")
    assert samples.read() == {str(path): "cpu 22\n"}


def test_whether_volumes_are_suspended_is_sampled_too(tmp_path: Path) -> None:
    for name in ("dm-0", "dm-1"):
        (tmp_path / name / "dm").mkdir(parents=True)
        (tmp_path / name / "dm" / "suspended").write_text("0\n")
    samples = Samples([], tmp_path)
    (tmp_path / "dm-1" / "dm" / "suspended").write_text("1\n")
    assert list(samples.read().values()) == ["0\n", "1\n"]


def test_a_file_of_which_proc_gives_a_page_at_a_time_is_read_whole() -> None:
    path = "/proc/kallsyms"
    fd = os.open(path, os.O_RDONLY)
    try:
        first = os.pread(fd, 1 << 20, 0)
        text = whole(fd)
    finally:
        os.close(fd)
    assert len(text) > len(first)  # that is the trap
    assert len(text) == len(Path(path).read_bytes())


def test_exported_filesystems(tmp_path: Path) -> None:
    exports, mounts = tmp_path / "exports", tmp_path / "mountinfo"
    mounts.write_text("41 22 254:16 / /srv rw - ext4 /dev/vdb rw\n")
    assert Exported([str(exports), str(mounts)]).devices() is None  # no nfsd here
    exports.write_text("/srv/a\t10.9.0.2(rw)\n")
    exported = Exported([str(exports), str(mounts)])
    assert exported.devices() == {254 << 20 | 16}
    exports.write_text("")
    assert exported.devices() == frozenset()
