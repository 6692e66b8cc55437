"""bpf(2) by ctypes: load, attach, read maps in batches, run a program once.

The collector uses these instead of bcc, which would keep 100 MB of LLVM in
memory. Attribute layouts are ``union bpf_attr`` of include/uapi/linux/bpf.h,
which is stable ABI; each function builds the part its command reads.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361}

MAP_CREATE: Final = 0
MAP_LOOKUP_ELEM: Final = 1
MAP_UPDATE_ELEM: Final = 2
MAP_DELETE_ELEM: Final = 3
PROG_LOAD: Final = 5
PROG_TEST_RUN: Final = 10
PROG_GET_NEXT_ID: Final = 11
PROG_GET_FD_BY_ID: Final = 13
OBJ_GET_INFO_BY_FD: Final = 15
RAW_TRACEPOINT_OPEN: Final = 17
BTF_GET_FD_BY_ID: Final = 19
MAP_LOOKUP_AND_DELETE_ELEM: Final = 21
BTF_GET_NEXT_ID: Final = 23
MAP_LOOKUP_BATCH: Final = 24
MAP_LOOKUP_AND_DELETE_BATCH: Final = 25
LINK_CREATE: Final = 28
ITER_CREATE: Final = 33

PROG_TYPE_CGROUP_SKB: Final = 8
PROG_TYPE_CGROUP_SOCK: Final = 9
PROG_TYPE_CGROUP_DEVICE: Final = 15
PROG_TYPE_RAW_TRACEPOINT: Final = 17
PROG_TYPE_CGROUP_SOCK_ADDR: Final = 18
PROG_TYPE_CGROUP_SYSCTL: Final = 23
PROG_TYPE_TRACING: Final = 26
TRACE_RAW_TP: Final = 23
TRACE_FENTRY: Final = 24
TRACE_FEXIT: Final = 25
TRACE_ITER: Final = 28

_libc: Final = ctypes.CDLL(None, use_errno=True)
_LOG_BYTES: Final = 1 << 24
_PROG_INFO_BYTES: Final = 216  # struct bpf_prog_info up to recursion_misses
_MAX_FUNCTIONS: Final = 256  # BPF_MAX_SUBPROGS


def _bpf(command: int, attr: bytearray) -> int:
    number = _SYS_BPF[platform.machine()]
    view = (ctypes.c_char * len(attr)).from_buffer(attr)
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(command), ctypes.byref(view), ctypes.c_long(len(attr))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(buffer: bytes | bytearray | ctypes.Array[ctypes.c_char]) -> int:
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    if isinstance(buffer, bytearray):
        return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    return ctypes.addressof(buffer)


def create_map(
    name: str,
    map_type: int,
    key_bytes: int,
    value_bytes: int,
    max_entries: int,
    flags: int,
    inner_fd: int,
) -> int:
    """Create a map and return its fd. Raises OSError."""
    attr = bytearray(72)
    struct.pack_into("<6I", attr, 0, map_type, key_bytes, value_bytes, max_entries, flags, inner_fd)
    attr[28:43] = name.encode()[:15].ljust(15, b"\0")
    return _bpf(MAP_CREATE, attr)


def map_info(map_fd: int) -> tuple[int, int, int, int, int]:
    """Return (type, key bytes, value bytes, max entries, flags) of a map."""
    info = bytearray(80)
    attr = bytearray(16)
    struct.pack_into("<IIQ", attr, 0, map_fd, len(info), _address(info))
    _bpf(OBJ_GET_INFO_BY_FD, attr)
    type_, _, *sizes = struct.unpack_from("<6I", info)
    return (type_, *sizes)


def load_program(
    code: bytes,
    program_type: int,
    name: str,
    attach_type: int = 0,
    attach_btf_id: int = 0,
    attach_btf_fd: int = 0,
) -> int:
    """Load BPF instructions and return the program's fd.

    Raises OSError whose message ends with the last lines of the verifier's log.
    """
    license_ = b"GPL\0"
    log = bytearray()
    for log_level in (0, 1):
        attr = bytearray(128)
        struct.pack_into(
            "<IIQQ", attr, 0, program_type, len(code) // 8, _address(code), _address(license_)
        )
        if log_level:
            # Until 121664093803 (v6.4) one that is too short ends before the reason.
            log = bytearray(_LOG_BYTES)
            struct.pack_into("<IIQ", attr, 24, log_level, len(log), _address(log))
        attr[48:63] = name.encode()[:15].ljust(15, b"\0")
        struct.pack_into("<I", attr, 68, attach_type)
        struct.pack_into("<II", attr, 108, attach_btf_id, attach_btf_fd)
        try:
            return _bpf(PROG_LOAD, attr)
        except OSError as error:
            # The log costs time, so it is asked for only when needed.
            if log_level:
                text = log.split(b"\0", 1)[0].decode(errors="replace")
                tail = " | ".join(text.strip().splitlines()[-4:])
                code_ = error.errno or errno.EINVAL
                raise OSError(code_, f"{error.strerror}: {tail}") from None
    raise AssertionError("unreachable")


def missed_runs(program_fd: int) -> int:
    """Return how often a program was not run because its CPU was in it already.

    It was preempted there. Counted since 9ed9e9ba2337 (v5.12); 0 before, when it ran all
    the same.
    """
    info = bytearray(_PROG_INFO_BYTES)
    _program_info(program_fd, info)
    # recursion_misses
    return int(struct.unpack_from("<Q", info, 208)[0])


@dataclass(frozen=True, slots=True)
class ProgramCode:
    """A loaded program: its type, its name (its tag if it has none) and ``(address, bytes)`` of
    each function's machine code, the main one first; none where addresses are kept secret.
    """

    type: int
    name: str
    functions: tuple[tuple[int, int], ...]


def program_id(program_fd: int) -> int:
    """Return the id of a program that is loaded."""
    info = bytearray(_PROG_INFO_BYTES)
    _program_info(program_fd, info)
    return int(struct.unpack_from("<I", info, 4)[0])


def program_ids(after: int = 0) -> Iterator[int]:
    """Yield the ids of all programs on this host above one. Raises OSError without the right to.

    That is CAP_SYS_ADMIN: CAP_BPF is for programs of one's own.
    """
    while True:
        attr = bytearray(16)
        struct.pack_into("<I", attr, 0, after)
        try:
            _bpf(PROG_GET_NEXT_ID, attr)
        except OSError as error:
            if error.errno == errno.ENOENT:  # there is no further one
                return
            raise
        after = struct.unpack_from("<I", attr, 4)[0]
        yield after


def program_exists(identifier: int) -> bool:
    """Return whether there is a program of this id."""
    fd = _program_fd(identifier)
    if fd is not None:
        os.close(fd)
    return fd is not None


def program_code(identifier: int) -> ProgramCode | None:
    """Return a program's name and where its machine code lies; None if it is gone."""
    fd = _program_fd(identifier)
    if fd is None:
        return None
    info = bytearray(_PROG_INFO_BYTES)
    addresses, lengths = bytearray(8 * _MAX_FUNCTIONS), bytearray(4 * _MAX_FUNCTIONS)
    struct.pack_into("<II", info, 104, _MAX_FUNCTIONS, _MAX_FUNCTIONS)
    struct.pack_into("<QQ", info, 112, _address(addresses), _address(lengths))
    try:
        _program_info(fd, info)
    finally:
        os.close(fd)
    # tag, name, nr_jited_ksyms, nr_jited_func_lens
    name = info[64:80].split(b"\0", 1)[0].decode(errors="replace") or info[8:16].hex()
    count = min(*struct.unpack_from("<II", info, 104), _MAX_FUNCTIONS)
    functions = zip(
        struct.unpack_from(f"<{count}Q", addresses),
        struct.unpack_from(f"<{count}I", lengths),
        strict=True,
    )
    type_ = struct.unpack_from("<I", info)[0]
    return ProgramCode(type_, name, tuple(one for one in functions if all(one)))


