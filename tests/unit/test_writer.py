"""The writer as the collector runs it: a process, a pipe, and sudden death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import (
    MS,
    START_S,
    WALL_NS,
    Frame,
    S,
    capture,
    definitions,
    end,
    hello,
    interval,
    json_frame,
    latency,
    listener,
    noted_process,
    op,
    op_in_flight,
    proc,
    rpc,
    stream,
    tick,
    wait,
    wait_sum,
)

from tracer import wire
from tracer.errors import Exit, NfsblameError
from tracer.model import Holder, HostCapture, ProcessKey
from tracer.reader import read_captures
from tracer.records import OP_KERNEL, HolderRec
from tracer.store.keeper import Settings
from tracer.writer import write


class Pipe:
    """A writer process and the write end of its pipe."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracer.writer", f"--output={output}", f"--max-size={1 << 30}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def send(self, *frames: Frame) -> None:
        assert self.process.stdin is not None
        for chunk in stream(frames):
            self.process.stdin.write(chunk)
        self.process.stdin.flush()

    def ended(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def wait_until(self, condition: Callable[[HostCapture], bool]) -> None:
        """Wait until a reader of the capture sees ``condition``."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if condition(only(self.output)):
                    return
            except NfsblameError:
                pass  # nothing there yet
            time.sleep(0.01)
        raise AssertionError("the writer did not write in time")


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    process = Pipe(tmp_path / "capture")
    yield process
    process.process.kill()
    process.process.communicate()


def only(path: Path) -> HostCapture:
    (host,) = read_captures([path])
    return host


def begin(**changes: object) -> list[Frame]:
    return [json_frame(wire.HELLO, hello(**changes)), *definitions()]


def op_ids(host: HostCapture) -> list[int]:
    return sorted(operation.op_id for operation in host.operations)


def test_a_recording_from_hello_to_end(pipe: Pipe) -> None:
    pipe.send(*begin())
    for number in range(1, 6):
        pipe.send(*interval(number, ops=[op(number)]))
    pipe.wait_until(lambda host: len(host.operations) == 5)
    pipe.send(end(5))
    assert pipe.ended() == (0, b"", b"")
    host = only(pipe.output)
    assert op_ids(host) == [1, 2, 3, 4, 5]
    assert host.incomplete == ()
    assert not (pipe.output / ".journal").exists() or not any(pipe.output.glob(".journal/*"))


@pytest.mark.parametrize("number", [1, 3])
def test_kill_9_loses_at_most_the_current_interval(pipe: Pipe, number: int) -> None:
    pipe.send(*begin())
    for count in range(1, number + 1):
        pipe.send(*interval(count, ops=[op(count)], latencies=[latency(50, count)]))
    pipe.wait_until(lambda host: len(host.operations) == number)
    pipe.send(*interval(99, ops=[op(99)])[:-1])  # no TICK yet
    pipe.process.send_signal(signal.SIGKILL)
    pipe.process.wait()

    host = only(pipe.output)
    assert op_ids(host) == list(range(1, number + 1))
    assert host.operations[0].op == "COMPOUND"
    assert "killed" in host.incomplete[0]

    # The next recording in the same folder seals what was left, and both are read.
    code = write(stream([*begin(mono_ns=9_000 * S), end(9_000)]), Settings(pipe.output, 1 << 30),
                 pipe.output / "no-proc", print)  # fmt: skip
    assert code == Exit.DONE
    assert not any((pipe.output / ".journal").iterdir())
    assert op_ids(only(pipe.output)) == list(range(1, number + 1))


def test_a_journal_cut_off_anywhere_gives_every_whole_interval(pipe: Pipe) -> None:
    pipe.send(*begin())
    for count in range(1, 4):
        pipe.send(*interval(count, ops=[op(count)]))
    pipe.wait_until(lambda host: len(host.operations) == 3)
    pipe.process.kill()
    pipe.process.wait()
    (journal,) = pipe.output.glob(".journal/*/operations.a.arrows")
    whole = journal.read_bytes()
    found = set()
    for size in range(len(whole), 0, -97):
        os.truncate(journal, size)
        ids = op_ids(only(pipe.output))
        assert ids == list(range(1, len(ids) + 1))
        found.add(len(ids))
    assert found == {0, 1, 2, 3}


def test_signals_of_the_terminal_do_not_end_it(pipe: Pipe) -> None:
    pipe.send(*begin(), *interval(1, ops=[op(1)]))
    pipe.wait_until(lambda host: len(host.operations) == 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        pipe.process.send_signal(number)
    pipe.send(*interval(2, ops=[op(2)]), end(2))
    assert pipe.ended()[0] == 0
    assert op_ids(only(pipe.output)) == [1, 2]


def test_the_collectors_death_seals_what_is_there(pipe: Pipe) -> None:
    pipe.send(*begin(), *interval(1, ops=[op(1)]))
    assert pipe.process.stdin is not None
    pipe.process.stdin.close()
    pipe.process.stdin = None
    assert pipe.ended()[0] == 0
    host = only(pipe.output)
    assert op_ids(host) == [1]
    assert "killed" in host.incomplete[0]
    assert any("without a word" in (event.text or "") for event in host.events)


def test_a_recording_that_goes_on_can_be_read(pipe: Pipe) -> None:
    pipe.send(*begin(), *interval(1, ops=[op(1)]))
    pipe.wait_until(lambda host: len(host.operations) == 1)
    assert "still recording" in only(pipe.output).incomplete[0]


def test_nothing_recorded_is_no_error(pipe: Pipe) -> None:
    assert pipe.process.stdin is not None
    pipe.process.stdin.close()
    pipe.process.stdin = None
    assert pipe.ended() == (0, b"", b"")
    assert not pipe.output.exists()


def test_output_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "capture").write_text("")
    pipe = Pipe(tmp_path / "capture")
    pipe.send(*begin())
    code, _, err = pipe.ended()
    assert code == Exit.USAGE
    assert b"give a folder on a local disk with -o" in err
    assert b"Traceback" not in err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "x", mount], check=False
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")  # fmt: skip
    try:
        filler = mount / "filler"
        pipe = Pipe(mount / "capture")
        pipe.send(*begin(), *interval(1, ops=[op(1)]))
        pipe.wait_until(lambda host: len(host.operations) == 1)
        with pytest.raises(OSError, match="No space"), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
        for number in range(2, 12):
            pipe.send(*interval(number, ops=[op(number * 100 + n) for n in range(50)]))
        assert pipe.process.stderr is not None
        assert b"recording goes on in memory" in pipe.process.stderr.readline()
        filler.unlink()
        pipe.send(*interval(12, ops=[op(12)]))
        assert b"again, nothing lost" in pipe.process.stderr.readline()
        pipe.send(end(12))
        pipe.ended()
        assert len(only(mount / "capture").operations) == 502
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


# What follows runs the same code in this process.


def test_bad_frames_are_counted_and_cost_only_themselves(tmp_path: Path) -> None:
    frames = [
        *begin(),
        (wire.OPS, b"no whole record"),
        (wire.LATENCY, b"x"),
        (wire.KMSG, b"{"),
        (wire.KMSG, b"[]"),
        (wire.NOTE, b'{"mono_ns": "x"}'),
        (wire.SAMPLE, b'{"mono_ns": 1, "files": 7}'),
        (wire.MARKS, b'[{"pid": 1}]'),
        (wire.STACKS, b'{"x": []}'),
        (wire.PROCS, b"x"),
        (99, b"of a later version"),
        *interval(1, ops=[op(1)]),
        end(1),
    ]
    code = write(stream(frames), Settings(tmp_path, 1 << 30), tmp_path / "no-proc", print)
    assert code == Exit.INCOMPLETE
    host = only(tmp_path)
    assert op_ids(host) == [1]
    assert host.losses == {"writer_bad_frame": 9}


def test_hello_must_come_first(tmp_path: Path) -> None:
    with pytest.raises(NfsblameError, match="not HELLO"):
        write(stream([tick(1)]), Settings(tmp_path, 1 << 30), tmp_path, print)


def test_everything_ends_up_in_the_capture(tmp_path: Path) -> None:
    group = 0xFFFF8880041C2A00
    path = capture(
        tmp_path / "capture",
        [
            interval(
                1,
                (wire.PROCS, noted_process(proc(402), b"qaxsafed", b"qaxsafed", uid=7)),
                (wire.LISTENERS, listener(group, proc(402), reads=5, writes=3)),
                json_frame(
                    wire.MARKS,
                    [
                        {
                            "pid": 402,
                            "start_ns": S,
                            "group": None,
                            "marks": "fanotify sdev:fe00010 mask:30000",
                            "blocked": None,
                        }
                    ],
                ),
                json_frame(
                    wire.KMSG,
                    {
                        "mono_us": (START_S * S + S // 2) // 1000,
                        "text": "nfs: \udcff not responding",
                    },
                ),
                json_frame(wire.NOTE, {"mono_ns": START_S * S, "name": "merged", "text": "2"}),
                (wire.WAITS, wait_sum(4, 40 * MS, waker=proc(402), group=group)),
                json_frame(
                    wire.SAMPLE,
                    {"mono_ns": START_S * S, "files": {"/proc/meminfo": "MemAvailable: 1 kB"}},
                ),
                ops=[
                    op(1, waits=[wait(1001, 1003, stack=7, waker=proc(402), group=group)]),
                    op_in_flight(2, off_ns=START_S * S, off_stack=7, off_kind=1, group=group),
                ],
                rpcs=[rpc(100, parent_id=1)],
                latencies=[latency(100, 3), latency(101, 2)],
                losses={"ring_full": 2, "stack": 0},
            ),
            interval(
                2,
                json_frame(
                    wire.SAMPLE,
                    {
                        "mono_ns": (START_S + 1) * S,
                        "files": {"/proc/meminfo": "MemAvailable: 2 kB\n"},
                    },
                ),
                latencies=[latency(100, 1)],
                losses={"ring_full": 1},
            ),
        ],
    )
    host = only(path)
    agent = ProcessKey(402, 1_000_000)

    assert (host.host, host.sides, host.threshold_us) == ("server", ("server",), 100_000)
    assert host.wall_minus_mono_us == (WALL_NS - START_S * S) // 1000
    assert (host.end - host.start).total_seconds() == 2
    assert host.addresses == {"10.9.0.1"}
    assert host.nfsd_threads == 8
    assert host.losses == {"ring_full": 3}
    assert host.overhead["writer_rss_bytes"] > 1_000_000
    assert [p.probe for p in host.probes] == ["svc_process"]

    remote, ended, flying = host.operations
    assert (remote.side, remote.parent_id, remote.remote_us) == ("client", 1, 2_590_000)
    assert ended.waits[0].waker == agent
    assert ended.waits[0].stack[2] == "fanotify_handle_event"
    assert ended.waits[0].fanotify_group == f"{group:016x}"
    assert flying.in_flight
    assert flying.waits[0].in_flight
    assert flying.waits[0].total_us == 1_000_000

    (sums,) = host.interval_waits
    assert (sums.op, sums.wait.count, sums.wait.total_us) == ("COMPOUND", 4, 40_000)
    assert (sums.end_mono_us, sums.wait.first_mono_us) == (1_001_000_000, 1_000_000_000)

    assert host.processes[agent].exe == "qaxsafed"
    assert host.processes[agent].uid == 7
    by_group = {entry.group: entry for entry in host.listeners}
    counted = by_group[f"{group:016x}"]
    assert (counted.process, counted.reads, counted.writes, counted.blocked) == (agent, 5, 3, 1)
    assert by_group[None].marks == "fanotify sdev:fe00010 mask:30000"

    (histogram,) = host.latency
    assert histogram.counts == {100: 4, 101: 2}
    assert histogram.sum_us == 6000

    texts = {(event.kind, event.name): event.text for event in host.events}
    assert texts["kmsg", "kernel"] == "nfs: \\udcff not responding"
    assert texts["note", "merged"] == "2"
    assert ("loss", "ring_full") in texts
    assert texts["note", "writer"] == "recording ended: SIGINT"
    assert [(s.value, s.metric) for s in host.samples if s.scope == "host"] == [
        (2048.0, "mem_available_bytes")
    ]


def test_an_operation_that_ends_in_the_interval_in_which_it_was_seen_in_flight(
    tmp_path: Path,
) -> None:
    flying = op_in_flight(1, off_ns=1002 * S, off_stack=7, off_kind=1)
    path = capture(
        tmp_path / "capture",
        [interval(5, ops=[flying]), interval(6, ops=[flying, op(1, waits=[wait(1001, 1002)])])],
    )
    (operation,) = only(path).operations
    assert not operation.in_flight
    assert [w.total_us for w in operation.waits] == [1_000_000]


def test_what_is_removed_is_noted_even_by_the_last_sealing(tmp_path: Path) -> None:
    path = capture(tmp_path / "capture", [interval(1, latencies=[latency(b) for b in range(900)])])
    settings = Settings(path, 30_000)
    frames = [*begin(mono_ns=2_000 * S, wall_ns=WALL_NS + 1_000 * S)]
    frames += [*interval(1001, ops=[op(1)]), end(1001)]
    assert write(stream(frames), settings, tmp_path / "no-proc", print) == Exit.DONE
    (note,) = [event.text for event in only(path).events if "removed" in (event.text or "")]
    assert "to stay within --max-size" in str(note)
    assert only(path).latency == []


def test_each_segment_can_be_read_alone(tmp_path: Path) -> None:
    path = capture(
        tmp_path / "capture",
        (
            interval(n, ops=[op(n, waits=[wait(1001, 1002, stack=7, waker=proc(402))])])
            for n in range(1, 60)
        ),
        settings=Settings(tmp_path / "capture", 1 << 30, rotate_seconds=0.0),
    )
    segments = {file.name for file in path.glob("operations/*/*/*.parquet")}
    assert len(segments) >= 2
    for other in sorted(segments)[:-1]:
        for file in path.glob(f"*/*/*/{other}"):
            file.unlink()
    host = only(path)
    assert host.operations
    assert all(o.waits[0].stack[2] == "fanotify_handle_event" for o in host.operations)
    assert ProcessKey(402, 1_000_000) in host.processes
    assert host.probes


def test_a_hello_in_mid_recording_brings_the_new_probe_plan(tmp_path: Path) -> None:
    probes = [{"probe": "nfs_file_read", "purpose": "x", "attached": True}]
    later = json_frame(wire.HELLO, hello(probes=probes, sides=["server", "client"], mono_ns=5))
    path = capture(tmp_path / "capture", [interval(1), [later, *interval(2)]])
    host = only(path)
    assert host.sides == ("server", "client")
    assert [p.probe for p in host.probes] == ["svc_process", "nfs_file_read"]


def test_holders_are_kept_as_last_seen(tmp_path: Path) -> None:
    held = {"proc": proc(402), "since_ns": 1000 * S, "dev": 42}
    channel = {"pid": 403, "start_ns": 2 * S, "kind": "channel", "what": "nfsd.export"}
    frames = [
        [
            (wire.HOLDERS, bytes(HolderRec(**held))),
            json_frame(wire.ASKED, [channel]),
        ],
        [(wire.HOLDERS, bytes(HolderRec(**held, until_ns=1003 * S)))],
    ]
    whole = [interval(number, *each) for number, each in enumerate(frames, start=1)]
    host = only(capture(tmp_path / "capture", whole))
    assert host.holders == [
        Holder(ProcessKey(402, 1_000_000), "frozen", None, None, 1_000_000_000, 1_003_000_000),
        Holder(ProcessKey(403, 2_000_000), "channel", "nfsd.export"),
    ]


def test_a_kernel_thread_without_cpu_is_no_operation_of_its_side(tmp_path: Path) -> None:
    delay = op(5, flags=OP_KERNEL, waits=[wait(1001, 1003, kind=2, waker=proc(402))])
    (row,) = only(capture(tmp_path / "capture", [interval(1, ops=[delay])])).operations
    assert (row.layer, row.queue_us) == ("kernel", None)
    assert row.waits[0].waker == ProcessKey(402, 1_000_000)
