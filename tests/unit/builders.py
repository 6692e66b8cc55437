"""Builders for tests: frames as the collector sends them, captures as the writer makes them.

    path = capture(tmp_path, [interval(1, ops=[op(op_id=1, wall_ms=2000)])])

Times are CLOCK_MONOTONIC seconds; recording starts at ``START_S``.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracer import wire
from tracer.errors import Exit
from tracer.records import (
    OP_IN_FLIGHT,
    SIDE_SERVER,
    USE_MEMORY,
    LatencyKey,
    LatencyVal,
    ListenerRec,
    OpRec,
    ProcId,
    ProcRec,
    RpcRec,
    UseKey,
    UseVal,
    WaitKey,
    WaitRec,
    WaitVal,
)
from tracer.store.keeper import Settings
from tracer.writer import write

S = 1_000_000_000
MS = 1_000_000
START_S = 1000
BOOT_ID = "5f0c2b1e-8d5e-4a55-9d3c-2d6f2c1b0a99"
WALL_NS = 1_795_344_000 * S  # 2026-11-22 10:40:00 UTC

Frame = tuple[int, bytes]


def hello(**changes: Any) -> dict[str, Any]:
    """Return a HELLO's payload."""
    return {
        "host": "server",
        "kernel": "6.1.0-50-cloud-amd64",
        "boot_id": BOOT_ID,
        "mono_ns": START_S * S,
        "wall_ns": WALL_NS,
        "boot_minus_mono_ns": 0,
        "sides": ["server"],
        "threshold_us": 100_000,
        "interval_s": 1.0,
        "command": ["nfsblame", "record"],
        "version": "0.1.0",
        "addresses": ["10.9.0.1"],
        "nfsd_threads": 8,
        "own_pids": [],
        "probes": [
            {
                "probe": "svc_process",
                "purpose": "begin of a server operation",
                "attached": True,
                "target": "raw_tp:svc_process",
                "reason": None,
                "lost": None,
            }
        ],
    } | changes


def proc(pid: int = 0, start_s: float = 1.0) -> ProcId:
    """Return a process; pid 0 is none."""
    return ProcId(int(start_s * S) if pid else 0, pid, 0)


def peer(text: str | None) -> Any:
    """Return the 16 bytes of an address."""
    if text is None:
        return (ctypes.c_uint8 * 16)()
    ip = ipaddress.ip_address(text)
    raw = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
    return (ctypes.c_uint8 * 16)(*raw)


def wait(first_s: float, last_s: float, **fields: Any) -> WaitRec:
    """Return one blocked wait from ``first_s`` to ``last_s``."""
    length = int((last_s - first_s) * S)
    given: dict[str, Any] = {
        "first_ns": int(first_s * S),
        "last_ns": int(last_s * S),
        "total_ns": length,
        "max_ns": length,
        "stack": -1,
        "waker_stack": -1,
        "count": 1,
        "kind": 1,
    }
    return WaitRec(**given | fields)


def op(op_id: int = 1, *, waits: Sequence[WaitRec] = (), **fields: Any) -> OpRec:
    """Return an RPC served between 1001.0 s and 1003.0 s, arrived at 1000.5 s."""
    given: dict[str, Any] = {
        "op_id": op_id,
        "arrival_ns": int(1000.5 * S),
        "begin_ns": 1001 * S,
        "reply_ns": 1003 * S,
        "end_ns": 1003 * S + 10_000,
        "op": 0xFFFF0001,
        "proc": proc(640),
        "off_stack": -1,
        "waker_stack": -1,
        "tid": 640,
        "xid": 0x12345678,
        "side": SIDE_SERVER,
        "peer": peer("10.9.0.2"),
        "comm": b"nfsd",
    }
    rec = OpRec(**given | fields)
    rec.nwaits = len(waits)
    for index, each in enumerate(waits):
        rec.waits[index] = each
    return rec


def op_in_flight(op_id: int = 1, **fields: Any) -> OpRec:
    """Return an RPC that a thread took up at 1001.0 s and that has not ended."""
    return op(op_id, **{"reply_ns": 0, "end_ns": 0, "flags": OP_IN_FLIGHT} | fields)


def rpc(op_id: int = 100, **fields: Any) -> RpcRec:
    """Return a client's RPC from 1000.4 s to 1003.1 s."""
    given: dict[str, Any] = {
        "op_id": op_id,
        "begin_ns": int(1000.4 * S),
        "reserved_ns": int(1000.45 * S),
        "sent_ns": int(1000.46 * S),
        "reply_ns": int(1003.05 * S),
        "end_ns": int(1003.1 * S),
        "op": 0xFFFF0002,
        "proc": proc(811),
        "tid": 811,
        "xid": 0x12345678,
        "transmits": 1,
        "peer": peer("10.9.0.1"),
        "comm": b"redis-server",
    }
    return RpcRec(**given | fields)