def _program_fd(identifier: int) -> int | None:
    attr = bytearray(16)
    struct.pack_into("<I", attr, 0, identifier)
    try:
        return _bpf(PROG_GET_FD_BY_ID, attr)
    except OSError:
        return None


def _program_info(program_fd: int, info: bytearray) -> None:
    """Fill in struct bpf_prog_info."""
    attr = bytearray(16)
    struct.pack_into("<IIQ", attr, 0, program_fd, len(info), _address(info))
    _bpf(OBJ_GET_INFO_BY_FD, attr)


def attach_raw_tracepoint(program_fd: int, name: str | None) -> int:
    """Attach to the raw tracepoint, or (name None) where a tracing program was loaded for.

    Returns the link's fd; closing it detaches.
    """
    text = name.encode() + b"\0" if name else b""
    attr = bytearray(16)
    struct.pack_into("<QI", attr, 0, _address(text) if name else 0, program_fd)
    return _bpf(RAW_TRACEPOINT_OPEN, attr)


def attach_iterator(program_fd: int) -> int:
    """Bind an iterator program to what it goes over; returns the link's fd."""
    attr = bytearray(48)
    struct.pack_into("<III", attr, 0, program_fd, 0, TRACE_ITER)
    return _bpf(LINK_CREATE, attr)


