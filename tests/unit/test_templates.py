"""Templates of programs: what is filled in, and where."""

from __future__ import annotations

import re
import struct

import pytest

from tracer import compiler
from tracer.kernel import templates


def test_every_kind_of_argument_is_one_that_bpf_tells_apart() -> None:
    source = (compiler.bpf_folder() / "kernel.h").read_text()
    assert set(re.findall(r"case (\w+):", source)) == templates.KINDS.keys()
    assert 0 not in templates.KINDS.values()


def instruction(opcode: int, offset: int, constant: int) -> bytes:
    return struct.pack("<BBhI", opcode, 1, offset, constant)


NUMBER = templates.NUMBER_PLACEHOLDER
ARGUMENT, RESULT = 8 * templates.ARGUMENT_PLACEHOLDER, 8 * templates.RESULT_PLACEHOLDER
LOAD, STORE, ADD, MOVE, JUMP, END = 0x79, 0x7B, 0x07, 0xB7, 0x55, 0x95


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((MOVE, 0, NUMBER), (MOVE, 0, 12)),
        ((JUMP, 3, NUMBER), (JUMP, 3, 12)),
        ((MOVE, 0, templates.KIND_PLACEHOLDER), (MOVE, 0, 4)),
        ((LOAD, ARGUMENT, 0), (LOAD, 8, 0)),
        ((LOAD, RESULT, 0), (LOAD, 40, 0)),
        # An address in the context that is passed on.
        ((ADD, 0, RESULT), (ADD, 0, 40)),
    ],
)
def test_specialise_fills_every_placeholder_and_nothing_else(
    before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    # The same values where they are no placeholder's.
    rest = [(MOVE, 0, 7), (MOVE, 0, ARGUMENT), (STORE, ARGUMENT, 0), (JUMP, RESULT, 0), (END, 0, 0)]
    code = b"".join(instruction(*each) for each in (before, *rest, before))
    filled = b"".join(instruction(*each) for each in (after, *rest, after))
    assert templates.specialise(code, templates.Filling(12, 4, 1, 5)) == filled


def test_placeholder_bytes_across_two_instructions_are_not_one() -> None:
    placeholder = NUMBER.to_bytes(4, "little")
    code = (
        b"\xb7\x01\0\0" + placeholder  # a real one
        + b"\xb7\x01" + placeholder + b"\0\0"  # the same bytes, but not a constant
    )  # fmt: skip
    filled = code.replace(placeholder, b"\3\0\0\0", 1)
    assert templates.specialise(code, templates.Filling(3, 0, 0, 0)) == filled


def test_a_template_without_placeholder_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        templates.specialise(instruction(END, 0, 0), templates.Filling(1, 0, 0, 0))
