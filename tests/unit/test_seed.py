"""What was stuck before recording, found in a kernel memory laid out by hand."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_memory import FakeMemory

from tracer import calls, queued_packets, seed
from tracer.kernel import bpf, tasks
from tracer.procfs.symbols import extents_of
from tracer.records import (
    ASKED,
    NO_STACK,
    OP_ANSWER,
    OP_BEGIN_UNKNOWN,
    SIDE_CLIENT,
    SIDE_SERVER,
    HeldRec,
    OpRec,
    RpcRec,
)

# fdinfo as Linux 6.1 prints it.
FILESYSTEM_MARK = (
    "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1041\nfanotify flags:4 event-flags:8000\n"
    "fanotify sdev:fe00001 mflags:0 mask:30000 ignored_mask:0\n"
)
INODE_MARK = (
    "fanotify ino:4f969 sdev:800013 mflags:0 mask:10000 ignored_mask:0 "
    "fhandle-bytes:8 fhandle-type:1 f_handle:69f90400c275b5b4\n"
)
NOTIFY_ONLY = (
    "pos:\t0\nfanotify flags:10 event-flags:0\n"
    "fanotify mnt_id:1c mflags:0 mask:8000003b ignored_mask:40000000\n"
)


class Host:
    """A kernel with some tasks, and the /proc that belongs to it."""

    def __init__(self, proc: Path) -> None:
        self.memory = FakeMemory()
        self.proc = proc
        self.tasks: dict[int, int] = {}
        self.now_ns = time.monotonic_ns()
        self.add_task(1, "systemd")
        self.memory.current = self.tasks[1]

    def add_task(self, pid: int, comm: str, slept_s: float = 0.0) -> int:
        memory, task = self.memory, self.memory.struct()
        self.tasks[pid] = task
        for field in ("pid", "tgid"):
            memory.put(task, f"task_struct.{field}", pid, 4)
        memory.put(task, "task_struct.comm", comm.encode().ljust(16, b"\0"))
        memory.put(task, "task_struct.group_leader", task)
        memory.put(task, "task_struct.start_boottime", pid * 10**9)
        memory.put(task, "task_struct.mm", memory.struct())
        self.ran(task, slept_s)
        first, *others = self.tasks.values()
        link = memory.offset("task_struct.tasks")
        memory.link(first + link, [other + link for other in others])
        return task

    def ran(self, task: int, ago_s: float) -> None:
        """Say when a task last ran; the scheduler's clock is ours here."""
        at = self.memory.offset("task_struct.se") + self.memory.offset("sched_entity.exec_start")
        self.memory.put(task + at, None, self.now_ns - int(ago_s * 1e9))

    def in_proc(self, pid: int, stack: list[str], state: str = "D", comm: str = "x") -> None:
        lines = [f"[<0>] {name}+0x1a/0x2b0" for name in stack]
        thread = self.proc / str(pid) / "task" / str(pid)
        thread.mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "stack").write_text("\n".join(lines) + "\n")
        (thread / "stat").write_bytes(f"{pid} ({comm}) {state} 1 1".encode("latin-1"))

    def nfsd(self, pid: int, begun_s: float, xid: int = 0x12345678) -> tuple[int, int]:
        """Add an nfsd thread inside a request; return its task and its svc_rqst."""
        memory = self.memory
        task = self.add_task(pid, "nfsd", slept_s=begun_s)
        kthread, rqst, procedure = memory.struct(), memory.struct(), memory.struct()
        memory.put(task, "task_struct.worker_private", kthread)
        memory.put(kthread, "kthread.data", rqst)
        memory.put(rqst, "svc_rqst.rq_stime", self.now_ns - int(begun_s * 1e9))
        memory.put(rqst, "svc_rqst.rq_xid", struct.pack(">I", xid))
        address = struct.pack("<HH", socket.AF_INET, 0) + socket.inet_aton("10.9.0.2")
        memory.put(rqst, "svc_rqst.rq_addr", address.ljust(28, b"\0"))
        memory.put(rqst, "svc_rqst.rq_procinfo", procedure)
        memory.put(procedure, "svc_procedure.pc_name", memory.string("COMPOUND"))
        self.in_proc(
            pid, ["fanotify_get_response", "do_dentry_open", "nfsd_dispatch", "svc_process"]
        )
        return task, rqst

    def compound(self, rqst: int, names: list[str], running: int) -> int:
        memory = self.memory
        arguments, result, ops = memory.struct(), memory.struct(), memory.struct()
        memory.put(rqst, "svc_rqst.rq_argp", arguments)
        memory.put(rqst, "svc_rqst.rq_resp", result)
        memory.put(arguments, "nfsd4_compoundargs.ops", ops)
        memory.put(arguments, "nfsd4_compoundargs.opcnt", len(names), 4)
        memory.put(result, "nfsd4_compoundres.opcnt", running, 4)
        for index, name in enumerate(names):
            description = memory.struct()
            memory.put(ops + index * memory.size("nfsd4_op"), "nfsd4_op.opdesc", description)
            memory.put(description, "nfsd4_operation.op_name", memory.string(name))
        return ops

    def listener(self, pid: int, fd: int, waiting: list[int], fdinfo: str = FILESYSTEM_MARK) -> int:
        """Give a process a fanotify descriptor; return the group."""
        memory, task = self.memory, self.tasks[pid]
        files, table, array, file, group = (memory.struct() for _ in range(5))
        memory.put(task, "task_struct.files", files)
        memory.put(files, "files_struct.fdt", table)
        memory.put(table, "fdtable.fd", array)
        memory.put(table, "fdtable.max_fds", 64, 4)
        memory.put(array + 8 * fd, None, file)
        memory.put(file, "file.private_data", group)
        head = (
            group
            + memory.offset("fsnotify_group.fanotify_data")
            + memory.offset("fanotify_group_private_data.access_waitq")
            + memory.offset("wait_queue_head.head")
        )
        entries = []
        for waiter in waiting:
            entry = memory.struct()
            memory.put(entry, "wait_queue_entry.private", waiter)
            entries.append(entry + memory.offset("wait_queue_entry.entry"))
        memory.link(head, entries)
        fd_file(self.proc, pid, fd, "anon_inode:[fanotify]", fdinfo)
        return group

    def look(self, *sides: str) -> seed.Found:
        extents = extents_of(seed.SYMBOLS, self.proc)
        symbols = {name: extent.begin for name, extent in extents.items()}
        return seed.Seeder(self.memory, list(sides), symbols, self.proc).look()


