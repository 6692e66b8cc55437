"""Whose message a thread waits for, by kernel memory laid out by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from kernel_memory import FakeMemory

from tracer.kernel import awaited
from tracer.kernel.awaited import Awaited, Process

READ, WRITE, RECVFROM, POLL = 0, 1, 45, 7
SOCKET, PIPE, ORDINARY = 0xFFFF_0001, 0xFFFF_0002, 0xFFFF_0003
SYMBOLS = {"socket_file_ops": SOCKET, "pipefifo_fops": PIPE}


class Machine:
    """Processes with descriptors; the first one's thread sleeps in a system call."""

    def __init__(self) -> None:
        self.memory = FakeMemory()
        # All three are of one struct.
        self.memory.layout["OFF_sock_common__skc_family"] = 0x10
        self.memory.layout["OFF_sock__sk_socket"] = 0x270
        self.memory.layout["OFF_unix_sock__peer"] = 0x300
        self.memory.layout["OFF_sock_common__skc_addrpair"] = 0x0
        self.memory.layout["OFF_sock_common__skc_portpair"] = 0xC
        self.memory.layout["OFF_sock_common__skc_net"] = 0x30
        self.tasks: dict[int, int] = {}
        for pid in (1, 402, 500, 501):
            self._add(pid)
        self.memory.current = self.tasks[1]

    def _add(self, pid: int) -> None:
        memory, task = self.memory, self.memory.struct()
        self.tasks[pid] = task
        memory.put(task, "task_struct.pid", pid, 4)
        memory.put(task, "task_struct.group_leader", task)
        memory.put(task, "task_struct.start_boottime", pid * 10**9)
        first, *others = self.tasks.values()
        link = memory.offset("task_struct.tasks")
        memory.link(first + link, [other + link for other in others])

    def opens(self, pid: int, *files: int) -> None:
        """Give a process these descriptors, from 0 on; 0 is none."""
        memory = self.memory
        own, table, array = (memory.struct() for _ in range(3))
        memory.put(self.tasks[pid], "task_struct.files", own)
        memory.put(own, "files_struct.fdt", table)
        memory.put(table, "fdtable.fd", array)
        memory.put(table, "fdtable.max_fds", 64, 4)
        for at in range(64):
            memory.put(array + 8 * at, None, files[at] if at < len(files) else 0)

    def sleeps(self, call: int, *arguments: int, padding: int = 0, cs: int = 0x33) -> None:
        stack = self.memory.struct()
        self.memory.put(self.tasks[402], "task_struct.stack", stack)
        registers = [0] * 21
        for at, argument in zip((14, 13, 12), arguments, strict=False):
            registers[at] = argument
        registers[15], registers[17], registers[20] = call, cs, 0x2B
        self.memory.write(stack + 16384 - padding - 168, struct.pack("<21Q", *registers))

    def polls(self, file: int, timeout_ms: int, descriptors: int = 1) -> None:
        """Have the thread wait in the queue of a socket or pipe, as poll has it."""
        memory = self.memory
        own = memory.u64(file, "file.private_data") or 0
        places = ["pipe_inode_info.rd_wait"]
        if memory.u64(file, "file.f_op") == SOCKET:
            places = ["socket.wq", "socket_wq.wait"]
        poller, entry = memory.struct(), memory.struct()
        memory.put(poller, "poll_wqueues.polling_task", self.tasks[402])
        memory.put(entry, "wait_queue_entry.private", poller)
        memory.link(
            own + sum(map(memory.offset, (*places, "wait_queue_head.head"))),
            [entry + memory.offset("wait_queue_entry.entry")],
        )
        self.sleeps(POLL, 0x7FFD0000, descriptors, timeout_ms & 0xFFFFFFFF)

    def file(self, kind: int, private: int, mode: int = 3) -> int:
        memory, file = self.memory, self.memory.struct()
        memory.put(file, "file.f_op", kind)
        memory.put(file, "file.f_mode", mode, 4)
        memory.put(file, "file.private_data", private)
        return file

    def tcp(self, family: int = 2, nets: tuple[int, int] = (7, 7)) -> tuple[int, int]:
        """Two connected sockets of the loopback, as struct file."""
        files = self.sockets(family)
        ends = [(0x7F000001, 40000), (0x7F000002, 3310)]
        for file, net in zip(files, nets, strict=True):
            (own, own_port), (peer, peer_port) = ends
            socket = self.memory.u64(file, "file.private_data") or 0
            sock = self.memory.u64(socket, "socket.sk") or 0
            self.memory.write(sock, struct.pack(">II", peer, own))
            self.memory.write(sock + 0xC, struct.pack(">H", peer_port))
            self.memory.write(sock + 0xE, struct.pack("<H", own_port))
            self.memory.put(sock, "sock_common.skc_net", net)
            ends.reverse()
        return files

    def sockets(self, family: int = 1) -> tuple[int, int]:
        """Two connected sockets, as struct file."""
        memory = self.memory
        files, socks = [], [memory.struct(), memory.struct()]
        for sock, peer in zip(socks, reversed(socks), strict=True):
            socket = memory.struct()
            file = self.file(SOCKET, socket)
            memory.put(socket, "socket.sk", sock)
            memory.put(socket, "socket.file", file)
            memory.put(sock, "sock.sk_socket", socket)
            memory.put(sock, "sock_common.skc_family", family, 2)
            memory.put(sock, "unix_sock.peer", peer)
            files.append(file)
        return files[0], files[1]

    def pipe(self) -> tuple[int, int]:
        """The end to read from, and the one to write to."""
        pipe = self.memory.struct()
        return self.file(PIPE, pipe, 1), self.file(PIPE, pipe, 2)

    def by(self) -> Process | None:
        return Awaited(self.memory, SYMBOLS).by(402, 402)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("padding", [0, 16])
