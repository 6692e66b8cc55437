"""Counts operations as the kernels of client and server do, and compares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from conftest import Guests
from recording import IDLE, lost, recording, undone, until

# Where the work is done; a variable of its shell.
MOUNT = "$COUNTED"
# Each version asks an address of the server's own, by which it is told apart. Not 4.2: a client
# takes several addresses of a server for one, which that of the lab's own mount is.
ADDRESS = {vers: f"${{SERVER%.*}}.{100 + n}" for n, vers in enumerate(("3", "4.0", "4.1"))}
ADDRESS["4.2"] = "$SERVER"
WORK_SECONDS = 300.0
# Every command asks the server for something else than the one before.
_ANY = f"""
set -e
mkdir {MOUNT}/work
cd {MOUNT}/work
dd if=/dev/zero of=a bs=1M count=4 conv=fsync status=none
echo 3 > /proc/sys/vm/drop_caches
cat a > /dev/null
truncate -s 10 a
chmod 640 a
ln a b
mv b c
ln -s a s
readlink s > /dev/null
mkfifo p
! setpriv --reuid 65534 --clear-groups test -w c
flock a true
python3 -c "import fcntl, struct
with open('a', 'r+') as file:
    fcntl.fcntl(file, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))"
stat -f . > /dev/null
ls -l > /dev/null
ls -U > /dev/null
mkdir e
rmdir e
rm a c s p
cd /
rmdir {MOUNT}/work
"""
# Of NFSv4.2 alone.
_42 = f"""
set -e
mkdir {MOUNT}/more
cd {MOUNT}/more
fallocate -l 1M f
fallocate -p -o 0 -l 4096 f
cp f g
setfattr -n user.a -v 1 f
getfattr -n user.a f > /dev/null
getfattr -d f > /dev/null
setfattr -x user.a f
python3 -c "import os; os.lseek(os.open('f', os.O_RDONLY), 0, os.SEEK_HOLE)"
rm f g
cd /
rmdir {MOUNT}/more
"""
WORK = {"3": [_ANY], "4.0": [_ANY], "4.1": [_ANY], "4.2": [_ANY, _42]}
# So many different operations it must ask for; NFSv3 has 22 in all. From 6.12 on the server
# delegates files for writing: then the client locks them without it.
LEAST = {"3": 19, "4.0": 18, "4.1": 18, "4.2": 20}
# Not of the mount but of the lease, at times of its own.
BACKGROUND = {"SEQUENCE", "RENEW"}
# NFS3ERR_NOENT and NFS4ERR_NOENT: what is created is looked up first.
NOENT = 2
# Of the programs beside NFSv3, for which there are no mountstats.
BESIDE = {"MOUNT", "LOCK", "UNLOCK", "TEST", "MONITOR", "SET", "UNSET", "GETPORT", "GETACL", "NULL"}
# Of them, what the lock manager is asked for.
NLM = ("LOCK", "UNLOCK", "TEST")
# Calls that any work makes and that are timed on both sides of every kernel.
CALLS = {
    *("write", "fsync", "getattr", "setattr", "readdir"),
    *("mkdir", "rmdir", "link", "symlink", "unlink", "rename"),
}
HOOKS = {
    *("security_file_open", "security_inode_permission"),
    *(f"security_inode_{call}" for call in CALLS - {"write", "fsync", "readdir"}),
}
# A server's thread receives before it knows what; a client's kernel worker, for nobody.
SOCKET_HOOKS = {"security_socket_sendmsg", "security_socket_recvmsg"}
# Behind an operation's name: what its RPCs sent and received, and not how many there were.
BYTES = " bytes"
# Of an operation in mountstats: how often, transmissions, timeouts, bytes sent and received.
PER_OP = r"(\w+): (\d+) \d+ \d+ (\d+) (\d+)"
# Of one mount in mountstats: its server, where it is, and its operations.
STATS = (
    r"^device (\S+):\S+ mounted on (\S+) with fstype nfs.*?per-op statistics\n"
    r"(.*?)(?=^device |\Z)"
)
# By number, as the RFCs 1813, 7862 and 8276 have them.
NFS3 = """
    NULL GETATTR SETATTR LOOKUP ACCESS READLINK READ WRITE CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR
    RENAME LINK READDIR READDIRPLUS FSSTAT FSINFO PATHCONF COMMIT