def fd_file(proc: Path, pid: int, fd: int, target: str, fdinfo: str | bytes) -> None:
    for folder in ("fd", "fdinfo"):
        (proc / str(pid) / folder).mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "fd" / str(fd)).symlink_to(target)
    data = fdinfo.encode() if isinstance(fdinfo, str) else fdinfo
    (proc / str(pid) / "fdinfo" / str(fd)).write_bytes(data)


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    return Host(tmp_path)


# Texts of /proc


def test_permission_marks_of_real_fdinfo() -> None:
    mark = "fanotify sdev:fe00001 mflags:0 mask:30000 ignored_mask:0"
    assert seed.permission_marks(FILESYSTEM_MARK) == mark
    assert seed.permission_marks(FILESYSTEM_MARK + INODE_MARK).splitlines() == [
        mark,
        INODE_MARK.strip(),
    ]
    assert seed.permission_marks(NOTIFY_ONLY) == ""


@pytest.mark.parametrize("mask", ["10000", "20000", "40000", "100000", "8010020"])
def test_every_permission_event_counts(mask: str) -> None:
    assert seed.permission_marks(f"fanotify mnt_id:1c mflags:0 mask:{mask} ignored_mask:0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mask:10000",  # of no mark
        "inotify wd:1 ino:9e7e sdev:800013 mask:10000 ignored_mask:0",
        "fanotify flags:4 event-flags:10000",
        "fanotify ino:1 ignored_mask:10000 mask:0",
        "fanotify",
    ],
)
def test_what_is_no_permission_mark(text: str) -> None:
    assert seed.permission_marks(text) == ""


@given(st.text(alphabet="fanotify mask:10x\n\0:", max_size=60))
def test_hostile_fdinfo_is_a_value_error_at_worst(text: str) -> None:
    try:
        for line in seed.permission_marks(text).splitlines():
            assert line.startswith("fanotify ")
    except ValueError:
        pass


