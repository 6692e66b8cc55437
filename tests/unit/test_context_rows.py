"""From the kernel's records and /proc to a capture: where processes belong."""

from __future__ import annotations

from pathlib import Path

from builders import START_S, S, capture, interval, noted_process, op, proc

from tracer import wire
from tracer.model import HostCapture
from tracer.reader import read_captures
from tracer.records import SIDE_CLIENT

UID = "8f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
ID = "3f5a0c" + "0123456789abcdef" * 3 + "0123456789"
GROUP = f"kubepods/burstable/pod{UID}/{ID}"
VOLUME = f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~nfs/pvc-1"
REDIS = proc(811, 5)


def recorded(tmp_path: Path, *, ended: bool = False) -> HostCapture:
    """Record an operation of a process in a pod, alive or ended with its group in sight."""
    group = tmp_path / "sys/fs/cgroup" / GROUP
    group.mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").touch()
    (tmp_path / f"var/log/pods/default_redis-0_{UID}").mkdir(parents=True)
    own = tmp_path / "no-proc/self"
    own.mkdir(parents=True)
    (own / "mountinfo").write_text(
        f"40 22 0:44 / {VOLUME} rw - nfs4 10.9.0.1:/a rw\n"
        "41 22 0:44 / /mnt/other rw - nfs4 10.9.0.1:/b rw\n"
    )
    if not ended:
        folder = own.parent / "811"
        folder.mkdir()
        (folder / "stat").write_text("811 (redis-server) S 1 " + "0 " * 17 + "500 0\n")
        (folder / "cgroup").write_text(f"0::/{GROUP}\n")
        (folder / "cmdline").write_bytes(b"redis-server\0secret\0")
    packed = bytearray(noted_process(REDIS, b"redis-server", b"redis-server", uid=999))
    at = len(packed) - 24  # of cgroup_id
    packed[at : at + 8] = group.stat().st_ino.to_bytes(8, "little")
    rec = op(1, side=SIDE_CLIENT, proc=REDIS, dev=44, op=3, end_ns=(START_S + 2) * S)
    frames = interval(1, (wire.PROCS, bytes(packed)), ops=[rec])
    (found,) = read_captures([capture(tmp_path / "capture", [frames], sides=["client"])])
    return found


def test_process_in_a_pod(tmp_path: Path) -> None:
    found = recorded(tmp_path)
    (operation,) = found.operations
    assert (operation.mount, operation.volume) == (VOLUME, "pvc-1")
    assert operation.process is not None
    redis = found.processes[operation.process]
    assert (redis.container, redis.pod_uid) == (ID, UID)
    assert (redis.pod_namespace, redis.pod_name) == ("default", "redis-0")
    assert redis.command_line is None


def test_process_that_ended_is_known_by_the_id_of_its_group(tmp_path: Path) -> None:
    found = recorded(tmp_path, ended=True)
    (operation,) = found.operations
    assert (operation.mount, operation.volume) == (VOLUME, "pvc-1")
    assert operation.process is not None
    redis = found.processes[operation.process]
    assert (redis.cgroup, redis.pod_name, redis.uid) == (f"/{GROUP}", "redis-0", 999)