def run_iterator(link_fd: int) -> None:
    """Run an iterator program for everything it goes over."""
    fd = _bpf(ITER_CREATE, bytearray(struct.pack("<II", link_fd, 0)))
    try:
        while os.read(fd, mmap.PAGESIZE):
            pass
    finally:
        os.close(fd)


def run_raw_tracepoint(program_fd: int, arguments: tuple[int, ...]) -> int:
    """Run a raw tracepoint program once with these arguments; return its value.

    BPF_PROG_TEST_RUN for raw tracepoints: kernel commit 1b4d60ec162f (v5.10).
    """
    context = struct.pack(f"<{len(arguments)}Q", *arguments)
    attr = bytearray(80)
    struct.pack_into("<I", attr, 0, program_fd)
    struct.pack_into("<I", attr, 40, len(context))
    struct.pack_into("<Q", attr, 48, _address(context))
    _bpf(PROG_TEST_RUN, attr)
    value: int = struct.unpack_from("<i", attr, 4)[0]
    return value


def update(map_fd: int, key: bytes, value: bytes, *, only_new: bool = False) -> None:
    """Write one element; with ``only_new`` raise OSError (EEXIST) if it is there."""
    attr = bytearray(32)
    struct.pack_into("<IxxxxQQQ", attr, 0, map_fd, _address(key), _address(value), int(only_new))
    _bpf(MAP_UPDATE_ELEM, attr)


def lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """Return the value of one element, None if there is none."""
    value = bytearray(value_bytes)
    attr = bytearray(32)
    struct.pack_into("<IxxxxQQQ", attr, 0, map_fd, _address(key), _address(value), 0)
    try:
        _bpf(MAP_LOOKUP_ELEM, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return bytes(value)


def delete(map_fd: int, key: bytes) -> None:
    """Remove one element; one that is gone already is no error."""
    attr = bytearray(32)
    struct.pack_into("<IxxxxQ", attr, 0, map_fd, _address(key))
    try:
        _bpf(MAP_DELETE_ELEM, attr)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def push_all(map_fd: int, values: Iterable[bytes]) -> None:
    """Put values on a stack, the last one on top. They must have the size that it is for."""
    value, attr = bytearray(8), bytearray(32)
    struct.pack_into("<IxxxxQQQ", attr, 0, map_fd, 0, _address(value), 0)
    for each in values:
        value[: len(each)] = each
        _bpf(MAP_UPDATE_ELEM, attr)


def pop(map_fd: int, value_bytes: int) -> bytes | None:
    """Take the top off a stack; None if it is empty."""
    value = bytearray(value_bytes)
    attr = bytearray(32)
    struct.pack_into("<IxxxxQQQ", attr, 0, map_fd, 0, _address(value), 0)
    try:
        _bpf(MAP_LOOKUP_AND_DELETE_ELEM, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return bytes(value)


class BatchReader:
    """Reads a whole hash map in a few system calls, into buffers made once."""

    def __init__(self, map_fd: int, key_bytes: int, value_bytes: int, chunk: int = 512) -> None:
        self._fd = map_fd
        self._key_bytes = key_bytes
        self._value_bytes = value_bytes
        self._chunk = chunk
        self._keys = bytearray(key_bytes * chunk)
        self._values = bytearray(value_bytes * chunk)

    def read(self, *, delete: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield ``(key, value)`` of each element; with ``delete`` remove what is read."""
        for keys, values, count in self._chunks(delete):
            for i in range(count):
                yield (
                    bytes(keys[i * self._key_bytes : (i + 1) * self._key_bytes]),
                    bytes(values[i * self._value_bytes : (i + 1) * self._value_bytes]),
                )

    def _chunks(self, delete: bool) -> Iterator[tuple[bytearray, bytearray, int]]:
        command = MAP_LOOKUP_AND_DELETE_BATCH if delete else MAP_LOOKUP_BATCH
        cursor, first, done = bytearray(max(8, self._key_bytes)), True, False
        while not done:
            # in_batch and out_batch may be one buffer: the kernel copies in, then out.
            attr = bytearray(64)
            address = _address(cursor)
            struct.pack_into(
                "<QQQQII",
                attr,
                0,
                0 if first else address,
                address,
                _address(self._keys),
                _address(self._values),
                self._chunk,
                self._fd,
            )
            try:
                _bpf(command, attr)
            except OSError as error:
                if error.errno == errno.ENOSPC and self._chunk < 1 << 16:
                    # One hash bucket holds more than a chunk: larger buffers, same place.
                    self._chunk *= 2
                    self._keys = bytearray(self._key_bytes * self._chunk)
                    self._values = bytearray(self._value_bytes * self._chunk)
                    continue
                if error.errno != errno.ENOENT:
                    raise
                done = True
            first = False
            count: int = struct.unpack_from("<I", attr, 32)[0]
            if count:
                yield self._keys, self._values, count


class RingReader:
    """Consumer of a BPF ring buffer, by the protocol of kernel/bpf/ringbuf.c.

    Page 0 holds the consumer's position, page 1 the producer's, then the data,
    mapped twice so that a record never wraps.
    """

    _BUSY: Final = 1 << 31
    _DISCARD: Final = 1 << 30

    def __init__(self, map_fd: int, data_bytes: int) -> None:
        page = mmap.PAGESIZE
        self._mask = data_bytes - 1
        self._consumer = mmap.mmap(map_fd, page, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(map_fd, page + 2 * data_bytes, prot=mmap.PROT_READ, offset=page)
        self._data = page

    @property
    def used(self) -> float:
        """How full it is, 0 to 1."""
        written: int = struct.unpack_from("<Q", self._producer)[0]
        read: int = struct.unpack_from("<Q", self._consumer)[0]
        return (written - read) / (self._mask + 1)

    def read(self) -> Iterator[bytes]:
        """Yield the records that are there now."""
        position = struct.unpack_from("<Q", self._consumer)[0]
        while position < struct.unpack_from("<Q", self._producer)[0]:
            offset = self._data + (position & self._mask)
            header = struct.unpack_from("<I", self._producer, offset)[0]
            if header & self._BUSY:
                return
            length = header & ~(self._BUSY | self._DISCARD)
            if not header & self._DISCARD:
                yield self._producer[offset + 8 : offset + 8 + length]
            position += (length + 8 + 7) & ~7
            struct.pack_into("<Q", self._consumer, 0, position)


def module_btf_fd(module: str) -> int:
    """Return an fd of the kernel's BTF object of a module. Raises OSError if it has none."""
    identifier = 0
    while True:
        attr = bytearray(16)
        struct.pack_into("<I", attr, 0, identifier)
        _bpf(BTF_GET_NEXT_ID, attr)
        identifier = struct.unpack_from("<I", attr, 4)[0]
        attr = bytearray(16)
        struct.pack_into("<I", attr, 0, identifier)
        fd = _bpf(BTF_GET_FD_BY_ID, attr)
        if _btf_name(fd) == module:
            return fd
        os.close(fd)


def _btf_name(fd: int) -> str:
    name = bytearray(64)
    info = bytearray(32)
    struct.pack_into("<QI", info, 16, _address(name), len(name))
    attr = bytearray(16)
    struct.pack_into("<IIQ", attr, 0, fd, len(info), _address(info))
    _bpf(OBJ_GET_INFO_BY_FD, attr)
    return name.split(b"\0", 1)[0].decode(errors="replace")
