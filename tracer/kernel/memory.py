"""Reads kernel memory through the ``peek`` program, by the layout BTF gave.

Reads race with the kernel: an address may be stale. A read of unmapped memory
fails, one of reused memory returns garbage; callers check what they get.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from tracer.kernel import bpf

_PEEK_BYTES: Final = 256
_POINTERS_AT_ONCE: Final = _PEEK_BYTES // 8
_KEY: Final = struct.pack("<I", 0)


class KernelMemory:
    """Kernel memory by address; every read returns None where there is nothing to read."""

    def __init__(self, program_fd: int, map_fd: int, layout: Mapping[str, int]) -> None:
        self._program_fd = program_fd
        self._map_fd = map_fd
        self._layout = layout

    def offset(self, field: str) -> int:
        """Return a field's offset, ``field`` as ``struct.member``. KeyError if unknown."""
        return self._layout["OFF_" + field.replace(".", "__")]

    def knows(self, *fields: str) -> bool:
        """Return whether all these fields' offsets are known."""
        return all("OFF_" + field.replace(".", "__") in self._layout for field in fields)

    def size(self, struct_name: str) -> int:
        """Return a struct's size in bytes. KeyError if unknown."""
        return self._layout["SIZE_" + struct_name]

    def read(self, address: int, length: int) -> bytes | None:
        """Return ``length`` (at most 256) bytes at an address."""
        if bpf.run_raw_tracepoint(self._program_fd, (address, length)):
            return None
        data = bpf.lookup(self._map_fd, _KEY, _PEEK_BYTES)
        return None if data is None else data[:length]

    def current_task(self) -> int:
        """Return the address of the calling thread's task_struct."""
        address = self._unpack("<Q", self.read(0, 8))
        assert address is not None  # address 0 is answered without reading memory
        return address

    def u64(self, address: int, field: str | None = None) -> int | None:
        """Return the u64 (or pointer) at an address, or at a field of the struct there."""
        return self._unpack("<Q", self.read(address + self._at(field), 8))

    def u32(self, address: int, field: str | None = None) -> int | None:
        """Return the u32 at an address, or at a field of the struct there."""
        return self._unpack("<I", self.read(address + self._at(field), 4))

    def text(self, address: int, field: str | None = None, length: int = 64) -> str | None:
        """Return the NUL-terminated string at an address, or in a field of the struct there."""
        data = self.read(address + self._at(field), length)
        return None if data is None else data.split(b"\0", 1)[0].decode(errors="backslashreplace")

    def list(self, head: int, link: int, most: int) -> Iterator[int]:
        """Yield the structs of a list_head list whose links are at offset ``link``."""
        node = self.u64(head)
        for _ in range(most):
            if not node or node == head:
                return
            yield node - link
            node = self.u64(node)

    def hlist(self, node: int | None, link: int, most: int) -> Iterator[int]:
        """Yield the structs of a hlist from this node on, whose links are at offset ``link``."""
        for _ in range(most):
            if not node:
                return
            yield node - link
            node = self.u64(node)

    def pointers(self, address: int, count: int) -> Iterator[int]:
        """Yield those of ``count`` pointers in a row that are not NULL and can be read."""
        for at in range(0, count, _POINTERS_AT_ONCE):
            data = self.read(address + 8 * at, 8 * min(_POINTERS_AT_ONCE, count - at)) or b""
            yield from (pointer for (pointer,) in struct.iter_unpack("<Q", data) if pointer)

    def _at(self, field: str | None) -> int:
        return 0 if field is None else self.offset(field)

    @staticmethod
    def _unpack(format_: str, data: bytes | None) -> int | None:
        return None if data is None else int(struct.unpack(format_, data)[0])