def test_listeners_are_found_among_others_and_garbage(tmp_path: Path) -> None:
    fd_file(tmp_path, 640, 3, "socket:[1]", FILESYSTEM_MARK)
    fd_file(tmp_path, 640, 4, "anon_inode:[fanotify]", FILESYSTEM_MARK)
    fd_file(tmp_path, 640, 5, "anon_inode:[fanotify]", NOTIFY_ONLY)
    fd_file(tmp_path, 640, 6, "anon_inode:[fanotify]", "fanotify mask:zebra\n")
    fd_file(tmp_path, 640, 7, "anon_inode:[fanotify]", b"fanotify mask:10000 \xff\xfe\n")
    (tmp_path / "641").mkdir()  # ended, or not ours to read
    (tmp_path / "meminfo").write_text("")
    assert [(found.pid, found.fd) for found in seed.permission_listeners(tmp_path)] == [(640, 4)]


def test_a_descriptor_that_closes_meanwhile_does_not_hide_the_others(tmp_path: Path) -> None:
    """A scanner gets a descriptor with every event: some are gone when we look at them."""
    fd_file(tmp_path, 640, 4, "anon_inode:[fanotify]", FILESYSTEM_MARK)
    for fd in (3, 5):  # listed, but no link any more
        (tmp_path / "640/fd" / str(fd)).write_text("")
    fd_file(tmp_path, 640, 6, "anon_inode:[fanotify]", "")
    (tmp_path / "640/fdinfo/6").unlink()
    assert [found.fd for found in seed.permission_listeners(tmp_path)] == [4]


def test_threads_that_sleep_uninterruptibly_whatever_their_names(tmp_path: Path) -> None:
    names = [(10, b"redis-server", b"D"), (11, b"a) D (b", b"S"), (12, b") S 1 (", b"D"),
             (13, b"\xff\xfe)", b"D"), (14, b"run", b"R")]  # fmt: skip
    for tid, comm, state in names:
        thread = tmp_path / "10" / "task" / str(tid)
        thread.mkdir(parents=True)
        (thread / "stat").write_bytes(b"%d (%s) %s 1 1 0" % (tid, comm, state))
    (tmp_path / "10/task/15").mkdir()  # ended between two reads
    (tmp_path / "10/task/16").mkdir()
    (tmp_path / "10/task/16/stat").write_bytes(b"")
    (tmp_path / "20").mkdir()
    (tmp_path / "self").mkdir()
    found = sorted(seed.sleeping_threads(tmp_path))
    assert found == [(10, 10), (10, 12), (10, 13)]


# A listener that has an event in hand


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("hangs", [True, False])
@pytest.mark.parametrize("state", [0, 1])
def test_a_listener_is_watched_if_it_sleeps_and_is_sure_to_be_asked(
    machine: Host, threads: int, read: bool, hangs: bool, state: int
) -> None:
    memory, agent = machine.memory, machine.add_task(640, "qaxsafed", slept_s=20)
    memory.put(agent, "task_struct.state", state, 4)
    signal = memory.struct()
    memory.put(agent, "task_struct.signal", signal)
    node = memory.offset("task_struct.thread_node")
    memory.link(
        signal + memory.offset("signal_struct.thread_head"),
        [agent + node, memory.struct() + node][:threads],
    )
    group = machine.listener(640, 5, [machine.nfsd(200, begun_s=20)[0]] if hangs else [])
    memory.layout["OFF_fanotify_group_private_data__access_list"] = 0x100
    head = group + memory.offset("fsnotify_group.fanotify_data") + 0x100
    memory.link(head, [memory.struct()] if read else [])
    threads_found = machine.look("server").threads
    assert (640 in threads_found) == (threads == 1 and read and hangs and state == 1)
    if 640 in threads_found:
        op = threads_found[640]
        assert (calls.name(op.op), op.active, op.watched) == ("answer", 0, ASKED | 1)
        assert (op.flags, op.begin_ns) == (OP_ANSWER | OP_BEGIN_UNKNOWN, op.off_ns)


# The server