"""
NFS4 = """
    - - - ACCESS CLOSE COMMIT CREATE DELEGPURGE DELEGRETURN GETATTR GETFH LINK LOCK LOCKT LOCKU
    LOOKUP LOOKUPP NVERIFY OPEN OPENATTR OPEN_CONFIRM OPEN_DOWNGRADE PUTFH PUTPUBFH PUTROOTFH READ
    READDIR READLINK REMOVE RENAME RENEW RESTOREFH SAVEFH SECINFO SETATTR SETCLIENTID
    SETCLIENTID_CONFIRM VERIFY WRITE RELEASE_LOCKOWNER BACKCHANNEL_CTL BIND_CONN_TO_SESSION
    EXCHANGE_ID CREATE_SESSION DESTROY_SESSION FREE_STATEID GET_DIR_DELEGATION GETDEVICEINFO
    GETDEVICELIST LAYOUTCOMMIT LAYOUTGET LAYOUTRETURN SECINFO_NO_NAME SEQUENCE SET_SSV
    TEST_STATEID WANT_DELEGATION DESTROY_CLIENTID RECLAIM_COMPLETE ALLOCATE COPY COPY_NOTIFY
    DEALLOCATE IO_ADVISE LAYOUTERROR LAYOUTSTATS OFFLOAD_CANCEL OFFLOAD_STATUS READ_PLUS SEEK
    WRITE_SAME CLONE GETXATTR SETXATTR LISTXATTRS REMOVEXATTR
"""


def mountstats(lab: Guests) -> dict[str, Counter[str]]:
    """How often the client has sent each operation to each address, and how many bytes.

    Over any of its mounts, since one is not quiet when nobody uses it: it returns delegations
    after a while. Mounts of one superblock have the same counters.
    """
    until(lab, "client", IDLE)
    mounts = map(str.split, lab.exec("client", "cat /proc/self/mountinfo").stdout.splitlines())
    superblock = {where: device for _, _, device, _, where, *_ in mounts}
    text = lab.exec("client", "cat /proc/self/mountstats").stdout
    counts = {
        (server, superblock[where]): re.findall(PER_OP, per_op)
        for server, where, per_op in re.findall(STATS, text, re.MULTILINE | re.DOTALL)
    }
    sent: dict[str, Counter[str]] = {server: Counter() for server, _ in counts}
    for (server, _), per_op in counts.items():
        for op, count, sent_bytes, received_bytes in per_op:
            sent[server][op] += int(count)
            sent[server][op + BYTES] += int(sent_bytes) + int(received_bytes)
    return sent


def nfsd_stats(lab: Guests) -> dict[str, Counter[str]]:
    """How often nfsd has executed each operation, as the kernel counts, by our layer of it.

    Those of NFSv3 are RPCs; of NFSv4 it has one count for all minor versions.
    """
    text = lab.exec("server", "cat /proc/net/rpc/nfsd").stdout
    stats = {}
    for layer, line, names in (("rpc", "proc3", NFS3), ("nfs", "proc4ops", NFS4)):
        (numbers,) = re.findall(rf"^{line} \d+ (.*)$", text, re.MULTILINE)
        counts = [int(number) for number in numbers.split()]
        stats[layer] = Counter({op: n for op, n in zip(names.split(), counts, strict=False) if n})
    return stats


def recorded(capture: Path, side: str, layer: str, peer: str | None = None) -> Counter[str]:
    """How often we have seen each operation, and a client's RPCs with their bytes."""
    counts = Counter[str]()
    for row in pq.read_table(capture / "latency").to_pylist():
        if (row["side"], row["layer"]) == (side, layer) and peer in (None, row["peer"]):
            counts[row["op"]] += row["count"]
            if (side, layer) == ("client", "rpc"):
                counts[row["op"] + BYTES] += row["rpc_bytes"]
    return counts


def mounted(lab: Guests, vers: str, address: str) -> AbstractContextManager[None]:
    """The export once more, with counters of its own, at ``folder(vers)``."""
    mount = f"mkdir -p {folder(vers)}; mount -o vers={vers} {address}:$EXPORT {folder(vers)}"
    return undone(lab, "client", mount, f"umount {folder(vers)}")


def folder(vers: str) -> str:
    return f"/tmp/counted-{vers}"


def has_address(lab: Guests, address: str) -> AbstractContextManager[None]:
    """One address more of the server."""
    of = f"{address}/24 dev eth0"
    return undone(lab, "server", f"ip addr add {of}", f"ip addr del {of}")