@pytest.mark.parametrize("pair", [Machine.sockets, Machine.tcp, Machine.pipe])
def test_who_has_the_other_end(
    machine: Machine, pair: Callable[[Machine], tuple[int, int]], padding: int
) -> None:
    ours, theirs = pair(machine)
    machine.opens(402, machine.file(ORDINARY, 0), 0, ours)
    machine.opens(500, 0, theirs)
    machine.sleeps(RECVFROM, 2, padding=padding)
    assert machine.by() == Process(500, 500 * 10**9)


@pytest.mark.parametrize("pair", [Machine.sockets, Machine.tcp, Machine.pipe])
@pytest.mark.parametrize(
    ("timeout_ms", "descriptors", "found"), [(-1, 1, True), (60_000, 1, False), (-1, 2, False)]
)
def test_a_poll_of_one_without_an_end_is_a_read(
    machine: Machine,
    pair: Callable[[Machine], tuple[int, int]],
    timeout_ms: int,
    descriptors: int,
    found: bool,
) -> None:
    ours, theirs = pair(machine)
    machine.opens(402, machine.file(ORDINARY, 0), machine.sockets()[0], ours)
    machine.opens(500, theirs)
    machine.polls(ours, timeout_ms, descriptors)
    assert machine.by() == (Process(500, 500 * 10**9) if found else None)


def test_of_several_that_have_it_nobody_knows_which(machine: Machine) -> None:
    ours, theirs = machine.sockets()
    machine.opens(402, ours)
    machine.opens(500, theirs)
    machine.opens(501, theirs)
    machine.sleeps(READ, 0)
    assert machine.by() is None


def test_what_was_inherited_is_not_the_others(machine: Machine) -> None:
    """A parent that keeps its child's end open, as careless ones do."""
    ours, theirs = machine.sockets()
    machine.opens(402, ours, theirs)
    machine.opens(500, 0, theirs)
    machine.sleeps(READ, 0)
    assert machine.by() == Process(500, 500 * 10**9)


def test_who_only_reads_a_pipe_writes_nothing(machine: Machine) -> None:
    ours, _ = machine.pipe()
    machine.opens(402, ours)
    machine.opens(500, ours)
    machine.sleeps(READ, 0)
    assert machine.by() is None


@pytest.mark.parametrize("call", [WRITE, POLL])
def test_who_does_something_else_waits_for_no_message(machine: Machine, call: int) -> None:
    ours, theirs = machine.sockets()
    machine.opens(402, ours)
    machine.opens(500, theirs)
    machine.sleeps(call, 0)
    assert machine.by() is None


def test_nothing_is_made_of_what_makes_no_sense(machine: Machine) -> None:
    ours, theirs = machine.sockets()
    machine.opens(402, ours, machine.file(ORDINARY, 0))
    machine.opens(500, theirs)
    for call, descriptor, cs in ((READ, 0, 0x23), (READ, 0, 0), (READ, 1, 0x33), (READ, 99, 0x33)):
        machine.sleeps(call, descriptor, cs=cs)
        assert machine.by() is None
    assert Awaited(machine.memory, SYMBOLS).by(77, 77) is None
    assert Awaited(machine.memory, {}).by(402, 402) is None


def test_other_hosts_sockets_lead_nowhere(machine: Machine) -> None:
    ours, _ = machine.tcp()
    theirs, _ = machine.tcp()
    machine.opens(402, ours)
    machine.opens(500, theirs)
    machine.sleeps(READ, 0)
    assert machine.by() is None


@pytest.mark.parametrize(("family", "nets"), [(2, (7, 8)), (16, (7, 7))])
def test_what_looks_like_the_other_end(
    machine: Machine, family: int, nets: tuple[int, int]
) -> None:
    """Of another network namespace, or netlink's."""
    ours, theirs = machine.tcp(family, nets)
    machine.opens(402, ours)
    machine.opens(500, theirs)
    machine.sleeps(READ, 0)
    assert machine.by() is None


def test_all_that_is_looked_up_is_asked_for() -> None:
    assert set(awaited.SYMBOLS) == SYMBOLS.keys()
