"""Requests that are put off, in a kernel memory laid out by hand."""

from __future__ import annotations

import ctypes
import socket
import struct

import pytest
from kernel_memory import FakeMemory

from tracer.deferred import SYMBOLS, Deferred
from tracer.kernel import bpf
from tracer.records import (
    FIRST_SLEEPER,
    MAX_FRAMES,
    NO_STACK,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    WAIT_BLOCKED,
    DeferredRec,
    OpRec,
    RequestKey,
)

MAPS = {"deferred": 1, "deferrals": 2, "more_stacks": 3}
IP_MAP_REQUEST = 0xFFFF_FFFF_C0A1_2340
PEER = bytes(10) + b"\xff\xff\x0a\x00\x00\x02"


class Server:
    """A kernel whose sunrpc has put requests off, and the maps of our programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = FakeMemory()
        self.maps: dict[int, dict[bytes, bytes]] = {number: {} for number in MAPS.values()}
        self.symbols = {name: self.memory.struct() for name in SYMBOLS}
        self.put_off: list[int] = []
        self.full = False
        monkeypatch.setattr(bpf, "lookup", lambda fd, key, _: self.maps[fd].get(key))
        monkeypatch.setattr(bpf, "update", self.update)
        self.item = self.memory.struct()
        self.memory.link(self.symbols["cache_list"], [self.add_cache(7), self.add_cache(70)])

    def update(self, fd: int, key: bytes, value: bytes) -> None:
        if fd == MAPS["more_stacks"] and self.full:
            raise OSError
        self.maps[fd][key] = value

    def add_cache(self, bucket: int) -> int:
        """Return the list node of a cache; the one with ``bucket`` 70 has the item."""
        memory, cache, table = self.memory, self.memory.struct(), self.memory.struct()
        memory.put(cache, "cache_detail.hash_table", table)
        memory.put(cache, "cache_detail.hash_size", 100, 4)
        memory.put(cache, "cache_detail.cache_request", IP_MAP_REQUEST if bucket == 70 else 1)
        memory.write(table, bytes(800))
        link = memory.offset("cache_head.cache_list")
        first = memory.struct()
        memory.put(table + 8 * bucket, None, first + link)
        memory.put(first + link, None, self.item + link if bucket == 70 else 0)
        if bucket == 70:
            memory.put(self.item + link, None, 0)
        return cache + memory.offset("cache_detail.others")

    def add(self, xid: int, revisit: str = "svc_revisit") -> None:
        """Put a request off; of a thread that waits itself, ``revisit`` is another."""
        memory, request = self.memory, self.memory.struct()
        handle = request + memory.offset("svc_deferred_req.handle")
        address = struct.pack("<H2s4s20x", socket.AF_INET, b"", PEER[-4:])
        memory.put(request, "svc_deferred_req.addr", address)
        memory.put(request, "svc_deferred_req.args", struct.pack(">I", xid))
        memory.put(handle, "cache_deferred_req.item", self.item)
        memory.put(handle, "cache_deferred_req.revisit", self.symbols.get(revisit, 1))
        self.put_off.append(handle + memory.offset("cache_deferred_req.recent"))
        self.link()

    def link(self) -> None:
        self.memory.link(self.symbols["cache_defer_list"], self.put_off)

    def deferred(self) -> Deferred:
        return Deferred(MAPS, self.memory, self.symbols)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(monkeypatch)
    server.link()
    return server


def key(xid: int) -> bytes:
    return bytes(RequestKey((ctypes.c_uint8 * 16)(*PEER), xid))


def stack_of(server: Server, op: OpRec) -> list[int]:
    value = server.maps[MAPS["more_stacks"]][struct.pack("<I", op.off_stack)]
    return [address for address in struct.unpack(f"<{MAX_FRAMES}Q", value) if address]


def test_nothing_is_put_off(server: Server) -> None:
    assert not list(server.deferred().operations(100))
    assert not server.maps[MAPS["deferrals"]]


def test_one_of_before_recording_waits_for_whoever_answers_its_cache(server: Server) -> None:
    server.add(0x11223344)
    deferred = server.deferred()
    (op,) = deferred.operations(100)
    assert (op.xid, bytes(op.peer)) == (0x11223344, PEER)
    assert (op.arrival_ns, op.begin_ns, op.off_ns, op.off_kind) == (100, 100, 100, WAIT_BLOCKED)
    assert op.flags == OP_IN_FLIGHT | OP_BEGIN_UNKNOWN
    assert op.off_stack >= FIRST_SLEEPER
    assert stack_of(server, op) == [server.symbols["cache_check"], IP_MAP_REQUEST]
    (later,) = deferred.operations(900)
    assert (later.op_id, later.arrival_ns, later.begin_ns) == (op.op_id, 100, 900)


def test_the_programs_go_on_with_what_was_found(server: Server) -> None:
    server.add(5)
    (op,) = server.deferred().operations(100)
    record = DeferredRec.from_buffer_copy(server.maps[MAPS["deferred"]][key(5)])
    assert (record.op_id, record.arrival_ns, record.stack) == (op.op_id, 100, op.off_stack)
    assert record.flags == OP_BEGIN_UNKNOWN
    assert server.maps[MAPS["deferrals"]] == {bytes(4): struct.pack("<Q", 1)}


def test_what_the_programs_saw_is_theirs(server: Server) -> None:
    server.add(5)
    server.maps[MAPS["deferred"]][key(5)] = bytes(DeferredRec(77, 40, 8, 0))
    (op,) = server.deferred().operations(100)
    assert (op.op_id, op.arrival_ns, op.off_stack, op.flags) == (77, 40, 8, OP_IN_FLIGHT)
    assert not server.maps[MAPS["deferrals"]]


def test_one_that_was_dropped_is_no_more(server: Server) -> None:
    server.maps[MAPS["deferred"]][key(5)] = bytes(DeferredRec(77, 40, 8, 0))
    assert not list(server.deferred().operations(100))


def test_a_thread_that_waits_itself_is_seen_elsewhere(server: Server) -> None:
    server.add(5, revisit="cache_restart_thread")
    assert not list(server.deferred().operations(100))


def test_whom_a_question_goes_to_may_be_unknown(server: Server) -> None:
    server.item = server.memory.struct()
    server.add(5)
    (op,) = server.deferred().operations(100)
    assert stack_of(server, op) == [server.symbols["cache_check"]]


def test_nor_is_it_told_without_the_types_of_caches(server: Server) -> None:
    server.add(5)
    del server.memory.layout["OFF_cache_detail__others"]
    (op,) = server.deferred().operations(100)
    assert stack_of(server, op) == [server.symbols["cache_check"]]


def test_without_room_there_is_no_stack(server: Server) -> None:
    server.full = True
    server.add(5)
    (op,) = server.deferred().operations(100)
    assert op.off_stack == NO_STACK


@pytest.mark.parametrize("lacking", SYMBOLS)
def test_without_a_symbol_nothing_is_looked_for(server: Server, lacking: str) -> None:
    server.add(5)
    del server.symbols[lacking]
    assert not list(server.deferred().operations(100))


def test_without_the_types_nothing_is_looked_for(server: Server) -> None:
    server.add(5)
    del server.memory.layout["OFF_cache_deferred_req__item"]
    assert not list(server.deferred().operations(100))


def test_memory_that_is_gone_is_no_request(server: Server) -> None:
    server.add(5)
    at = server.put_off[0] - server.memory.offset("cache_deferred_req.recent")
    request = at - server.memory.offset("svc_deferred_req.handle")
    for i in range(4):
        del server.memory.bytes[request + server.memory.offset("svc_deferred_req.args") + i]
    assert not list(server.deferred().operations(100))