def compare(
    lab: Guests, tmp_path: Path, works: Mapping[str, Sequence[str]]
) -> dict[str, Counter[str]]:
    """Records both guests while shell runs on mounts; what each version has asked for, counted.

    What is sent while recording starts or ends may be recorded or not.
    """
    addresses = {vers: lab.exec("client", f"echo {ADDRESS[vers]}").stdout.strip() for vers in works}
    with ExitStack() as stack:
        for vers, address in addresses.items():
            if ADDRESS[vers] != "$SERVER":
                stack.enter_context(has_address(lab, address))
            # A mount of NFSv4 begins with others, of the folders above, which have no
            # mountstats left.
            if vers != "3":
                stack.enter_context(mounted(lab, vers, address))
        first = mountstats(lab), nfsd_stats(lab)
        client, server = (
            stack.enter_context(recording(lab, guest, f"/var/tmp/counts-{guest}", ready=False))
            for guest in ("client", "server")
        )
        client.await_ready()
        server.await_ready()
        begun = mountstats(lab), nfsd_stats(lab)
        if "3" in works:
            stack.enter_context(mounted(lab, "3", addresses["3"]))
        for vers, shells in works.items():
            for shell in shells:
                lab.exec("client", f"COUNTED={folder(vers)}\n{shell}", timeout=WORK_SECONDS)
        done = mountstats(lab), nfsd_stats(lab)
        assert (client.end(), server.end()) == (0, 0), client.said() + server.said()
        last = mountstats(lab), nfsd_stats(lab)

    locks = {}
    missed = whole(client.report(tmp_path))["losses"].get("missed_event", 0)
    asked = {}
    for vers, address in addresses.items():
        sent, most = (
            after[0].get(address, Counter()) - before[0].get(address, Counter())
            for after, before in ((done, begun), (last, first))
        )
        others = with_bytes(BACKGROUND | (BESIDE if vers == "3" else set()))
        counted = recorded(tmp_path / client.name, "client", "rpc", address)
        assert counted.keys() - last[0][address].keys() <= with_bytes(BESIDE | BACKGROUND)
        check(counted, sent, most, last[0][address].keys() - others, missed)
        asked[vers] = Counter(
            {op: count for op, count in sent.items() if op not in others and BYTES not in op}
        )
        if vers == "3":
            assert counted["MOUNT"] == 1 or missed
            locks = {op: counted[op] for op in NLM}

    document = whole(server.report(tmp_path))
    missed = document["losses"].get("missed_event", 0)
    refused = {row["status"] for row in document["counts"] if row["kind"] == "status"}
    assert NOENT in refused
    for layer in {"rpc" if vers == "3" else "nfs" for vers in works}:
        served, most = done[1][layer] - begun[1][layer], last[1][layer] - first[1][layer]
        counted = recorded(tmp_path / server.name, "server", layer)
        check(counted, served, most, most.keys() - BACKGROUND - {"NULL"}, missed)
        if layer == "rpc":
            # Nobody else counts these: but what the one asked for the other was asked for.
            assert missed or all(locks.values())
            assert missed or locks == {op: counted[op] for op in NLM}

    for running in (client, server):
        hooks = HOOKS | SOCKET_HOOKS if running is server else HOOKS
        for layer, names in (("vfs", CALLS), ("hook", hooks)):
            lacking = names - recorded(tmp_path / running.name, running.guest, layer).keys()
            assert not lacking, (running.guest, layer, lacking)
    return asked


def with_bytes(ops: Set[str]) -> set[str]:
    """The operations, and what counts their bytes."""
    return {*ops, *(op + BYTES for op in ops)}


def check(
    counted: Counter[str], least: Counter[str], most: Counter[str], ops: Set[str], missed: int
) -> None:
    """Counts are equal, but for events that the kernel did not let us see and that we counted.

    Such an event hides a COMPOUND at most, in which an operation stands twice at most.
    """
    apart = (least - counted) + (counted - most)
    apart = Counter({op: count for op, count in apart.items() if op in ops})
    if missed:
        # How many bytes those had nobody knows.
        apart = Counter({op: count for op, count in apart.items() if BYTES not in op})
    assert all(count <= 2 * missed for count in apart.values()), (apart, missed)


def whole(reported: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """A report in which nothing is missing."""
    code, document = reported
    assert (code, document["incomplete"]) == (0, [])
    # 7.2 preempts programs; that is counted, too. A slow operation that found no room in the
    # ring, or its lock kept for long by a CPU that a busy host has stopped, stands in the
    # histograms all the same.
    known = {"exit", "missed_call", "missed_event", "ring_full"}
    assert lost(document["losses"]).keys() <= known, document["losses"]
    return document