def test_a_stuck_nfsd_thread_is_an_operation_in_flight(machine: Host) -> None:
    machine.add_task(640, "qaxsafed")
    task, rqst = machine.nfsd(200, begun_s=30)
    ops = machine.compound(rqst, ["PUTFH", "OPEN", "GETFH"], running=2)
    group = machine.listener(640, 5, [task])
    found = machine.look("server")

    op = found.threads[200]
    assert (op.side, op.active, op.tid, op.xid) == (SIDE_SERVER, 1, 200, 0x12345678)
    assert op.op_id > seed.FIRST_ID
    assert op.begin_ns == machine.now_ns - 30 * 10**9
    assert op.off_ns >= op.begin_ns
    assert bytes(op.peer) == socket.inet_pton(socket.AF_INET6, "::ffff:10.9.0.2")
    assert machine.memory.text(op.op) == "COMPOUND"
    assert machine.memory.text(op.nfs_op) == "OPEN"
    assert (op.ops, op.group, op.comm) == (ops, group, b"nfsd")
    assert op.off_stack == NO_STACK
    assert found.marks == [
        {
            "pid": 640,
            "start_ns": 640 * 10**9,
            "group": group,
            "marks": "fanotify sdev:fe00001 mflags:0 mask:30000 ignored_mask:0",
            "blocked": 1,
        }
    ]


def test_an_idle_thread_is_none(machine: Host) -> None:
    machine.nfsd(200, begun_s=30)
    machine.in_proc(200, ["svc_get_next_xprt", "svc_recv", "nfsd", "kthread"], state="I")
    assert machine.look("server").threads == {}


def test_a_process_that_calls_itself_nfsd_is_none(machine: Host) -> None:
    machine.add_task(300, "nfsd", slept_s=5)
    machine.in_proc(300, ["futex_wait", "do_syscall_64"])
    assert machine.look("server").threads == {}
    # Nor is one whose stack could be taken for one, but that has no request.
    machine.in_proc(300, ["svc_process"])
    assert machine.look("server").threads == {}


@pytest.mark.parametrize("begun_s", [-100.0, None])
def test_a_request_that_makes_no_sense_is_none(machine: Host, begun_s: float | None) -> None:
    _, rqst = machine.nfsd(200, begun_s=1)
    begin = 0 if begun_s is None else machine.now_ns - int(begun_s * 1e9)
    machine.memory.put(rqst, "svc_rqst.rq_stime", begin)
    assert machine.look("server").threads == {}


def test_a_thread_that_ran_meanwhile_is_not_taken(machine: Host) -> None:
    task, rqst = machine.nfsd(200, begun_s=30)
    machine.nfsd(201, begun_s=20)
    stime = rqst + machine.memory.offset("svc_rqst.rq_stime")

    def run_now(address: int) -> None:
        if address == stime:
            machine.ran(task, 0)

    machine.memory.on_read = run_now
    assert set(machine.look("server").threads) == {201}


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("known", [True, False])
def test_the_file_that_a_request_is_about(machine: Host, version: int, known: bool) -> None:
    memory = machine.memory
    _, rqst = machine.nfsd(200, begun_s=30)
    if version == 4:
        machine.compound(rqst, ["PUTFH", "WRITE"], running=2)
        result = memory.u64(rqst, "svc_rqst.rq_resp") or 0
        handle = result + memory.offset("nfsd4_compoundres.cstate")
        handle += memory.offset("nfsd4_compound_state.current_fh")
    else:
        procedure, result = memory.struct(), memory.struct()
        memory.put(rqst, "svc_rqst.rq_procinfo", procedure)
        memory.put(procedure, "svc_procedure.pc_name", memory.string("WRITE"))
        memory.put(rqst, "svc_rqst.rq_resp", result)
        handle = result + memory.offset("nfsd3_attrstat.fh")
    dentry, inode, filesystem = (memory.struct() for _ in range(3))
    memory.put(handle, "svc_fh.fh_dentry", dentry if known else 0)
    memory.put(dentry, "dentry.d_inode", inode)
    memory.put(dentry, "dentry.d_sb", filesystem)
    memory.put(inode, "inode.i_ino", 12)
    memory.put(filesystem, "super_block.s_dev", 0xFE00030, 4)
    op = machine.look("server").threads[200]
    assert (op.dentry, op.dev, op.ino) == ((dentry, 0xFE00030, 12) if known else (0, 0, 0))


