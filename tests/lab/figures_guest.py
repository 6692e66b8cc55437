"""What tests/lab/figures.py runs in a guest, as ``python3 -c SOURCE ...``; prints JSON.

start MARK DROP COMMAND...    starts a tracer, says when its probes were attached, kills it
cost SECONDS NAME=REGEX...    memory and CPU of processes over a time
load SECONDS FOLDER           saves files as an application does, at a steady pace
loop                          CPU seconds of a plain loop, to compare this machine with another
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.1
START_SECONDS = 300.0
ROUNDS_A_SECOND = 10
# Under emulation the writer needs so long to start, which is no cost of an hour.
SETTLE_SECONDS = 15.0
KPROBES = Path("/sys/kernel/debug/kprobes/list")
WORDS = Path("/var/tmp/figures.words")


def start(mark: str, drop: str, *command: str) -> dict[str, Any]:
    """When the first and when all probes were attached, and when the program said so itself."""
    if drop == "drop":
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    with WORDS.open("w") as words:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=words,
            stderr=words,
            start_new_session=True,
            # A header that waits in a buffer would be no fair sign.
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        return watch(process, mark, began)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while probes(process.pid):
            time.sleep(POLL_SECONDS)


def watch(process: subprocess.Popen[bytes], mark: str, began: float) -> dict[str, Any]:
    """Counts the probes until the program says that it traces: a text, or a file that appears."""
    seen = [(0.0, 0)]
    said = False
    while not said:
        if process.poll() is not None or time.monotonic() > began + START_SECONDS:
            raise SystemExit(f"{process.args!r} did not start: {WORDS.read_text()}")
        time.sleep(POLL_SECONDS)
        said = Path(mark).exists() if mark.startswith("/") else mark in WORDS.read_text()
        now, count = time.monotonic() - began, probes(process.pid)
        if count != seen[-1][1]:
            seen.append((now, count))
    return {
        "first_s": next((when for when, count in seen if count), now),
        "all_s": seen[-1][0],
        "said_s": now,
        "probes": seen[-1][1],
    }


def probes(pid: int) -> int:
    """BPF links held by the process, and kprobes of the whole kernel: nobody else has any."""
    links = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                links += Path(entry.path).readlink().name == "anon_inode:bpf_link"
    return links + len(KPROBES.read_text().splitlines())


def cost(seconds: str, *names: str) -> dict[str, Any]:
    """What the processes used, and the RPCs this client sent meanwhile."""
    time.sleep(SETTLE_SECONDS)
    pids = {name: find(regex) for name, _, regex in (word.partition("=") for word in names)}
    before, rpcs, began = {n: cpu_seconds(p) for n, p in pids.items()}, client_rpcs(), clock()
    time.sleep(float(seconds))
    took = clock() - began
    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return {
        "rpcs_per_s": (client_rpcs() - rpcs) / took,
        "processes": {
            name: {"cpu_s_per_h": used[name] / took * 3600, **memory(pid)}
            for name, pid in pids.items()
        },
    }


def clock() -> float:
    """Seconds of the monotonic clock."""
    return time.monotonic()


def find(regex: str) -> int:
    """The one process with such a command line."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if re.match(regex, words) and int(entry.parent.name) != os.getpid():
                return int(entry.parent.name)
    raise SystemExit(f"no process {regex}")


def cpu_seconds(pid: int) -> float:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def client_rpcs() -> int:
    """RPCs this host has sent as an NFS client."""
    with suppress(OSError):
        match = re.search(r"^rpc (\d+)", Path("/proc/net/rpc/nfs").read_text(), re.MULTILINE)
        return int(match[1]) if match else 0
    return 0


def memory(pid: int) -> dict[str, int]:
    """Bytes: resident, the share of it that is this process's own doing, and its parts."""
    found: dict[str, int] = {}
    for file, names in (("status", ("VmRSS", "RssAnon", "RssFile")), ("smaps_rollup", ("Pss",))):
        text = Path(f"/proc/{pid}/{file}").read_text()
        for name in names:
            match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
            found[name] = int(match[1]) * 1024 if match else 0
    return found


def load(seconds: str, folder: str) -> dict[str, Any]:
    """Each round creates, writes, syncs, renames and stats a file."""
    Path(folder).mkdir(exist_ok=True)
    end, rounds = clock() + SETTLE_SECONDS + float(seconds), 0
    while clock() < end:
        due = clock() + 1 / ROUNDS_A_SECOND
        one_round(Path(folder) / f"new{rounds % 16}", Path(folder) / f"file{rounds % 16}")
        rounds += 1
        time.sleep(max(0.0, due - clock()))
    return {"rounds": rounds}


def one_round(new: Path, old: Path) -> None:
    """An application that saves a small file safely."""
    with new.open("wb") as file:
        file.write(os.urandom(4096))
        file.flush()
        os.fsync(file.fileno())
    new.rename(old)
    old.stat()


def loop() -> dict[str, Any]:
    """The same work everywhere."""
    sum(i * i % 7 for i in range(1_000_000))
    return {"cpu_s": time.process_time()}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "start": start,
    "cost": cost,
    "load": load,
    "loop": loop,
}

if __name__ == "__main__":
    print(json.dumps(ACTIONS[sys.argv[1]](*sys.argv[2:])))
