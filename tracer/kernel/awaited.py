"""Whose message a thread waits for that has not come: who has the other end of its socket or pipe.

A wait that has ended tells by its waker whom it was for. For one that lasts, the system call's
descriptor is looked at: that is proof, where who answered earlier is not. A poll of one descriptor
without an end is a read, too; any other may be a pause. Sockets are those of the unix domain, and
of TCP over IPv4 within one network namespace.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tracer.kernel import tasks
from tracer.kernel.memory import KernelMemory

# What has to be found in the kernel's symbols: of which kind a struct file is.
SYMBOLS: Final = ("socket_file_ops", "pipefifo_fops")

_FIELDS: Final = (
    "task_struct.stack",
    "file.f_op",
    "file.f_mode",
    "file.private_data",
    "socket.sk",
    "socket.file",
    "sock.sk_socket",
    "sock_common.skc_family",
    "sock_common.skc_net",
    "sock_common.skc_addrpair",
    "sock_common.skc_portpair",
    "unix_sock.peer",
    "socket.wq",
    "socket_wq.wait",
    "pipe_inode_info.rd_wait",
    "wait_queue_head.head",
    "wait_queue_entry.entry",
    "wait_queue_entry.private",
    "poll_wqueues.polling_task",
)
# read, readv, recvfrom, recvmsg, recvmmsg, poll: arch/x86/entry/syscalls/syscall_64.tbl
_READS: Final = frozenset({0, 19, 45, 47, 299})
_POLL: Final = 7
_MOST_WAITING: Final = 1 << 10
_THREAD_BYTES: Final = 16384
# TOP_OF_KERNEL_STACK_PADDING: 16 where the kernel knows FRED, since v6.9.
_PADDINGS: Final = (0, 16)
# struct pt_regs of x86-64: where in it stand the arguments, the number of the call, and the two
# selectors by which it is known that it is one.
_REGISTERS: Final = struct.Struct("<21Q")
_NO_REGISTERS: Final = bytes(_REGISTERS.size)
_DX, _SI, _DI, _ORIG_AX, _CS, _SS = 12, 13, 14, 15, 17, 20
_USER_CS, _USER_SS = 0x33, 0x2B
_AF_UNIX: Final = 1
_AF_INETS: Final = frozenset({2, 10})  # IPv4, and as IPv6 writes it
_FMODE_WRITE: Final = 2


class Process(NamedTuple):
    """A process as records have it."""

    pid: int
    start_ns: int


class _Connection(NamedTuple):
    """One end's view of a TCP connection, its network namespace's address first."""

    net: int | None
    own: int
    own_port: int
    peer: int
    peer_port: int

    def turned(self) -> _Connection:
        """Return the other end's."""
        return _Connection(self.net, self.peer, self.peer_port, self.own, self.own_port)