@pytest.mark.parametrize("running", [0, 4, 2**32 - 1])
def test_a_count_out_of_range_names_no_operation(machine: Host, running: int) -> None:
    _, rqst = machine.nfsd(200, begun_s=30)
    machine.compound(rqst, ["PUTFH", "OPEN", "GETFH"], running)
    op = machine.look("server").threads[200]
    assert (op.nfs_op, op.ops) == (0, 0)
    assert machine.memory.text(op.op) == "COMPOUND"


def test_a_listener_whose_group_cannot_be_read_is_still_told(machine: Host) -> None:
    machine.add_task(640, "qaxsafed")
    fd_file(machine.proc, 640, 5, "anon_inode:[fanotify]", FILESYSTEM_MARK)
    (mark,) = machine.look("server").marks
    assert (mark["pid"], mark["group"], mark["blocked"]) == (640, None, None)


# Lists of the kernel, read while it changes them


@pytest.mark.parametrize("damage", ["null", "unmapped", "short circle"])
def test_a_broken_task_list_ends(
    machine: Host, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(tasks, "MOST_TASKS", 50)
    machine.add_task(200, "a")
    last = machine.add_task(201, "b")
    link = last + machine.memory.offset("task_struct.tasks")
    machine.memory.put(
        link, None, {"null": 0, "unmapped": 0xDEAD0000, "short circle": link}[damage]
    )
    seeder = seed.Seeder(machine.memory, ["server"], {}, machine.proc)
    walked = [pid for pid, _ in tasks.walk(seeder._memory)]
    assert walked[:3] == [1, 200, 201]
    assert len(walked) <= 51


def test_a_list_that_ends_at_once() -> None:
    memory = FakeMemory()
    assert list(memory.list(0xDEAD0000, 8, 10)) == []
    head = memory.struct()
    memory.link(head, [])
    assert list(memory.list(head, 8, 10)) == []


# The client


def stuck_rpc(machine: Host, owner: int, begun_s: float, sent: bool = True) -> int:
    """Lay out net -> rpc_clnt -> rpc_task -> rpc_rqst; return the task."""
    memory = machine.memory
    symbol, namespace, net, generic, own, client = (memory.struct() for _ in range(6))
    (machine.proc / "kallsyms").write_text(f"{symbol:x} b sunrpc_net_id\t[sunrpc]\n")
    memory.put(symbol, None, 7, 4)
    memory.put(memory.current, "task_struct.nsproxy", namespace)
    memory.put(namespace, "nsproxy.net_ns", net)
    memory.put(net, "net.gen", generic)
    memory.put(generic + 8 * 7, None, own)
    memory.net_of_sunrpc = own
    memory.put(client, "rpc_clnt.cl_parent", client)
    memory.link(
        own + memory.offset("sunrpc_net.all_clients"),
        [client + memory.offset("rpc_clnt.cl_clients")],
    )
    task, procedure, rqst, transport = (memory.struct() for _ in range(4))
    memory.link(
        client + memory.offset("rpc_clnt.cl_tasks"), [task + memory.offset("rpc_task.tk_task")]
    )
    memory.put(task, "rpc_task.tk_start", machine.now_ns - int(begun_s * 1e9))
    memory.put(task, "rpc_task.tk_owner", owner, 4)
    message = task + memory.offset("rpc_task.tk_msg")
    memory.put(message, "rpc_message.rpc_proc", procedure)
    memory.put(procedure, "rpc_procinfo.p_name", memory.string("WRITE"))
    memory.put(task, "rpc_task.tk_rqstp", rqst)
    memory.put(rqst, "rpc_rqst.rq_xid", struct.pack(">I", 0xCAFE))
    memory.put(rqst, "rpc_rqst.rq_ntrans", int(sent), 4)
    memory.put(rqst, "rpc_rqst.rq_xtime", machine.now_ns - 10**9)
    memory.put(rqst, "rpc_rqst.rq_xprt", transport)
    address = struct.pack("<HH", socket.AF_INET, 0) + socket.inet_aton("10.9.0.1")
    memory.put(transport, "rpc_xprt.addr", address.ljust(28, b"\0"))
    return task


def test_a_stuck_call_and_the_rpc_under_it(machine: Host) -> None:
    machine.add_task(811, "redis-server", slept_s=12)
    machine.in_proc(811, ["rpc_wait_bit_killable", "nfs_wb_all", "nfs_file_fsync", "do_fsync"])
    task = stuck_rpc(machine, 811, begun_s=12.5)
    found = machine.look("client")
    op, rpc = found.threads[811], found.rpcs[task]
    assert (op.side, calls.name(op.op), op.flags) == (SIDE_CLIENT, "fsync", OP_BEGIN_UNKNOWN)
    # It began before the RPC did, whenever it fell asleep.
    assert op.begin_ns == rpc.begin_ns == machine.now_ns - int(12.5e9)
    assert rpc.parent_id == op.op_id
    assert (rpc.xid, rpc.transmits, rpc.comm, rpc.tid) == (0xCAFE, 1, b"redis-server", 811)
    assert rpc.sent_ns == machine.now_ns - 10**9
    assert bytes(rpc.peer) == socket.inet_pton(socket.AF_INET6, "::ffff:10.9.0.1")
    assert machine.memory.text(rpc.op) == "WRITE"


@pytest.mark.parametrize("ours", [True, False])
def test_an_rpc_in_no_list_is_found_by_the_thread_that_waits_for_it(
    machine: Host, ours: bool
) -> None:
    memory, task = machine.memory, stuck_rpc(machine, 811, begun_s=5)
    head = memory.u64(task + memory.offset("rpc_task.tk_task") + 8)
    assert head is not None
    memory.link(head, [])
    client = head - memory.offset("rpc_clnt.cl_tasks")
    memory.put(task, "rpc_task.tk_client", client if ours else memory.struct())
    table, waiting = memory.struct(), memory.struct()
    with (machine.proc / "kallsyms").open("a") as symbols:
        symbols.write(f"{table:x} b bit_wait_table\n")
    link = memory.offset("wait_bit_queue_entry.wq_entry")
    memory.link(
        table + 3 * memory.size("wait_queue_head") + memory.offset("wait_queue_head.head"),
        [waiting + link + memory.offset("wait_queue_entry.entry")],
    )
    key = memory.offset("wait_bit_queue_entry.key") + memory.offset("wait_bit_key.flags")
    memory.put(waiting + key, None, task + memory.offset("rpc_task.tk_runstate"))
    assert set(machine.look("client").rpcs) == ({task} if ours else set())


@pytest.mark.parametrize("session", [True, False])
def test_those_that_wait_for_a_slot_are_found_in_its_queue(machine: Host, session: bool) -> None:
    """Neither in their client's list nor waited for by their bit: a read waits for its page."""
    memory, first = machine.memory, stuck_rpc(machine, 811, begun_s=5)
    head = memory.u64(first + memory.offset("rpc_task.tk_task") + 8)
    assert head is not None
    memory.link(head, [])
    second, foreign = memory.struct(), memory.struct()
    for task in (first, second):
        memory.put(task, "rpc_task.tk_client", head - memory.offset("rpc_clnt.cl_tasks"))
    memory.put(second, "rpc_task.tk_start", machine.now_ns - 10**9)
    memory.put(foreign, "rpc_task.tk_client", memory.struct())
    symbol, own, client, table = (memory.struct() for _ in range(4))
    with (machine.proc / "kallsyms").open("a") as symbols:
        symbols.write(f"{symbol:x} b nfs_net_id\t[nfs]\n")
    memory.put(symbol, None, 9, 4)
    at: int | None = memory.current
    for field in ("task_struct.nsproxy", "nsproxy.net_ns", "net.gen"):
        at = memory.u64(at or 0, field)
    generic = at or 0
    memory.put(generic + 8 * 9, None, own)
    memory.link(
        own + memory.offset("nfs_net.nfs_client_list"),
        [client + memory.offset("nfs_client.cl_share_link")],
    )
    if session:
        memory.put(
            client, "nfs_client.cl_session", table - memory.offset("nfs4_session.fc_slot_table")
        )
    else:
        memory.put(client, "nfs_client.cl_session", 0)
        memory.put(client, "nfs_client.cl_slot_tbl", table)
    queue = table + memory.offset("nfs4_slot_table.slot_tbl_waitq")
    wait = memory.offset("rpc_task.u")
    memory.link(
        queue + memory.offset("rpc_wait_queue.tasks") + 16 * 2,
        [task + wait + memory.offset("rpc_wait.list") for task in (first, foreign)],
    )
    links = wait + memory.offset("rpc_wait.links")
    memory.link(first + links, [second + links])
    assert set(machine.look("client").rpcs) == {first, second}


def test_clients_are_searched_for_where_the_kernel_does_not_tell_the_layout(
    machine: Host,
) -> None:
    layout = machine.memory.layout
    layout["OFF_sunrpc_net__all_clients"] = 0x58
    task = stuck_rpc(machine, 811, begun_s=5)
    own = machine.memory.net_of_sunrpc
    # A list that is empty, and one of something else.
    machine.memory.link(own + 0x10, [])
    machine.memory.link(own + 0x30, [machine.memory.struct()])
    del layout["OFF_sunrpc_net__all_clients"]
    assert set(machine.look("client").rpcs) == {task}


def test_an_rpc_not_yet_sent_has_no_time_of_sending(machine: Host) -> None:
    machine.add_task(811, "redis-server", slept_s=12)
    task = stuck_rpc(machine, 811, begun_s=1, sent=False)
    assert machine.look("client").rpcs[task].sent_ns == 0


def test_a_kernel_thread_submits_for_nobody(machine: Host) -> None:
    worker = machine.add_task(90, "kworker/u4:1")
    machine.memory.put(worker, "task_struct.mm", 0)
    task = stuck_rpc(machine, 90, begun_s=3)
    rpc = machine.look("client").rpcs[task]
    assert (rpc.proc.tgid, rpc.comm) == (0, b"")


def test_a_thread_that_sleeps_elsewhere_is_none_of_ours(machine: Host) -> None:
    machine.add_task(812, "postgres", slept_s=12)
    machine.in_proc(812, ["io_schedule", "ext4_file_read_iter"])
    assert machine.look("client").threads == {}


class Events:
    """What a fanotify group is asked for; nfs.ko has seen nothing of it."""

    def __init__(self, machine: Host) -> None:
        self.machine = machine
        # All three are of one struct.
        for at, field in enumerate(
            ("fsnotify_event__list", "fanotify_event__mask", "fanotify_event__pid"), 1
        ):
            machine.memory.layout[f"OFF_{field}"] = 0x20 * at
        machine.memory.layout["OFF_fanotify_perm_event__path"] = 0x80
        machine.memory.layout["OFF_fanotify_group_private_data__access_list"] = 0x100

    def add(self, pid: int, magic: int, mask: int = 0x10000) -> int:
        memory = self.machine.memory
        event, number, dentry, filesystem = (memory.struct() for _ in range(4))
        memory.put(event, "fanotify_event.mask", mask, 4)
        memory.put(event, "fanotify_event.pid", number)
        memory.put(number, "pid.numbers", pid, 4)
        path = event + memory.offset("fanotify_perm_event.path")
        memory.put(path, "path.dentry", dentry)
        memory.put(dentry, "dentry.d_sb", filesystem)
        memory.put(filesystem, "super_block.s_magic", magic)
        memory.put(filesystem, "super_block.s_dev", 0x2B, 4)
        return event + memory.offset("fsnotify_event.list")

    def put(self, group: int, unread: list[int], read: list[int]) -> None:
        memory = self.machine.memory
        memory.link(group + memory.offset("fsnotify_group.notification_list"), unread)
        memory.link(group + memory.offset("fsnotify_group.fanotify_data") + 0x100, read)


NFS, EXT4 = 0x6969, 0xEF53


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([(NFS, 0x10000)], True),
        ([(NFS, 0x20000), (NFS, 0x10000)], True),
        ([(EXT4, 0x10000)], False),
        ([(NFS, 0x10000), (EXT4, 0x10000)], False),
        ([(NFS, 0x20)], False),
        ([], False),
    ],
)
def test_who_waits_for_permission_to_use_a_file_of_a_mount(
    machine: Host, asked: list[tuple[int, int]], found: bool, is_read: bool
) -> None:
    machine.add_task(640, "qaxsafed")
    task = machine.add_task(811, "postgres", slept_s=12)
    machine.in_proc(811, ["fanotify_handle_event", "fsnotify", "do_dentry_open", "path_openat"])
    group = machine.listener(640, 5, [task])
    events = Events(machine)
    listed = [events.add(811, magic, mask) for magic, mask in asked]
    events.put(group, [] if is_read else listed, listed if is_read else [])
    threads = machine.look("client").threads
    assert (811 in threads) == found
    if found:
        op = threads[811]
        assert (calls.name(op.op), op.side, op.active) == ("permission", SIDE_CLIENT, 1)
        assert (op.group, op.dev, op.flags) == (group, 0x2B, OP_BEGIN_UNKNOWN)
        assert op.begin_ns == op.off_ns


