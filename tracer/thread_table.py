"""The records of threads, as bpf/threads.h keeps them."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Mapping
from typing import Final

from tracer.kernel import bpf
from tracer.record_offsets import U32, U64, At
from tracer.records import MAP_SIZES, OpRec

_RECORD_BYTES: Final = ctypes.sizeof(OpRec)


class ThreadTable:
    """The maps that hold one record for each thread that has been in an operation."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._known = bpf.BatchReader(maps["threads"], 4, 4)
        self._threads = maps["threads"]
        self._ops = maps["ops"]
        self._places = maps["places"]
        self._spare = maps["spare"]

    def make_room(self) -> None:
        """Say that all of ``ops`` is free, before any program runs; low numbers go first."""
        bpf.push_all(self._spare, map(U32.pack, reversed(range(MAP_SIZES["MAX_THREADS"]))))

    def read(self) -> Iterator[bytes]:
        """Yield each record (``OpRec``) as it stands."""
        for tid, slot in self._known.read():
            record = bpf.lookup(self._ops, slot, _RECORD_BYTES)
            if record is not None and record[At.op_tid : At.op_tid + 4] == tid:
                yield record

    def again(self, record: bytes) -> bytes | None:
        """Return the record of the same thread as it stands now, None if that has ended."""
        slot = bpf.lookup(self._threads, record[At.op_tid : At.op_tid + 4], 4)
        return None if slot is None else bpf.lookup(self._ops, slot, _RECORD_BYTES)

    def insert(self, record: bytes) -> bool:
        """Add the record of a thread; return whether that was done.

        Not if the programs have made one since, or there is no room. Raises OSError.
        """
        tid = record[At.op_tid : At.op_tid + 4]
        if bpf.lookup(self._threads, tid, 4) is not None:
            return False
        slot = bpf.pop(self._spare, 4)
        if slot is None:
            return False
        bpf.update(self._ops, slot, record)
        # From here on its thread finds it and makes no other.
        self._set_place(tid, slot)
        try:
            bpf.update(self._threads, tid, slot, only_new=True)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            self._set_place(tid, bpf.lookup(self._threads, tid, 4) or slot)
            bpf.push_all(self._spare, [slot])
            return False
        return True

    def _set_place(self, tid: bytes, slot: bytes) -> None:
        number = U32.unpack(tid)[0]
        place = U32.unpack(slot)[0] << 32 | number
        index = number % MAP_SIZES["MAX_PLACES"]
        bpf.update(self._places, U32.pack(index), U64.pack(place))
