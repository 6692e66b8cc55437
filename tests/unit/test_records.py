"""The header and its Python twins, compared by compiling the one natively."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tracer import losses, records, wire

BPF = Path(__file__).parents[2] / "bpf"

# C name -> Python twin, for every struct of the header.
TWINS = {
    "proc_id": records.ProcId,
    "wait_rec": records.WaitRec,
    "op_rec": records.OpRec,
    "rpc_rec": records.RpcRec,
    "latency_key": records.LatencyKey,
    "latency_val": records.LatencyVal,
    "latency_rec": records.LatencyRec,
    "wait_key": records.WaitKey,
    "wait_val": records.WaitVal,
    "count_key": records.CountKey,
    "use_key": records.UseKey,
    "use_val": records.UseVal,
    "proc_rec": records.ProcRec,
    "listener_rec": records.ListenerRec,
    "holder_rec": records.HolderRec,
    "held_rec": records.HeldRec,
    "request_key": records.RequestKey,
    "deferred_rec": records.DeferredRec,
    "crew_rec": records.CrewRec,
    "crew_size": records.CrewSize,
}
CONSTANTS = {
    "SIDE_SERVER": records.SIDE_SERVER,
    "SIDE_CLIENT": records.SIDE_CLIENT,
    "MAX_WAITS": records.MAX_WAITS,
    "MAX_FRAMES": records.MAX_FRAMES,
    "NO_STACK": records.NO_STACK,
    "FIRST_CROWDED": records.FIRST_CROWDED,
    "FIRST_SLEEPER": records.FIRST_SLEEPER,
    "OP_IN_FLIGHT": records.OP_IN_FLIGHT,
    "RPC_ENDED": records.RPC_ENDED,
    "OP_BEGIN_UNKNOWN": records.OP_BEGIN_UNKNOWN,
    "OP_DROPPED": records.OP_DROPPED,
    "OP_KERNEL": records.OP_KERNEL,
    "BETWEEN_REQUESTS": records.BETWEEN_REQUESTS,
    "WAIT_HELD": records.WAIT_HELD,
    "USE_SLOT_SHIFT": records.USE_SLOT_SHIFT,
    "NAME_PARTS": records.NAME_PARTS,
    "NAME_PART_LEN": records.NAME_PART_LEN,
    "LOSS_MAX": len(losses.IN_KERNEL),
    **{f"LAYER_{name.upper()}": number for number, name in records.LAYERS.items()},
    **{f"WAIT_{name.upper()}": number for number, name in records.WAIT_KINDS.items()},
    **{f"COUNT_{name.upper()}": number for number, name in enumerate(records.COUNTS)},
    **{f"LOSS_{name.upper()}": number for number, name in enumerate(losses.IN_KERNEL)},
}
PRELUDE = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef int64_t s64;
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return what a C compiler makes of the header: sizes, offsets, constants by name."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to compare bpf/records.h with its twins")
    lines = [f'printf("{name} %lld\\n", (long long){name});' for name in CONSTANTS]
    for name, twin in TWINS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field, *_ in twin._fields_:
            lines.append(
                f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));'
                f'printf("{name}.{field}# %zu\\n", sizeof(((struct {name} *)0)->{field}));'
            )
    folder = tmp_path_factory.mktemp("records")
    source = folder / "twins.c"
    source.write_text(
        f'{PRELUDE}#include "records.h"\nint main(void) {{ {"".join(lines)} return 0; }}\n'
    )
    command = [compiler, "-Wall", "-Werror", "-I", str(BPF), str(source), "-o", str(folder / "a")]
    subprocess.run(command, check=True)
    output = subprocess.run([folder / "a"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


@pytest.mark.parametrize("name", TWINS)
def test_size_and_every_field_are_those_of_the_header(name: str, native: dict[str, int]) -> None:
    twin = TWINS[name]
    assert ctypes.sizeof(twin) == native[name]
    for field, *_ in twin._fields_:
        descriptor = getattr(twin, field)
        assert (descriptor.offset, descriptor.size) == (
            native[f"{name}.{field}"],
            native[f"{name}.{field}#"],
        ), field


def test_constants_are_those_of_the_header(native: dict[str, int]) -> None:
    assert {name: native[name] for name in CONSTANTS} == CONSTANTS


def test_every_struct_and_every_field_has_a_twin() -> None:
    text = re.sub(r"/\*.*?\*/", "", (BPF / "records.h").read_text(), flags=re.S)
    structs = dict(re.findall(r"struct (\w+) \{(.*?)\n\}", text, flags=re.S))
    assert set(structs) == set(TWINS)
    for name, body in structs.items():
        fields = re.findall(r"(\w+)(?:\[\w+\])*;", body)
        assert fields == [field for field, *_ in TWINS[name]._fields_], name


def test_frames_survive_any_cut_of_the_pipe() -> None:
    frames = [(wire.TICK, b"{}"), (wire.OPS, b""), (wire.LATENCY, bytes(range(256)) * 3)]
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    for step in (1, 2, 7, len(stream)):
        parser = wire.FrameParser()
        chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert [frame for chunk in chunks for frame in parser.feed(chunk)] == frames
