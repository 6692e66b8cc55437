"""Requests that a server has put off until an upcall is answered, as the kernel lists them.

No thread has them meanwhile: sunrpc keeps what it needs to go on with each, and drops it if
there are too many of them. Its list tells which are still to be answered, also those of before
recording, of which only that is known (``cache_defer_list`` in net/sunrpc/cache.c).
"""

from __future__ import annotations

import ctypes
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from tracer.host import pack_peer
from tracer.kernel import bpf
from tracer.kernel.memory import KernelMemory
from tracer.records import (
    FIRST_SLEEPER,
    MAX_FRAMES,
    NO_STACK,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    SIDE_SERVER,
    WAIT_BLOCKED,
    DeferredRec,
    OpRec,
    RequestKey,
)

# Ids of what is found here: above all that BPF counts (CPU << 40 | n), below those of tracer.seed.
FIRST_ID: Final = 1 << 61

# What has to be found in the kernel's symbols.
SYMBOLS: Final = ("cache_defer_list", "cache_list", "svc_revisit", "cache_check")
_FIELDS: Final = (
    "cache_deferred_req.recent",
    "cache_deferred_req.item",
    "cache_deferred_req.revisit",
    "svc_deferred_req.handle",
    "svc_deferred_req.addr",
    "svc_deferred_req.args",
)
# Of whom a request waits for.
_FIELDS_OF_CACHES: Final = (
    "cache_detail.others",
    "cache_detail.hash_table",
    "cache_detail.hash_size",
    "cache_detail.cache_request",
    "cache_head.cache_list",
)
# DFR_MAX is 300, and threads that wait themselves stand in the list, too.
_MOST_REQUESTS: Final = 1 << 12
# A handful for each network namespace, with 256 buckets or less.
_MOST_CACHES: Final = 1 << 12
_MOST_BUCKETS: Final = 1 << 10
_MOST_ITEMS: Final = 1 << 12


class Deferred:
    """The requests that one recording sees put off."""

    def __init__(
        self, maps: Mapping[str, int], memory: KernelMemory, symbols: Mapping[str, int]
    ) -> None:
        """``symbols``: the addresses of SYMBOLS."""
        self._maps = maps
        self._memory = memory
        self._symbols = symbols
        self._can_look = memory.knows(*_FIELDS) and symbols.keys() >= set(SYMBOLS)
        self._next_id = FIRST_ID

    def operations(self, now_ns: int) -> Iterator[OpRec]:
        """Yield each request that is put off, as an operation that waits for a thread."""
        if not self._can_look:
            return
        for request in self._listed():
            key = self._key(request)
            if key is None:
                continue
            known = self._record(key) or self._take_in(key, request, now_ns)
            yield OpRec(
                op_id=known.op_id,
                side=SIDE_SERVER,
                active=1,
                xid=key.xid,
                peer=key.peer,
                arrival_ns=known.arrival_ns,
                # No thread has it: so far, all of its time was in the queue.
                begin_ns=now_ns,
                off_ns=known.arrival_ns,
                off_kind=WAIT_BLOCKED,
                off_stack=known.stack,
                waker_stack=NO_STACK,
                flags=known.flags | OP_IN_FLIGHT,
            )

    def _listed(self) -> Iterator[int]:
        """Yield the struct svc_deferred_req of each request that is put off."""
        memory = self._memory
        head = self._symbols["cache_defer_list"]
        link = memory.offset("cache_deferred_req.recent")
        for deferred in memory.list(head, link, _MOST_REQUESTS):
            # Others are threads that wait.
            if memory.u64(deferred, "cache_deferred_req.revisit") == self._symbols["svc_revisit"]:
                yield deferred - memory.offset("svc_deferred_req.handle")

    def _key(self, request: int) -> RequestKey | None:
        memory = self._memory
        address = memory.read(request + memory.offset("svc_deferred_req.addr"), 28)
        # A request begins with its XID.
        xid = memory.read(request + memory.offset("svc_deferred_req.args"), 4)
        if address is None or xid is None:
            return None
        peer = (ctypes.c_uint8 * 16)(*pack_peer(address))
        return RequestKey(peer, struct.unpack(">I", xid)[0])

    def _record(self, key: RequestKey) -> DeferredRec | None:
        """Return what the programs know of a request, None if they have not seen it."""
        data = bpf.lookup(self._maps["deferred"], bytes(key), ctypes.sizeof(DeferredRec))
        return DeferredRec.from_buffer_copy(data) if data else None

    def _take_in(self, key: RequestKey, request: int, now_ns: int) -> DeferredRec:
        """Tell the programs of a request that was put off before they could see it."""
        self._next_id += 1
        found = DeferredRec(self._next_id, now_ns, self._stack(request), OP_BEGIN_UNKNOWN)
        bpf.update(self._maps["deferred"], bytes(key), bytes(found))
        # From now on there are some to look for.
        bpf.update(self._maps["deferrals"], bytes(4), struct.pack("<Q", 1))
        return found

    def _stack(self, request: int) -> int:
        """Return the id of a stack of two: who puts requests off, and who asks the daemon.

        The real one is gone; what it would tell more is which thread it was.
        """
        memory = self._memory
        handle = request + memory.offset("svc_deferred_req.handle")
        item = memory.u64(handle, "cache_deferred_req.item")
        asks = self._asks_for(item) if item else None
        frames = (self._symbols["cache_check"], asks or 0)
        stack = struct.pack(f"<{MAX_FRAMES}Q", *frames, *[0] * (MAX_FRAMES - len(frames)))
        number = FIRST_SLEEPER | zlib.crc32(stack) & (FIRST_SLEEPER - 1)
        try:
            bpf.update(self._maps["more_stacks"], struct.pack("<I", number), stack)
        except OSError:  # it is full
            return NO_STACK
        return number

    def _asks_for(self, item: int) -> int | None:
        """Return the function that puts a daemon the question for an item of a cache."""
        memory = self._memory
        if not memory.knows(*_FIELDS_OF_CACHES):
            return None
        others = memory.offset("cache_detail.others")
        for cache in memory.list(self._symbols["cache_list"], others, _MOST_CACHES):
            if item in self._items(cache):
                return memory.u64(cache, "cache_detail.cache_request")
        return None

    def _items(self, cache: int) -> Iterator[int]:
        """Yield the struct cache_head of each item in a cache."""
        memory = self._memory
        table = memory.u64(cache, "cache_detail.hash_table")
        size = min(memory.u32(cache, "cache_detail.hash_size") or 0, _MOST_BUCKETS)
        link = memory.offset("cache_head.cache_list")
        for node in memory.pointers(table, size) if table else ():
            yield from memory.hlist(node, link, _MOST_ITEMS)
