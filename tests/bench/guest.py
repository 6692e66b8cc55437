"""What tests/bench/bench.py runs in its guest: loads under tracers, one JSON line for each result.

Everything stays inside the guest while it measures: a wait for the host would stop the guest's
instructions but not its clock.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracer.kernel import bpf

EXPORT, MOUNT = Path("/srv/bench"), Path("/mnt/bench")
WORDS, READY, CAPTURE = Path("/tmp/bench.words"), Path("/tmp/bench.ready"), Path("/tmp/bench.cap")
KPROBES = Path("/sys/kernel/debug/kprobes/list")
REDIS_PORT = "6390"
POLL_SECONDS = 0.1
START_SECONDS = 900.0
# The writer of a capture needs some to start, which is no cost of the operations after it.
SETTLE_SECONDS = 8.0
FEATURES = Path("/sys/kernel/debug/sched/features")
STEADY_SECONDS = (10, 30)
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")

Result = dict[str, Any]


def say(**result: Any) -> None:
    """Hands a result to the host."""
    print(json.dumps(result), flush=True)


def shell(line: str) -> str:
    """Runs a shell line."""
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{line}: {done.stderr}")
    return done.stdout


def set_up(vers: str) -> None:
    """Exports a file system in memory to ourselves: no disk, no host in the way."""
    # Else who preempts whom on the one CPU is luck that a tracer changes: it made fsync faster.
    FEATURES.write_text("NO_WAKEUP_PREEMPTION")
    EXPORT.mkdir()
    MOUNT.mkdir()
    shell(
        # No journal: it would commit for each write of some runs, and of others for none.
        "modprobe brd rd_nr=1 rd_size=262144; mkfs.ext4 -q -O ^has_journal /dev/ram0;"
        f"mount /dev/ram0 {EXPORT};"
        f"exportfs -o rw,no_root_squash,sync,no_subtree_check,fsid=7 127.0.0.1:{EXPORT};"
        f"mount -t nfs -o vers={vers} 127.0.0.1:{EXPORT} {MOUNT}"
    )
    (MOUNT / "redis").mkdir()
    settings = {
        "port": REDIS_PORT,
        "dir": str(MOUNT / "redis"),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "auto-aof-rewrite-percentage": "0",
        "daemonize": "yes",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    subprocess.run(["redis-server", *options], check=True, stdout=subprocess.DEVNULL)
    load("getattr", 1)  # makes the file


# Tracers


@dataclass(frozen=True)
class Tracer:
    """A program that traces, and the text on its output, or state, that says it does so now."""

    command: Sequence[str]
    ready: Callable[[], bool]


def said(text: str) -> Callable[[], bool]:
    """Whether the tracers have said so."""
    return lambda: text in WORDS.read_text(errors="replace")


def kprobed(function: str, count: int) -> Callable[[], bool]:
    """Whether a function has so many kprobes."""
    return lambda: len(re.findall(rf" {function}\+", KPROBES.read_text())) >= count


def nfsblame(side: str) -> list[Tracer]:
    """Records into memory, so that no disk of the host has a say in times."""
    command = ["nfsblame", "record", "--side", side, "-o", str(CAPTURE)]
    return [Tracer([*command, "--ready-file", str(READY)], READY.exists)]


DISPATCH_HISTOGRAM = """
kprobe:nfsd_dispatch { @start[tid] = nsecs; }
kretprobe:nfsd_dispatch /@start[tid]/ {
    @us = hist((nsecs - @start[tid]) / 1000);
    delete(@start[tid]);
}
"""
# A tracer of a mode starts when the one before it is ready.
MODES: Final[dict[str, list[Tracer]]] = {
    "nfsblame-server": nfsblame("server"),
    "nfsblame-client": nfsblame("client"),
    "nfsblame-both": nfsblame("both"),
    "nfsslower+nfsdist": [
        Tracer(["nfsslower-bpfcc"], said("Tracing NFS operations")),
        Tracer(["nfsdist-bpfcc"], said("Tracing NFS operation latency")),
    ],
    "offcputime": [Tracer(["offcputime-bpfcc"], said("Tracing off-CPU time"))],
    "offwaketime": [Tracer(["offwaketime-bpfcc"], said("Tracing blocked time"))],
    "bpftrace": [Tracer(["bpftrace", "-e", DISPATCH_HISTOGRAM], kprobed("nfsd_dispatch", 2))],
}


@contextmanager
def tracing(mode: str) -> Iterator[list[int]]:
    """Starts the tracers of a mode; gives their processes."""
    WORDS.write_text("")
    shell(f"rm -rf {CAPTURE} {READY}")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for tracer in MODES[mode]:
            began = time.monotonic()
            processes.append(start(tracer))
            say(
                kind="start", mode=mode, command=tracer.command[0], ready_s=time.monotonic() - began
            )
        time.sleep(SETTLE_SECONDS)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def start(tracer: Tracer) -> subprocess.Popen[bytes]:
    """Starts a tracer and waits until it traces."""
    with WORDS.open("a") as words:
        process = subprocess.Popen(
            tracer.command,
            stdout=words,
            stderr=words,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    deadline = time.monotonic() + START_SECONDS
    while not tracer.ready():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{tracer.command} did not start: {WORDS.read_text()}")
        time.sleep(POLL_SECONDS)
    return process


def family(roots: Sequence[int]) -> dict[int, str]:
    """The processes and all their descendants, by their number, with what they run."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    members = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return {pid: words(pid) for pid in sorted(members)}


