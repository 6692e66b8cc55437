"""What a hostile or busy host does to a recording: right, or said to be unknown, never wrong."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Guests
from recording import Recording, lost, recording, until

from tracer.model import HostCapture
from tracer.reader import read_captures

# As bash has it, and as the kernel does: the name of a program, and so of its process.
NAME = r"$'\e[31mx\ny\'\xe9'"
COMM = "\x1b[31mx\ny'\\xe9"
BRIEF = "/run/brief"
CLIENTS = 500
NET = "10.77"
ADDRESSES = [f"{NET}.{n // 250}.{n % 250 + 1}" for n in range(CLIENTS)]

# One pid for two programs, each of which makes a file and ends.
REUSE = """
set -e
cp /bin/bash /var/tmp/first; cp /bin/bash /var/tmp/second
work='echo $$ > /run/$1.pid; echo > $0/of-$1'
for try in {1..50}; do
    /var/tmp/first -c "$work" $MOUNT first
    echo $(($(cat /run/first.pid) - 1)) > /proc/sys/kernel/ns_last_pid
    /var/tmp/second -c "$work" $MOUNT second
    cmp -s /run/first.pid /run/second.pid && break
done
cmp /run/first.pid /run/second.pid
rm /run/first.pid /run/second.pid /var/tmp/first /var/tmp/second $MOUNT/of-first $MOUNT/of-second
"""

# A client that asks nothing (the NULL procedure of NFSv3) from each of these addresses.
ASK = """
import socket, struct, sys
call = struct.pack(">11I", 1 << 31 | 40, 7, 0, 2, 100003, 3, 0, 0, 0, 0, 0)
for address in sys.argv[2:]:
    with socket.create_connection((sys.argv[1], 2049), 60, (address, 0)) as connection:
        connection.sendall(call)
        assert len(connection.recv(100)) >= 28
"""


def await_event(running: Recording, text: str) -> None:
    """Waits until the capture says so."""
    file = f"{running.folder}/.journal/*/events.a.arrows"
    until(running.lab, running.guest, f"grep -qaF '{text}' {file}")


def fetched(running: Recording, tmp_path: Path) -> HostCapture:
    (capture,) = read_captures([running.lab.fetch(running.guest, running.folder, tmp_path / "c")])
    return capture


def report_text(folder: Path) -> str:
    argv = [sys.executable, "-m", "tracer", "report", folder]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout


def test_names_pids_mounts_and_clocks(lab: Guests, tmp_path: Path) -> None:
    hostile = f"cp /bin/bash /var/tmp/{NAME}; /var/tmp/{NAME} -c 'echo > $MOUNT/of-x'"
    with recording(lab, "client", "/var/tmp/hostile", "--threshold 1ms") as running:
        lab.exec("client", f"mkdir {BRIEF}; mount -o vers=3 $SERVER:$EXPORT {BRIEF}")
        await_event(running, f" on {BRIEF}")
        lab.exec("client", f"umount {BRIEF}; rmdir {BRIEF}")
        lab.exec("client", hostile)
        lab.exec("client", "date -s '+1 hour' > /dev/null")
        try:
            await_event(running, "set forward by 3600")
            lab.exec("client", REUSE)
        finally:
            lab.exec("client", "date -s '-1 hour' > /dev/null")
        await_event(running, "set back by 3600")
        await_event(running, "unmounted: ")
        assert running.end() == 0, running.said()
    lab.exec("client", f"rm -f $MOUNT/of-x /var/tmp/{NAME}")
    capture = fetched(running, tmp_path)

    # What each process did is its own, though the second had the pid of the first.
    calls = {(op.comm, op.process) for op in capture.operations if op.layer == "vfs"}
    keys = {comm: key for comm, key in calls if comm in ("first", "second")}
    assert keys["first"] is not None
    assert keys["second"] is not None
    assert keys["first"].pid == keys["second"].pid
    for name in ("first", "second"):
        assert Path(capture.processes[keys[name]].exe or "").name == name

    # Names are kept as they are, and shown so that they harm nobody.
    (process,) = [one for one in capture.processes.values() if one.comm == COMM]
    assert process.exe in (f"/var/tmp/{COMM}", COMM)
    text = report_text(tmp_path / "c")
    assert all(line.isprintable() for line in text.split("\n"))
    assert "set forward by 3600" in " ".join(text.split())

    # Times go on as if the clock had not been touched.
    assert capture.end - capture.start < timedelta(minutes=10)
    assert all(capture.start - timedelta(minutes=1) < event.ts for event in capture.events)
    assert all(event.ts < capture.end + timedelta(minutes=1) for event in capture.events)
    assert all(op.wall_us < 60_000_000 for op in capture.operations)
    assert not lost(capture.losses)


@pytest.fixture
def many_clients(lab: Guests) -> Iterator[None]:
    """500 addresses of the client, and one of the server, in a network of their own."""
    add = "\n".join(f"addr add {address}/16 dev eth0" for address in ADDRESSES)
    lab.exec("server", f"ip addr add {NET}.255.1/16 dev eth0")
    lab.exec("client", f"ip -batch - <<'end'\n{add}\nend")
    yield
    lab.exec("client", f"ip addr flush dev eth0 to {NET}.0.0/16")
    lab.exec("server", f"ip addr del {NET}.255.1/16 dev eth0")


def test_many_clients_and_a_server_that_restarts(
    lab: Guests, tmp_path: Path, many_clients: None
) -> None:
    def ask(addresses: list[str]) -> None:
        lab.exec("client", f"python3 -c '{ASK}' {NET}.255.1 {' '.join(addresses)}")

    with recording(lab, "server", "/var/tmp/clients", "--threshold 1ms") as running:
        ask(ADDRESSES)
        lab.exec("client", f"echo > $MOUNT/{NAME}; cat $MOUNT/{NAME}; rm $MOUNT/{NAME}")
        # We hold the module: its tracepoints are in use.
        assert lab.exec("server", "modprobe -r nfsd", check=False).returncode != 0
        lab.exec("server", "rpc.nfsd 0")
        await_event(running, "from 8 to 0 nfsd threads")
        lab.exec("server", "rpc.nfsd 8")
        await_event(running, "from 0 to 8 nfsd threads")
        ask(ADDRESSES[:3])
        assert running.end() == 0, running.said()
    code, document = running.report(tmp_path)
    assert (code, lost(document["losses"]), document["incomplete"]) == (0, {}, [])
    assert document["hosts"][0]["nfsd_threads"] == 8
    assert [note["name"] for note in document["hosts"][0]["notes"]].count("nfsd") == 2
    # No thread of before is still in an operation.
    assert document["in_flight"] == []
    rows = pq.read_table(tmp_path / "clients/latency").to_pylist()
    asked = Counter[str]()
    for row in rows:
        if (row["layer"], row["op"]) == ("rpc", "NULL") and row["peer"].startswith(f"{NET}."):
            asked[row["peer"]] += row["count"]
    assert asked == Counter(ADDRESSES) + Counter(ADDRESSES[:3])

    # A file's name is kept as it is, and shown so that it harms nobody.
    (capture,) = read_captures([tmp_path / "clients"])
    assert f"/{COMM}" in {op.file for op in capture.operations}
    assert all(line.isprintable() for line in report_text(tmp_path / "clients").split("\n"))
