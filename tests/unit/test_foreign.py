"""Foreign code as it comes and goes, and what the BPF programs are told of it."""

from __future__ import annotations

import errno
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import foreign
from tracer.foreign import ForeignCode, prefixes
from tracer.interrupts import Interrupts
from tracer.kernel import bpf
from tracer.kernel.bpf import ProgramCode
from tracer.kernel.on_demand import OnDemand
from tracer.owners import Owner
from tracer.procfs.symbols import Extent

FILTER = ProgramCode(26, "filter", ((0x1000, 0x100), (0x2000, 0x40)))
AGENT = b"agent 4096 1 - Live 0x5000 (OE)\n"


class Kernel:
    """Programs, modules and a trie that knows what it holds."""

    def __init__(self) -> None:
        self.programs: dict[int, ProgramCode] = {}
        self.modules = b""
        self.trie: dict[bytes, int] = {}
        self.room = 100
        self.links: list[int] = []

    def ids(self, after: int) -> list[int]:
        return sorted(one for one in self.programs if one > after)

    def code(self, identifier: int) -> ProgramCode | None:
        return self.programs.get(identifier)

    def read(self) -> tuple[bytes, bytes]:
        return self.modules, b"\text4\n"

    def update(self, _fd: int, key: bytes, value: bytes) -> None:
        if len(self.trie) >= self.room:
            raise OSError
        self.trie[key] = int.from_bytes(value, "little")

    def attach(self, program: int, event: str) -> int:
        assert (program, event) == (9, "hrtimer_expire_entry")
        self.links.append(os.dup(0))
        return self.links[-1]

    def owner(self, address: int) -> int | None:
        """Look an address up as the kernel does: the longest prefix."""
        for bits in range(64, 0, -1):
            kept = address >> (64 - bits) << (64 - bits)
            found = self.trie.get(bits.to_bytes(4, "little") + kept.to_bytes(8, "big"))
            if found is not None:
                return found
        return None


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(foreign.bpf, "program_ids", made.ids)
    monkeypatch.setattr(foreign.bpf, "program_code", made.code)
    monkeypatch.setattr(foreign.bpf, "program_exists", lambda one: one in made.programs)
    monkeypatch.setattr(foreign.bpf, "update", made.update)
    monkeypatch.setattr(foreign.bpf, "delete", lambda _fd, key: made.trie.pop(key, None))
    monkeypatch.setattr(bpf, "attach_raw_tracepoint", made.attach)
    return made


class Calm(Interrupts):
    """Interrupts that take little, unless they are told to take much."""

    much = False

    def take_much(self) -> bool:
        return self.much


def made(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, interrupts: Interrupts) -> ForeignCode:
    code = ForeignCode(5, OnDemand([(9, "hrtimer_expire_entry")]), [1], interrupts)
    monkeypatch.setattr(code, "_texts", kernel)
    return code


@pytest.fixture
def code(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> ForeignCode:
    return made(kernel, monkeypatch, Calm({}))


@given(begin=st.integers(1, 1 << 20), length=st.integers(1, 1 << 12))
def test_prefixes_cover_a_range_exactly(begin: int, length: int) -> None:
    covered = sorted(
        (one, one + (1 << (64 - bits))) for one, bits in prefixes(begin, begin + length)
    )
    assert covered[0][0] == begin
    assert covered[-1][1] == begin + length
    assert all(end == following for (_, end), (following, _) in pairwise(covered))
    assert all(one % (end - one) == 0 for one, end in covered)


def test_our_own_programs_are_not_foreign(kernel: Kernel, code: ForeignCode) -> None:
    kernel.programs = {1: FILTER}
    assert code.follow() == {}
    assert (kernel.trie, kernel.links) == ({}, [])


def test_nor_are_those_that_systemd_has_on_every_host(kernel: Kernel, code: ForeignCode) -> None:
    kernel.programs = {41: ProgramCode(15, "sd_devices", FILTER.functions)}
    assert code.follow() == {}
    assert kernel.links == []


def test_all_functions_of_a_program_are_its(kernel: Kernel, code: ForeignCode) -> None:
    kernel.programs = {1: FILTER, 41: FILTER}
    assert code.follow() == {0x1000: Owner("bpf", "filter", 41)}
    assert [kernel.owner(at) for at in (0xFFF, 0x1000, 0x10FF, 0x1100, 0x203F, 0x2040)] == [
        *(None, 0x1000, 0x1000, None, 0x1000, None)
    ]
    assert code.follow() == {}


def test_what_is_gone_is_forgotten_and_sampled_no_more(kernel: Kernel, code: ForeignCode) -> None:
    kernel.programs, kernel.modules = {41: FILTER}, AGENT
    assert code.follow() == {0x1000: Owner("bpf", "filter", 41), 0x5000: Owner("module", "agent")}
    assert kernel.owner(0x5FFF) == 0x5000
    kernel.programs = {}
    code.follow()
    assert (kernel.owner(0x1000), len(kernel.links)) == (None, 1)
    os.fstat(kernel.links[0])
    kernel.modules = b""
    code.follow()
    assert kernel.trie == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.links[0])


def test_a_module_that_was_loaded_again_lies_elsewhere(kernel: Kernel, code: ForeignCode) -> None:
    kernel.modules = AGENT
    code.follow()
    kernel.modules = AGENT.replace(b"5000", b"7000")
    assert code.follow() == {0x7000: Owner("module", "agent")}
    assert (kernel.owner(0x5000), kernel.owner(0x7000)) == (None, 0x7000)


def test_interrupts_are_sampled_while_they_take_much(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = Calm({"irq_exit_rcu": Extent(0x9000, 0x9040)})
    code = made(kernel, monkeypatch, interrupts)
    assert code.follow() == {0x9000: Owner("irq", "softirq")}
    assert (kernel.owner(0x903F), kernel.links) == (0x9000, [])
    interrupts.much = True
    assert code.follow() == {}
    assert len(kernel.links) == 1
    interrupts.much = False
    code.follow()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.links[0])


def test_that_there_is_no_room_is_told(kernel: Kernel, code: ForeignCode) -> None:
    kernel.room, kernel.programs = 1, {41: FILTER}
    code.follow()
    (text,) = code.notes
    assert text.startswith("there are more modules and BPF programs than can be watched")
    code.follow()
    assert code.notes == [text]


def test_that_they_cannot_be_listed_is_told(
    kernel: Kernel, code: ForeignCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_after: int) -> list[int]:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(foreign.bpf, "program_ids", refused)
    monkeypatch.setattr(kernel, "read", lambda: None)
    assert code.follow() == {}
    assert [text.partition(" cannot")[0] for text in code.notes] == ["modules", "BPF programs"]


def test_without_addresses_nothing_is_known(kernel: Kernel, code: ForeignCode) -> None:
    kernel.modules = AGENT.replace(b"0x5000", b"0x0000000000000000")
    kernel.programs = {41: ProgramCode(26, "filter", ())}
    assert code.follow() == {}
    assert kernel.links == []