def words(pid: int) -> str:
    """A short name of what a process runs."""
    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        if found := re.search(r"tracer[. ]\w+|[\w-]+-bpfcc|bpftrace", line):
            return found[0]
        return line[:40]
    return ""


def cpu_ns(pids: Sequence[int]) -> int:
    """Time on the CPU of all threads of the processes."""
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(path.read_text().split()[0])
    return total


def memory(pid: int) -> int:
    """Resident bytes."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(r"VmRSS:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    return 0


# Loads


def load(workload: str, operations: int, *pace: str) -> Result:
    """Operations, elapsed_ns, p50_ns, p99_ns, switches, rpcs."""
    before = kernel_counts()
    if workload == "redis":
        found = redis(operations)
    else:
        command = ["./load", workload, str(MOUNT), str(operations), *pace]
        found = json.loads(shell(" ".join(command)))
    return {**found, **{name: count - before[name] for name, count in kernel_counts().items()}}


def kernel_counts() -> dict[str, int]:
    """What tells whether two runs did the same: context switches and RPCs since boot."""
    sources = {"switches": ("/proc/stat", "ctxt"), "rpcs": ("/proc/net/rpc/nfs", "rpc")}
    found: dict[str, int] = {}
    for name, (path, word) in sources.items():
        (count,) = re.findall(rf"^{word} (\d+)", Path(path).read_text(), re.MULTILINE)
        found[name] = int(count)
    return found


def redis(operations: int) -> Result:
    """SET by one client of a Redis that syncs its log before it answers."""
    command = f"redis-benchmark -p {REDIS_PORT} -t set -c 1 -d 64 -n {operations} --csv"
    (row,) = csv.DictReader(shell(command).splitlines())
    return {
        "operations": operations,
        "elapsed_ns": round(operations / float(row["rps"]) * 1e9),
        "p50_ns": round(float(row["p50_latency_ms"]) * 1e6),
        "p99_ns": round(float(row["p99_latency_ms"]) * 1e6),
    }


def measure(request: Result, mode: str, block: int) -> None:
    """One block: every load without the tracer, twice with it, without it again."""
    untraced(request, mode, block)
    with tracing(mode) as roots:
        for _ in range(2):
            for workload, operations in request["workloads"].items():
                pids = list(family(roots))
                before = cpu_ns(pids)
                found = load(workload, operations)
                say(
                    kind="run",
                    **{"block": block, "mode": mode, "on": True, "workload": workload},
                    **{**found, "tracer_ns": cpu_ns(pids) - before},
                )
        for pid, name in family(roots).items():
            say(kind="memory", mode=mode, process=name, rss_bytes=memory(pid))
    untraced(request, mode, block)


def untraced(request: Result, mode: str, block: int) -> None:
    """Every load once."""
    for workload, operations in request["workloads"].items():
        which = {"block": block, "mode": mode, "on": False, "workload": workload}
        say(kind="run", **which, **load(workload, operations), tracer_ns=0)


# The tracer's processes and its capture, under a steady load


def steadily(mode: str, workload: str, per_second: int) -> None:
    """CPU of each process, and what a longer capture has more than a shorter one, sealed."""
    sizes: list[int] = []
    for seconds in STEADY_SECONDS:
        with tracing(mode) as roots:
            processes = family(roots)
            before = {pid: cpu_ns([pid]) for pid in processes}
            load(workload, per_second * seconds, str(per_second))
            used = {name: cpu_ns([pid]) - before[pid] for pid, name in processes.items()}
        sizes.append(sum(path.stat().st_size for path in CAPTURE.rglob("*") if path.is_file()))
    say(
        kind="steady",
        **{"mode": mode, "workload": workload, "per_second": per_second},
        cpu_share={name: ns / 1e9 / seconds for name, ns in used.items()},
        bytes_per_h=(sizes[1] - sizes[0]) / (STEADY_SECONDS[1] - STEADY_SECONDS[0]) * 3600,
    )


# Probes one by one


def probes(request: Result, mode: str) -> None:
    """Hits and time of each BPF program per operation, as the kernel counts them."""
    with tracing(mode), empty_program() as empty:
        STATS.write_text("1")
        for workload, operations in request["workloads"].items():
            before = program_stats()
            load(workload, operations)
            after = program_stats()
            say(
                kind="probes",
                **{"mode": mode, "workload": workload, "operations": operations, "empty": empty},
                programs={
                    name: [after[name][i] - before.get(name, (0, 0))[i] for i in (0, 1)]
                    for name in after
                },
            )
        STATS.write_text("0")


@contextmanager
def empty_program() -> Iterator[str]:
    """A program that does nothing, at each switch: what it takes is the price of the clock."""
    nothing = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    program = bpf.load_program(nothing, bpf.PROG_TYPE_RAW_TRACEPOINT, "empty")
    link = bpf.attach_raw_tracepoint(program, "sched_switch")
    try:
        yield "empty"
    finally:
        os.close(link)
        os.close(program)


def program_stats() -> dict[str, tuple[int, int]]:
    """Runs and nanoseconds of each program that is attached, by name and kind of attachment."""
    links = json.loads(shell("bpftool -j link show"))
    kinds = {link["prog_id"]: link.get("attach_type", link["type"]) for link in links}
    found: Counter[str] = Counter()
    time_ns: Counter[str] = Counter()
    for program in json.loads(shell("bpftool -j prog show")):
        if program["id"] in kinds:
            name = f"{program.get('name', '')} {kinds[program['id']]}"
            found[name] += program.get("run_cnt", 0)
            time_ns[name] += program.get("run_time_ns", 0)
    return {name: (found[name], time_ns[name]) for name in found}


def main() -> None:
    """Does what the request asks for."""
    request: Result = json.loads(sys.argv[1])
    set_up(request["vers"])
    shell("nfsblame prepare --side both")
    for mode in request["probes"]:
        probes(request, mode)
    for workload, per_second in request["steady"]:
        steadily("nfsblame-both", workload, per_second)
    for block in range(request["blocks"]):
        for mode in request["modes"]:
            measure(request, mode, block)


if __name__ == "__main__":
    main()