def latency(bucket: int = 100, count: int = 1, moved: int = 0, **fields: Any) -> bytes:
    """Return one packed (LatencyKey, LatencyVal)."""
    key: dict[str, Any] = {
        "op": 0xFFFF0001,
        "bucket": bucket,
        "side": SIDE_SERVER,
        "layer": 1,
        "peer": peer("10.9.0.2"),
    }
    return bytes(LatencyKey(**key | fields)) + bytes(LatencyVal(count, count * MS, MS, moved))


def wait_sum(count: int = 1, total_ns: int = MS, **fields: Any) -> bytes:
    """Return one packed (WaitKey, WaitVal)."""
    key: dict[str, Any] = {"op": 0xFFFF0001, "stack": 7, "waker_stack": -1, "kind": 1, "side": 1}
    return bytes(WaitKey(**key | fields)) + bytes(WaitVal(count, total_ns, total_ns))


def memory_use(slot: int, pages: int, pid: int = 811) -> bytes:
    """Return one use of memory, packed; fewer than no pages were given back."""
    who = proc(pid) if pid else ProcId()
    key = UseKey(slot=slot, proc=who, kind=USE_MEMORY)
    return bytes(key) + bytes(UseVal(2, pages % (1 << 64), pages % (1 << 64)))


def noted_process(who: ProcId, comm: bytes, exe: bytes = b"", uid: int = 0, ppid: int = 1) -> bytes:
    """Return one packed (ProcId, ProcRec)."""
    return bytes(who) + bytes(ProcRec(comm, exe, 0, uid, ppid))


def listener(group: int, who: ProcId, reads: int = 0, writes: int = 0) -> bytes:
    """Return one packed (group, ListenerRec)."""
    return group.to_bytes(8, "little") + bytes(ListenerRec(who, reads, writes, 0, 0))


NAMES = {
    0xFFFF0001: "COMPOUND",
    0xFFFF0002: "WRITE",
    0xFFFF0003: "OPEN",
    0xFFFF0004: "READ",
}
STACK = ("__schedule", "schedule", "fanotify_handle_event", "fsnotify")
_TEXT = 0xFFFFFFFF81000000
KALLSYMS = "".join(f"{_TEXT + 16 * n:x} T {name}\n" for n, name in enumerate(STACK))


def json_frame(kind: int, payload: Any) -> Frame:
    """Return a frame with a JSON payload."""
    return kind, json.dumps(payload).encode()


def definitions() -> list[Frame]:
    """Return the frames that name the operations and the stack 7 of the other builders."""
    return [
        json_frame(wire.NAMES, {str(key): name for key, name in NAMES.items()}),
        json_frame(wire.STACKS, {"7": [_TEXT + 16 * n for n in range(len(STACK))]}),
    ]


def tick(number: int, losses: Mapping[str, int] | None = None, **overhead: float) -> Frame:
    """Return the TICK that ends the interval at ``number`` seconds after the start."""
    return json_frame(
        wire.TICK,
        {
            "mono_ns": (START_S + number) * S,
            "intervals": 1,
            "losses": losses or {},
            "overhead": overhead,
        },
    )


def interval(
    number: int,
    *more: Frame,
    ops: Iterable[OpRec] = (),
    rpcs: Iterable[RpcRec] = (),
    latencies: Iterable[bytes] = (),
    losses: Mapping[str, int] | None = None,
) -> list[Frame]:
    """Return the frames of one interval, its TICK last."""
    frames = list(more)
    for kind, packed in (
        (wire.OPS, [bytes(rec) for rec in ops]),
        (wire.RPCS, [bytes(rec) for rec in rpcs]),
        (wire.LATENCY, list(latencies)),
    ):
        if packed:
            frames.append((kind, b"".join(packed)))
    return [*frames, tick(number, losses)]


def end(number: int, reason: str = "SIGINT") -> Frame:
    """Return the END."""
    return json_frame(wire.END, {"mono_ns": (START_S + number) * S, "reason": reason})


def stream(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Return the frames as they go through the pipe."""
    return (wire.frame(kind, payload) for kind, payload in frames)


def capture(
    path: Path,
    intervals: Iterable[list[Frame]],
    *,
    ended: bool = True,
    settings: Settings | None = None,
    **changes: Any,
) -> Path:
    """Write a capture through the real writer, in this process; return its folder."""
    frames = [json_frame(wire.HELLO, hello(**changes)), *definitions()]
    count = 0
    for of_interval in intervals:
        frames += of_interval
        count += 1
    if ended:
        frames.append(end(count))
    # Facts about this machine's processes do not belong in it.
    proc_root = path.parent / "no-proc"
    proc_root.mkdir(parents=True, exist_ok=True)
    (proc_root / "kallsyms").write_text(KALLSYMS)
    said: list[str] = []
    code = write(stream(frames), settings or Settings(path, 1 << 30), proc_root, said.append)
    assert code == Exit.DONE, said
    return path
