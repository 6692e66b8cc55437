"""Kernel memory laid out by hand, for what reads the kernel's lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from tracer.kernel import offsets
from tracer.kernel.memory import KernelMemory

EMBEDDED = (
    "sched_entity",
    "fanotify_group_private_data",
    "wait_queue_head",
    "rpc_message",
    "cache_deferred_req",
    "nf_hook_state",
    "rpc_wait",
    "rpc_wait_queue",
    "nfsd4_compound_state",
    "svc_fh",
)


class FakeMemory(KernelMemory):
    """Kernel memory of 8-byte words, with offsets that number the fields of each struct."""

    def __init__(self) -> None:
        fields = (*offsets.seed_fields(["server", "client"]), *offsets.COMMON)
        count: dict[str, itertools.count[int]] = {}
        layout = {"SIZE_nfsd4_op": 0x40, "SIZE_wait_queue_head": 0x60}
        for macro in dict.fromkeys(field.macro for field in fields):
            owner = macro.removeprefix("OFF_").split("__")[0]
            # Room for a list_head, a sockaddr, a comm; around what is embedded, for all of it.
            step = 32 if owner in EMBEDDED else 512
            layout[macro] = step * next(count.setdefault(owner, itertools.count(1)))
        super().__init__(-1, -1, layout)
        self.bytes: dict[int, int] = {}
        self._next = 0xFFFF_8880_0000_0000
        self.layout = layout
        self.current = 0
        self.net_of_sunrpc = 0
        self.on_read: Callable[[int], None] = lambda _address: None

    def read(self, address: int, length: int) -> bytes | None:
        self.on_read(address)
        if address not in self.bytes:
            return None  # unmapped
        return bytes(self.bytes.get(address + i, 0) for i in range(length))

    def current_task(self) -> int:
        return self.current

    # Laying out

    def struct(self) -> int:
        self._next += 0x10000
        return self._next

    def write(self, address: int, data: bytes) -> None:
        self.bytes.update(zip(itertools.count(address), data, strict=False))

    def put(self, address: int, field: str | None, value: int | bytes, width: int = 8) -> None:
        data = value if isinstance(value, bytes) else value.to_bytes(width, "little")
        self.write(address + (self.offset(field) if field else 0), data)

    def string(self, text: str) -> int:
        address = self.struct()
        self.write(address, text.encode() + b"\0")
        return address

    def link(self, head: int, nodes: list[int]) -> None:
        """Write a circular list_head list."""
        for node, following in itertools.pairwise([head, *nodes, head]):
            self.put(node, None, following)
            self.put(following + 8, None, node)
