"""The closed list of causes: what each means, how it is found, what it misses, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Cause = Literal[
    "fanotify",
    "lsm",
    "module",
    "bpf",
    "lock",
    "disk",
    "journal",
    "reclaim",
    "cpu",
    "throttle",
    "irq",
    "upcall",
    "delegation",
    "grace",
    "delay",
    "threads",
    "slot",
    "network",
    "packet-filter",
    "frozen",
    "remote",
    "running",
    "unknown",
]

# Waits for a disk, in the end.
OF_STORAGE: Final[tuple[Cause, ...]] = ("disk", "journal")
# What who asks for much does to others: one doing, under the name of its greater part.
OF_LOAD: Final[tuple[Cause, ...]] = (*OF_STORAGE, "slot")

CAUSE_NAMES: Final[tuple[str, ...]] = get_args(Cause)


@dataclass(frozen=True, slots=True)
class About:
    """One cause in words. ``advice`` is safe to try first and can be undone."""

    means: str
    found_by: str
    misses: str
    advice: str


ABOUT: Final[Mapping[str, About]] = {
    "fanotify": About(
        "a security agent has to allow the file access and has not answered yet",
        "thread sleeps in fanotify_handle_event; the group's listener is who answers",
        "time inside an agent that answers through another agent is put down to the first",
        "exclude the exported filesystem in the agent's on-access scan, or have its vendor "
        "look at why it answers slowly; record again to see that it helped",
    ),
    "lsm": About(
        "a security module (LSM) hook sleeps",
        "thread sleeps below a security_* hook and in no better known place",
        "which module it is",
        "list the security modules (/sys/kernel/security/lsm) and ask their vendor",
    ),
    "module": About(
        "an out-of-tree kernel module sleeps or works where NFS's threads pass",
        "function of such a module (/proc/modules: O or P) on the stack of a thread that sleeps, "
        "or that a clock tick finds on a CPU; the process that answers a module stands for it",
        "modules of filesystems; work between two clock ticks; waits for what others hold, which "
        "stay theirs",
        "unload or disable the module's file protection for a test",
    ),
    "bpf": About(
        "a BPF program on the path takes the time",
        "a clock tick finds a thread on a CPU in the code of a program that is not ours",
        "programs that sleep; programs of kprobes set where the kernel cannot use ftrace; work "
        "between two clock ticks",
        "list programs with bpftool prog and detach the one named for a test",
    ),
    "lock": About(
        "another thread holds a kernel lock (inode, directory, mutex), or another process a "
        "byte-range lock",
        "thread sleeps in a lock's slow path; who releases it wakes it; a client asks its server "
        "again and again, where the client that has the lock is counted",
        "the owner while the wait has not ended; whose a byte-range lock is, of several clients or "
        "of a process of the server",
        "see what the lock's holder does with the same directory or file",
    ),
    "disk": About(
        "waits for a block device",
        "thread sleeps in io_schedule, for a page, a buffer or a request; whose requests the "
        "disk completed meanwhile, also those that nfsd made for a client, if a disk that is quick "
        "otherwise had many at once; or that it was suspended, or slow with nobody else on it",
        "who is behind I/O of the kernel's own threads, but for writeback of files; disks in an "
        "array; of what a client reads, which the server had in its memory",
        "look at the device's queue, its health, and at who uses it beside NFS",
    ),
    "journal": About(
        "waits for the filesystem's journal or log to commit",
        "thread sleeps in jbd2, the XFS log or a btrfs transaction; who filled most of what was "
        "committed (ext4, XFS)",
        "who filled the log of other filesystems; changes that the kernel's own threads made",
        "see what the process changes on the exported filesystem, and move it elsewhere",
    ),
    "reclaim": About(
        "waits for memory to be freed",
        "thread is in page reclaim or compaction, on a CPU or asleep, or has no CPU because the "
        "kernel's own thread for that (kswapd, kcompactd) has it; who took clearly most of "
        "what was taken while memory was short (at a cgroup's limit, of what its own processes "
        "took)",
        "who took it before it was short; if none of several took most, that it was all of them; "
        "reads of files that had to leave memory, which wait for the disk",
        "give the host more free memory or limit what fills it (memory.max, memory.high)",
    ),
    "cpu": About(
        "could run but got no CPU",
        "thread is runnable and not running, and who had that CPU meanwhile; a server's thread "
        "also when it was to take up a request; client: reply is there, caller does not run",
        "who ran while a reply waited for the kernel's own threads on a client",
        "see which processes keep the CPUs busy, above all those at real-time priority",
    ),
    "throttle": About(
        "held back by a cgroup's limit",
        "its cgroup was throttled while the thread could have run, or the thread sleeps in a "
        "cgroup throttling function",
        "limits other than on CPU and disk",
        "raise the cgroup's limit (cpu.max, io.max)",
    ),
    "irq": About(
        "interrupts took the CPU, with what they left to be done: packets, timers, disks",
        "a clock tick finds a thread interrupted by that, for as long as it takes a tenth of any "
        "CPU; or the thread could run and ksoftirqd had its CPU",
        "the handlers themselves, which no clock tick interrupts; for whom it was",
        "see what sends so many packets or other interrupts (/proc/interrupts, /proc/softirqs, "
        "packet filters), and spread them over CPUs (RPS, irqbalance)",
    ),
    "upcall": About(
        "the kernel waits for a daemon: an NFS one (mountd, gssd, idmapd, nfsdcld, statd), or "
        "that of a filesystem in user space (FUSE); or for a program that it has started, as "
        "nfsidmap",
        "thread sleeps in cache_check, an rpc_pipefs upcall, nsm_monitor, a key or a FUSE request, "
        "or the request is put off; who answers wakes it, else it is who holds the channel, or "
        "what a worker of the kernel has started",
        "requests that are still put off when recording ends; of several FUSE filesystems, whose "
        "daemon has not answered yet",
        "check that rpc.mountd, rpc.gssd, rpc.idmapd, nfsdcld, rpc.statd and the daemon of an "
        "exported FUSE filesystem run, and that name services answer",
    ),
    "delegation": About(
        "another client has to give back a delegation or lease first",
        "thread sleeps in __break_lease or waits for a DELEGRETURN, or the server asks to try "
        "again later while it recalls delegations",
        "which client holds it, if they are recalled from several",
        "find the client that does not answer callbacks",
    ),
    "grace": About(
        "the server was restarted: clients connect anew and tell it their state again, and it "
        "refuses requests until then",
        "replies with NFS4ERR_GRACE, or of a lost session by a server that its kernel log says "
        "was started; NFSv3: thread sleeps in nlmclnt_call; RPCs lay on the wire while it was "
        "started, or within 5 s",
        "grace periods that nobody ran into",
        "wait up to 90 s after the server's start",
    ),
    "delay": About(
        "the server asked to try again later, or has to be told the client's state again",
        "thread sleeps in nfs4_delay, in the NFSv3 jukebox wait or in nfs4_wait_clnt_recover, or "
        "an RPC that was refused waits to be sent again; which process of the server does not give "
        "up a lease on a file, by its /proc/locks",
        "why else the server asked",
        "look at the server's side of the same operations; if Samba shares the files, at its "
        "oplocks",
    ),
    "threads": About(
        "every nfsd thread was at work, or there was none to take the request up",
        "request arrived and no thread took it; all threads were running, or had been ended",
        "operations too fast to be recorded one by one",
        "raise the number of nfsd threads (/proc/fs/nfsd/threads, nfs.conf: [nfsd] threads=)",
    ),
    "slot": About(
        "waits on the client for a free session slot or transport slot, or behind data of others "
        "on the connection",
        "RPC submitted and no slot assigned; charged through to what those wait for that have one, "
        "or to the process that has most of the slots, by its own RPCs and what it wrote that the "
        "kernel writes back; with both ends recorded, a request that was sent after WRITEs which "
        "arrive before it, or a reply after READs, beyond a round trip of TCP's",
        "the slots of RPCs too fast to be recorded one by one; data of other clients in a network "
        "that they share",
        "let it write or read less at a time (a bandwidth limit of its own), or at another time",
    ),
    "network": About(
        "on the wire, or in a socket's buffer",
        "remote time minus the server's own and minus that in which a host had no CPU for its "
        "packets; send time; sleeps in the TCP stack; a server's thread that cannot send a reply, "
        "for its client takes none in",
        "which hop; whether a client that takes nothing in is slow or its network is",
        "compare retransmits on both ends, then test the path with other traffic",
    ),
    "packet-filter": About(
        "a packet filter in user space (NFQUEUE) holds packets",
        "a packet from or to port 2049 is in a netfilter queue; whoever answers, or has the queue",
        "packets of NFS on other ports, and those in a queue before recording",
        "take port 2049 out of the queue's rule",
    ),
    "frozen": About(
        "the filesystem is frozen, by a snapshot or a backup",
        "thread sleeps in __sb_start_write; who called freeze_super, or thaws it",
        "who froze it before recording, while it still is",
        "see that the backup thaws the filesystem: fsfreeze --unfreeze MOUNTPOINT",
    ),
    "remote": About(
        "on the wire or in the server, whose capture is not here",
        "RPC sent and no reply yet",
        "what the server did",
        "record on the server too and report both captures together",
    ),
    "running": About(
        "the thread was doing the work",
        "time in no wait",
        "what it did",
        "nothing: this is the work itself",
    ),
    "unknown": About(
        "could not be shown",
        "time whose stack or partner is missing or not known",
        "all of it",
        "record on both ends; see the missing probes of the hosts",
    ),
}
