"""Counts operations as the kernels of client and server do, and compares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conftest import Guests
from recording import IDLE, lost, recording, undone, until

MOUNT = "/tmp/counted"
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
WORK = {"3": _ANY, "4.0": _ANY, "4.1": _ANY, "4.2": _ANY + _42}
# So many different operations it must ask for; NFSv3 has 22 in all.
LEAST = {"3": 19, "4.0": 20, "4.1": 20, "4.2": 20}
# Not of the mount but of the lease, at times of its own.
BACKGROUND = {"SEQUENCE", "RENEW"}
# NFS3ERR_NOENT and NFS4ERR_NOENT: what is created is looked up first.
NOENT = 2
# Of the programs beside NFSv3, for which there are no mountstats.
BESIDE = {"MOUNT", "LOCK", "UNLOCK", "TEST", "MONITOR", "SET", "UNSET", "GETPORT", "GETACL", "NULL"}
# Of one mount in mountstats: where it is, and its operations.
STATS = r"^device \S+ mounted on (\S+) with fstype nfs.*?per-op statistics\n(.*?)(?=^device |\Z)"
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


def mountstats(lab: Guests) -> Counter[str]:
    """How often the client has sent each operation over any of its mounts, as the kernel counts.

    Of all, since one is not quiet when nobody uses it: it returns delegations after a while.
    Mounts of one superblock have the same counters.
    """
    until(lab, "client", IDLE)
    mounts = map(str.split, lab.exec("client", "cat /proc/self/mountinfo").stdout.splitlines())
    superblock = {where: device for _, _, device, _, where, *_ in mounts}
    text = lab.exec("client", "cat /proc/self/mountstats").stdout
    counts = {
        superblock[where]: {op: int(count) for op, count in re.findall(r"(\w+): (\d+)", per_op)}
        for where, per_op in re.findall(STATS, text, re.MULTILINE | re.DOTALL)
    }
    return sum(map(Counter, counts.values()), Counter[str]())


def nfsd_stats(lab: Guests, vers: str) -> Counter[str]:
    """How often nfsd has executed each operation, as the kernel counts."""
    text = lab.exec("server", "cat /proc/net/rpc/nfsd").stdout
    line, names = ("proc3", NFS3) if vers == "3" else ("proc4ops", NFS4)
    (numbers,) = re.findall(rf"^{line} \d+ (.*)$", text, re.MULTILINE)
    counts = [int(number) for number in numbers.split()]
    return Counter({op: n for op, n in zip(names.split(), counts, strict=False) if n})


def recorded(document: dict[str, Any], side: str, layer: str) -> Counter[str]:
    """How often we have seen each operation."""
    rows = [r for r in document["latency"] if (r["side"], r["layer"]) == (side, layer)]
    return Counter({row["op"]: row["count"] for row in rows})


def compare(lab: Guests, tmp_path: Path, vers: str, *works: str) -> Counter[str]:
    """Records both guests while shell runs on a mount; what it has asked for, counted.

    What is sent while recording starts or ends may be recorded or not.
    """
    # The export once more, with counters of its own.
    mount = f"mkdir -p {MOUNT}; mount -o vers={vers} $SERVER:$EXPORT {MOUNT}"
    mounted = undone(lab, "client", mount, f"umount {MOUNT}")
    with ExitStack() as stack:
        # A mount of NFSv4 begins with others, of the folders above, which have no mountstats left.
        if vers != "3":
            stack.enter_context(mounted)
        first = mountstats(lab), nfsd_stats(lab, vers)
        client, server = (
            stack.enter_context(recording(lab, guest, f"/var/tmp/counts-{guest}", ready=False))
            for guest in ("client", "server")
        )
        client.await_ready()
        server.await_ready()
        begun = mountstats(lab), nfsd_stats(lab, vers)
        if vers == "3":
            stack.enter_context(mounted)
        for work in works:
            lab.exec("client", work, timeout=WORK_SECONDS)
        done = mountstats(lab), nfsd_stats(lab, vers)
        assert (client.end(), server.end()) == (0, 0), client.said() + server.said()
        last = mountstats(lab), nfsd_stats(lab, vers)

    sent, served = (after - before for after, before in zip(done, begun, strict=True))
    most_sent, most_served = (after - before for after, before in zip(last, first, strict=True))
    others = BACKGROUND | (BESIDE if vers == "3" else set())

    document = whole(client.report(tmp_path))
    counted = recorded(document, "client", "rpc")
    assert counted.keys() - last[0].keys() <= BESIDE | BACKGROUND
    check(document, counted, sent, most_sent, last[0].keys() - others)

    document = whole(server.report(tmp_path))
    refused = {row["status"] for row in document["counts"] if row["kind"] == "status"}
    assert NOENT in refused
    counted = recorded(document, "server", "rpc" if vers == "3" else "nfs")
    check(document, counted, served, most_served, most_served.keys() - BACKGROUND - {"NULL"})
    return Counter({op: count for op, count in sent.items() if op not in others})


def check(
    document: dict[str, Any],
    counted: Counter[str],
    least: Counter[str],
    most: Counter[str],
    ops: Set[str],
) -> None:
    """Counts are equal, but for events that the kernel did not let us see and that we counted.

    Such an event hides a COMPOUND at most, in which an operation stands twice at most.
    """
    missed = document["losses"].get("missed_event", 0)
    apart = (least - counted) + (counted - most)
    apart = Counter({op: count for op, count in apart.items() if op in ops})
    assert all(count <= 2 * missed for count in apart.values()), (apart, document["losses"])


def whole(reported: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """A report in which nothing is missing."""
    code, document = reported
    assert (code, document["incomplete"]) == (0, [])
    # 7.2 preempts programs; that is counted, too.
    known = {"exit", "missed_call", "missed_event"}
    assert lost(document["losses"]).keys() <= known, document["losses"]
    return document
