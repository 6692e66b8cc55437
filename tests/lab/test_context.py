"""Where a process belongs: pods, volumes, mount namespaces, and those that have ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Guests
from recording import lost, recording, until

from tracer.model import HostCapture, Operation, Process
from tracer.reader import read_captures

UID = "8f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
ID = "3f5a0c" + "0123456789abcdef" * 3 + "0123456789"
SECRET = "--requirepass=hunter2"
POD = (
    "/kubepods.slice/kubepods-burstable.slice/"
    f"kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope"
)
VOLUME = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pvc-1/mount"
LOGS = f"/var/log/pods/default_redis-0_{UID}"
# In a mount namespace of its own only; with bytes that may do harm. As bash has it, and as shown.
HIDDEN = r"$'/run/hidden/a b\n\'\"\e[31m\xe9'"
SHOWN = "/run/hidden/a b\n'\"\x1b[31m\\xe9"
# Writes, without another program, until it is told to end: so it is seen alive.
WORK = 'until [ -e /run/ended ]; do echo > "$0/of-$1"; read -t 0.3 <> /run/silence || :; done'
SHORT = 'echo > "$0/of-$1"'


@pytest.fixture
def pod(lab: Guests) -> Iterator[None]:
    """A pod on the client as the kubelet and containerd make it, but without a process."""
    mount = f"mount -o vers=4.2,nosharecache $SERVER:$EXPORT {VOLUME}"
    make = f"mkdir -p /sys/fs/cgroup{POD} {VOLUME} {LOGS}; mkfifo /run/silence"
    lab.exec("client", f"{make}; {mount}; rm -f /run/ended")
    yield
    rmdir = "find /sys/fs/cgroup/kubepods.slice -depth -type d -exec rmdir {} \\;"
    lab.exec(
        "client",
        f"rm -f {VOLUME}/of-*; umount {VOLUME}; "
        f"rm -rf /var/lib/kubelet {LOGS} /run/ended /run/silence; {rmdir}",
    )


def program(name: str, folder: str, work: str, *, setup: str = "") -> str:
    """A shell command that runs a program of this name in a mount namespace of its own."""
    inner = f"{setup} exec /var/tmp/{name} -c {shlex.quote(work)} {folder} {name} {SECRET}"
    return f"cp /bin/bash /var/tmp/{name}; exec unshare --mount bash -c {shlex.quote(inner)}"


def processes(capture: HostCapture, comm: str) -> list[Process]:
    return [process for process in capture.processes.values() if process.comm == comm]


def operations(capture: HostCapture, comm: str) -> list[Operation]:
    return [op for op in capture.operations if op.comm == comm and op.layer == "vfs"]


def test_pods_volumes_and_namespaces(lab: Guests, tmp_path: Path, pod: None) -> None:
    join = f"echo $$ > /sys/fs/cgroup{POD}/cgroup.procs;"
    hide = f"mkdir -p {HIDDEN}; mount -o nosharecache $SERVER:$EXPORT {HIDDEN};"
    folder = "/var/tmp/context"
    with recording(lab, "client", folder, "--threshold 1ms --command-lines") as running:
        workers = [
            lab.spawn("client", program("redis", VOLUME, WORK, setup=join)),
            lab.spawn("client", program("hidden", HIDDEN, WORK, setup=hide)),
        ]
        # This one has ended when anyone looks; its group is that of the pod.
        lab.exec("client", program("short", VOLUME, SHORT, setup=join))
        for name in ("redis", "hidden"):
            until(lab, "client", f"grep -qa {name} {running.folder}/.journal/*/processes.a.arrows")
        lab.exec("client", "touch /run/ended")
        assert [worker.wait(60) for worker in workers] == [0, 0]
        assert running.end() == 0, running.said()
    (capture,) = read_captures([lab.fetch("client", folder, tmp_path / "context")])
    lab.exec("client", "rm -rf /run/hidden /var/tmp/redis /var/tmp/hidden /var/tmp/short")

    (redis,) = processes(capture, "redis")
    assert (redis.exe, redis.uid, redis.kthread) == ("/var/tmp/redis", 0, False)
    assert (redis.cgroup, redis.container, redis.pod_uid) == (POD, ID, UID)
    assert (redis.pod_namespace, redis.pod_name) == ("default", "redis-0")
    assert SECRET in (redis.command_line or "")
    assert {(op.mount, op.volume) for op in operations(capture, "redis")} == {(VOLUME, "pvc-1")}

    (short_lived,) = processes(capture, "short")
    assert (short_lived.exe, short_lived.kthread) in {
        ("short", False),
        ("/var/tmp/short", False),
    }
    assert (short_lived.container, short_lived.pod_name) == (ID, "redis-0")

    (hidden,) = processes(capture, "hidden")
    assert (hidden.container, hidden.pod_uid) == (None, None)
    assert {(op.mount, op.volume) for op in operations(capture, "hidden")} == {(SHOWN, None)}
    assert not lost(capture.losses)


def test_what_the_kernel_writes_back_has_its_mount_and_writer(lab: Guests, tmp_path: Path) -> None:
    # To close the file would flush it: it is open as long as the kernel writes back.
    work = (
        "import os; file = os.open(os.environ['MOUNT'] + '/back', os.O_CREAT | os.O_WRONLY); "
        "os.write(file, bytes(2_000_000)); os.sync()"
    )
    filler = "cp $(readlink -f /usr/bin/python3) /var/tmp/filler; /var/tmp/filler -c"
    folder = "/var/tmp/writeback"
    with recording(lab, "client", folder, "--threshold 1ms") as running:
        lab.exec("client", f"{filler} {shlex.quote(work)}")
        assert running.end() == 0, running.said()
    (capture,) = read_captures([lab.fetch("client", folder, tmp_path / "writeback")])
    mount = lab.exec("client", 'echo "$MOUNT"; rm "$MOUNT/back" /var/tmp/filler').stdout.strip()

    (writer,) = processes(capture, "filler")
    sent = [op for op in capture.operations if op.layer == "rpc" and op.process is None]
    writes = [op for op in sent if op.op == "WRITE"]
    assert writes
    assert {(op.mount, op.writer) for op in writes} == {(mount, writer.key)}
    assert {op.mount for op in sent if op.op == "COMMIT"} == {mount}
