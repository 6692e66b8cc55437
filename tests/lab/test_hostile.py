"""What a hostile or busy host does to a recording: right, or said to be unknown, never wrong."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, Guests
from recording import Recording, lost, recording, undone, until

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

# A client that makes a folder where there is none, as often as told in the very same words: as
# one does that has heard nothing.
MAKE = """
import socket, struct, sys
credentials = struct.pack(">9I", 1, 20, 0, 0, 0, 0, 0, 0, 0)
arguments = struct.pack(">I8sI4s6I", 8, b"nonsense", 1, b"x", 0, 0, 0, 0, 0, 0)
call = struct.pack(">6I", 7, 0, 2, 100003, 3, 9) + credentials + arguments
server, client, times = sys.argv[1:]
with socket.create_connection((server, 2049), 60, (client, 0)) as connection:
    for _ in range(int(times)):
        connection.sendall(struct.pack(">I", 1 << 31 | len(call)) + call)
        assert len(connection.recv(1000)) >= 24
"""
STRANGER, ASKED = "10.78.0.1", "10.78.255.1"


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


def reply_cache_hits(lab: Guests) -> int:
    return int(lab.exec("server", "awk '/^rc/ {print $2}' /proc/net/rpc/nfsd").stdout)


def test_what_is_repeated_or_put_off(lab: Guests, tmp_path: Path) -> None:
    """A request in the reply cache, and one that has to wait for mountd."""
    with ExitStack() as stack:
        for guest, address in (("server", ASKED), ("client", STRANGER)):
            of = f"{address}/16 dev eth0"
            stack.enter_context(undone(lab, guest, f"ip addr add {of}", f"ip addr del {of}"))
        running = stack.enter_context(recording(lab, "server", "/var/tmp/beside"))
        before = reply_cache_hits(lab)
        lab.exec("client", f"python3 -c '{MAKE}' $SERVER $CLIENT 3")
        hits = reply_cache_hits(lab) - before
        stop, go_on = (f"pkill -{signal} -x rpc.mountd" for signal in ("STOP", "CONT"))
        with undone(lab, "server", stop, go_on):
            waiting = lab.spawn("client", f"python3 -c '{MAKE}' {ASKED} {STRANGER} 1")
            # A thread waits for 5 s before it puts the request off.
            lab.exec("server", "sleep 7")
        assert waiting.wait(60) == 0
        assert running.end() == 0, running.said()
    code, document = running.report(tmp_path)
    assert (code, lost(document["losses"]), document["incomplete"]) == (0, {}, [])
    counts = Counter[tuple[str, int | None]]()
    for row in document["counts"]:
        if row["kind"] in ("reply_cache", "deferred"):
            counts[row["kind"], row["status"]] += row["count"]
    # 1: the old reply is sent once more.
    assert counts == {("reply_cache", 1): hits, ("deferred", None): 1}
    assert hits == 2
