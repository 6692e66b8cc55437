"""Compiled programs apart from the maps they were compiled with."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.kernel import bpf, objects
from tracer.kernel.objects import MapSpec, Object, Program

NAMES = {3: "threads", 4: "waits", 5: "waits0"}


def instruction(opcode: int, registers: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", opcode, registers, 0, immediate)


def load_map(fd: int, register: int = 1) -> bytes:
    """Return BPF_LD_MAP_FD, which takes the room of two instructions."""
    return instruction(0x18, 0x10 | register, fd) + instruction(0, 0, 0)


MOVE = instruction(0xB7, 0, 3)  # an immediate that happens to be a map's fd
CONSTANT = instruction(0x18, 0x01, 4) + instruction(0, 0, 0)  # a 64-bit number, no map
EXIT = instruction(0x95, 0, 0)
CODE = MOVE + load_map(3) + CONSTANT + load_map(4, register=2) + EXIT


def example() -> Object:
    return Object(
        maps={
            "threads": MapSpec(1, 4, 1000, 8192, 0),
            "waits0": MapSpec(1, 48, 24, 16384, 0),
            "waits": MapSpec(12, 4, 4, 1, 0, "waits0"),
        },
        programs={"on_exit": objects.detach(CODE, NAMES), "plain": Program(EXIT, ())},
    )


def test_detached_code_names_its_maps_and_holds_no_fd() -> None:
    program = objects.detach(CODE, NAMES)
    assert program.maps == ((1, "threads"), (5, "waits"))
    assert program.code == MOVE + load_map(0) + CONSTANT + load_map(0, register=2) + EXIT


def test_attached_code_has_the_new_fds_and_only_them() -> None:
    fds = {"threads": 70, "waits": 71, "waits0": 72}
    attached = objects.attach(objects.detach(CODE, NAMES), fds)
    assert attached == MOVE + load_map(70) + CONSTANT + load_map(71, register=2) + EXIT


@given(
    st.lists(
        st.one_of(
            st.sampled_from([3, 4, 5]).map(load_map),
            st.integers(-(2**31), 2**31 - 1).map(lambda n: instruction(0xB7, 0, n)),
        )
    )
)
def test_detach_and_attach_are_inverse(parts: list[bytes]) -> None:
    code = b"".join(parts)
    fds = {name: fd for fd, name in NAMES.items()}
    assert objects.attach(objects.detach(code, NAMES), fds) == code


def test_a_map_nobody_named_is_an_error() -> None:
    with pytest.raises(KeyError):
        objects.detach(load_map(99), NAMES)


def test_json_and_back() -> None:
    assert Object.from_json(example().to_json()) == example()


def broken(*path: Any, to: Any) -> str:
    """Return the example's JSON with one value replaced."""
    data = json.loads(example().to_json())
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"maps": [], "programs": {}}',
        '{"maps": {}, "programs": {"p": 7}}',
        "[" * 100_000,
        broken("maps", to=None),
        broken("maps", "threads", to=[]),
        broken("maps", "threads", to="12345"),
        broken("maps", "threads", 1, to="4"),
        broken("maps", "threads", 1, to=-4),
        broken("maps", "threads", 3, to=2**32),
        broken("maps", "threads", 3, to=1.5),
        broken("maps", "waits", 5, to="no such map"),
        broken("maps", "waits", 5, to=["waits0"]),
        broken("maps", "waits0", 5, to="waits"),
        broken("programs", "plain", 0, to=None),
        broken("programs", "plain", 0, to=""),
        broken("programs", "plain", 0, to="lQ=="),  # one byte
        broken("programs", "plain", 0, to="not base64!"),
        broken("programs", "on_exit", 1, to=[[1]]),
        broken("programs", "on_exit", 1, to=[[1, "no such map"]]),
        broken("programs", "on_exit", 1, to=[[99, "threads"]]),
        broken("programs", "on_exit", 1, to=[[-1, "threads"]]),
        broken("programs", "on_exit", 1, to=[["1", "threads"]]),
    ],
)
def test_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Object.from_json(text)


def test_templates_are_made_before_the_maps_of_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    def create_map(name: str, *numbers: int) -> int:
        made.append((name, numbers[-1]))
        return 10 + len(made)

    monkeypatch.setattr(bpf, "create_map", create_map)
    reversed_maps = dict(reversed(example().maps.items()))
    fds = objects.create_maps(reversed_maps)
    assert set(fds) == set(reversed_maps)
    assert made[-1] == ("waits", fds["waits0"])
    assert all(inner == 0 for _, inner in made[:-1])