def test_rpcs_of_another_network_namespace(machine: Host) -> None:
    task = machine.add_task(811, "redis-server", slept_s=12)
    rpc = stuck_rpc(machine, 811, begun_s=12)
    namespace = machine.memory.u64(machine.memory.current, "task_struct.nsproxy")
    assert namespace
    machine.memory.put(machine.memory.current, "task_struct.nsproxy", machine.memory.struct())
    machine.memory.put(task, "task_struct.nsproxy", namespace)
    assert set(machine.look("client").rpcs) == {rpc}


def test_hidden_addresses_leave_the_rpcs_out_and_nothing_else(machine: Host) -> None:
    machine.add_task(811, "redis-server", slept_s=12)
    machine.in_proc(811, ["rpc_wait_bit_killable", "nfs_file_fsync"])
    stuck_rpc(machine, 811, begun_s=12)
    (machine.proc / "kallsyms").write_text("0000000000000000 b sunrpc_net_id\t[sunrpc]\n")
    found = machine.look("client")
    assert (set(found.threads), found.rpcs) == ({811}, {})


def test_packets_in_the_queues_of_all_network_namespaces(
    machine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck_rpc(machine, 811, begun_s=12)
    symbol = machine.memory.struct()
    machine.memory.put(symbol, None, 7, 4)
    with (machine.proc / "kallsyms").open("a") as symbols:
        symbols.write(f"{symbol:x} b nfnl_queue_net_id\t[nfnetlink_queue]\n")

    def queued(_memory: object, own: int, _now_ns: int) -> list[tuple[int, HeldRec]]:
        assert own == machine.memory.net_of_sunrpc
        return [(0x40, HeldRec()), (0x80, HeldRec())]

    monkeypatch.setattr(queued_packets, "queued_packets", queued)
    packets = machine.look("server").packets
    assert packets.keys() == {0x40, 0x80}
    assert 0 < packets[0x40].op_id < packets[0x80].op_id
    del machine.memory.layout["OFF_nfqnl_instance__queue_list"]
    found = machine.look("server")
    assert (found.packets, found.lacks_packets) == ({}, True)


# Into the maps


def test_what_the_programs_have_seen_since_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[tuple[Any, ...]] = []

    def update(fd: int, key: bytes, value: bytes, *, only_new: bool) -> None:
        if key == struct.pack("<Q", 2):
            raise FileExistsError(17, "File exists")
        if key == struct.pack("<Q", 3):
            raise OSError(7, "Argument list too long")  # E2BIG: the map is full
        written.append((fd, key, len(value), only_new))

    monkeypatch.setattr(bpf, "update", update)
    found = seed.Found([], {}, {n: RpcRec() for n in (1, 2, 3)}, {2: HeldRec(), 4: HeldRec()})
    assert seed.insert(found, THREADS | {"rpcs": 11, "held": 12}) == 0
    assert written == [
        (11, struct.pack("<Q", 1), len(bytes(RpcRec())), True),
        (12, struct.pack("<Q", 4), len(bytes(HeldRec())), True),
    ]


def test_threads_at_work_are_counted_if_the_programs_have_not_seen_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = struct.pack("<I", 3)
    monkeypatch.setattr(bpf, "update", lambda *_, **__: None)
    monkeypatch.setattr(bpf, "pop", lambda *_: bytes(4))
    monkeypatch.setattr(
        bpf, "lookup", lambda fd, key, _: key if (fd, key) == (THREADS["threads"], there) else None
    )
    found = seed.Found([], {n: OpRec(tid=n, at_work=n > 1) for n in (1, 2, 3)}, {})
    assert seed.insert(found, THREADS) == 1


def test_any_other_trouble_with_the_maps_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def update(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "update", update)
    with pytest.raises(OSError, match="not permitted"):
        seed.insert(seed.Found([], {}, {1: RpcRec()}), THREADS | {"rpcs": 11})


THREADS = {"threads": 1, "ops": 2, "places": 3, "spare": 4}