class Awaited:
    """Finds whom threads wait for that read what does not come."""

    def __init__(self, memory: KernelMemory, symbols: Mapping[str, int]) -> None:
        """``symbols``: the addresses of SYMBOLS."""
        self._memory = memory
        self._symbols = symbols
        self._can_look = memory.knows(*_FIELDS) and symbols.keys() >= set(SYMBOLS)

    def by(self, pid: int, tid: int) -> Process | None:
        """Return the one process at the other end, None if there is none, or more, or it reads not.

        ``pid``: the thread's process, which has its own end open, and perhaps the other one.
        """
        file = self._read_by(pid, tid) if self._can_look else None
        is_other_end = self._other_end(file) if file else None
        if is_other_end is None:
            return None
        others = [
            Process(number, tasks.start_ns(self._memory, task))
            for number, task in tasks.walk(self._memory)
            if number != pid and any(map(is_other_end, tasks.files(self._memory, task)))
        ]
        return others[0] if len(others) == 1 else None

    def _read_by(self, pid: int, tid: int) -> int | None:
        """Return the struct file that a sleeping thread reads from."""
        memory = self._memory
        leader = next((task for number, task in tasks.walk(memory) if number == pid), None)
        task = tasks.thread(memory, leader, tid) if leader else None
        stack = memory.u64(task, "task_struct.stack") if task else None
        registers = self._registers(stack) if stack else None
        if not task or not registers:
            return None
        if registers[_ORIG_AX] in _READS:
            return tasks.file(memory, task, registers[_DI] & 0xFFFFFFFF)
        # int poll(struct pollfd *, unsigned int, int timeout): below 0 is without an end.
        if (registers[_ORIG_AX], registers[_SI]) == (_POLL, 1) and registers[_DX] & 0x80000000:
            polled = (file for file in tasks.files(memory, task) if self._is_polled(file, task))
            return next(polled, None)
        return None

    def _registers(self, stack: int) -> tuple[int, ...] | None:
        """Return those of a thread's system call, given the lowest address of its kernel stack."""
        for padding in _PADDINGS:
            at = stack + _THREAD_BYTES - padding - _REGISTERS.size
            registers = _REGISTERS.unpack(self._memory.read(at, _REGISTERS.size) or _NO_REGISTERS)
            if (registers[_CS] & 0xFFFF, registers[_SS] & 0xFFFF) == (_USER_CS, _USER_SS):
                return registers
        return None

    def _is_polled(self, file: int, task: int) -> bool:
        """Return whether a thread that polls stands in the wait queue of a socket or pipe."""
        memory = self._memory
        kind, own = memory.u64(file, "file.f_op"), memory.u64(file, "file.private_data")
        places = {
            self._symbols["socket_file_ops"]: ("socket.wq", "socket_wq.wait"),
            self._symbols["pipefifo_fops"]: ("pipe_inode_info.rd_wait",),
        }
        if not own or kind not in places:
            return False
        head = own + sum(map(memory.offset, (*places[kind], "wait_queue_head.head")))
        link = memory.offset("wait_queue_entry.entry")
        pollers = (
            memory.u64(entry, "wait_queue_entry.private")
            for entry in memory.list(head, link, _MOST_WAITING)
        )
        return any(
            memory.u64(poller, "poll_wqueues.polling_task") == task for poller in pollers if poller
        )

    def _other_end(self, file: int) -> Callable[[int], bool] | None:
        """Return what tells of a struct file whether it is the other end of one that is read."""
        memory = self._memory
        kind = memory.u64(file, "file.f_op")
        if kind == self._symbols["socket_file_ops"]:
            return self._other_socket(file)
        if kind != self._symbols["pipefifo_fops"]:
            return None
        pipe = memory.u64(file, "file.private_data")

        def writes(other: int) -> bool:
            return (
                memory.u64(other, "file.f_op") == kind
                and memory.u64(other, "file.private_data") == pipe
                and bool((memory.u32(other, "file.f_mode") or 0) & _FMODE_WRITE)
            )

        return writes

    def _other_socket(self, file: int) -> Callable[[int], bool] | None:
        """Return the same of a socket."""
        memory = self._memory
        sock = self._sock(file)
        family = self._family(sock) if sock else None
        if sock and family == _AF_UNIX:
            at = memory.u64(sock, "unix_sock.peer")
            for link in ("sock.sk_socket", "socket.file"):
                at = memory.u64(at, link) if at else None
            return at.__eq__ if at else None
        connection = self._connection(sock) if sock and family in _AF_INETS else None
        if connection is None:
            return None

        def faces(other: int) -> bool:
            its = self._sock(other) if memory.u64(other, "file.f_op") == kind else None
            found = self._connection(its) if its and self._family(its) in _AF_INETS else None
            return found == connection.turned()

        kind = self._symbols["socket_file_ops"]
        return faces

    def _sock(self, file: int) -> int | None:
        """Return the struct sock of a struct file that is a socket."""
        socket = self._memory.u64(file, "file.private_data")
        return self._memory.u64(socket, "socket.sk") or None if socket else None

    def _family(self, sock: int) -> int | None:
        data = self._memory.read(sock + self._memory.offset("sock_common.skc_family"), 2)
        return int.from_bytes(data, "little") if data else None

    def _connection(self, sock: int) -> _Connection | None:
        """Return between which addresses and ports a socket is, None if it is not connected."""
        memory = self._memory
        addresses = memory.read(sock + memory.offset("sock_common.skc_addrpair"), 8)
        ports = memory.read(sock + memory.offset("sock_common.skc_portpair"), 4)
        if not addresses or not ports:
            return None
        peer, own = struct.unpack("<II", addresses)
        # skc_dport is in the network's order, skc_num in the host's.
        peer_port, own_port = *struct.unpack_from(">H", ports), *struct.unpack_from("<H", ports, 2)
        net = memory.u64(sock, "sock_common.skc_net")
        return _Connection(net, own, own_port, peer, peer_port) if peer and peer_port else None
