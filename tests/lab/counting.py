"""Counts operations as the kernels of client and server do, and compares."""

from __future__ import annotations

import re
from collections import Counter
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
# Of the programs beside NFSv3, for which there are no mountstats, and of the lab's own mount.
BESIDE = {"LOCK", "UNLOCK", "TEST", "MONITOR", "SET", "UNSET", "GETPORT", "GETACL", "NULL"}
BESIDE |= {"MOUNT", "DELEGRETURN"}
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
    """How often the mount has sent each operation, as the kernel counts."""
    until(lab, "client", IDLE)
    text = lab.exec("client", "cat /proc/self/mountstats").stdout
    (ours,) = [part for part in text.split("device ") if f" mounted on {MOUNT} " in part]
    per_op = ours.partition("per-op statistics\n")[2]
    return Counter({op: int(ops) for op, ops in re.findall(r"(\w+): (\d+)", per_op)})


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
    """Records both guests while shell runs on a mount; what it has asked for, counted."""
    # The export once more, with counters of its own.
    mount = f"mkdir -p {MOUNT}; mount -o vers={vers} $SERVER:$EXPORT {MOUNT}"
    mounted = undone(lab, "client", mount, f"umount {MOUNT}")
    with ExitStack() as stack:
        # A mount of NFSv4 begins with others, of the folders above, which have no mountstats left.
        if vers != "3":
            stack.enter_context(mounted)
        client, server = (
            stack.enter_context(recording(lab, guest, f"/var/tmp/counts-{guest}", ready=False))
            for guest in ("client", "server")
        )
        client.await_ready()
        server.await_ready()
        before = Counter[str]() if vers == "3" else mountstats(lab)
        executed = nfsd_stats(lab, vers)
        if vers == "3":
            stack.enter_context(mounted)
        for work in works:
            lab.exec("client", work, timeout=WORK_SECONDS)
        after = mountstats(lab)
        executed = nfsd_stats(lab, vers) - executed
        assert (client.end(), server.end()) == (0, 0), client.said() + server.said()

    document = whole(client.report(tmp_path))
    counted = recorded(document, "client", "rpc")
    assert counted.keys() - after.keys() <= BESIDE | BACKGROUND
    others = BACKGROUND | (BESIDE if vers == "3" else set())
    sent = Counter({op: count for op, count in (after - before).items() if op not in others})
    known = after.keys() - others
    check(document, Counter({op: n for op, n in counted.items() if op in known}), sent)

    document = whole(server.report(tmp_path))
    refused = {row["status"] for row in document["counts"] if row["kind"] == "status"}
    assert NOENT in refused
    counted = recorded(document, "server", "rpc" if vers == "3" else "nfs")
    served = Counter({op: n for op, n in executed.items() if op not in BACKGROUND | {"NULL"}})
    check(document, Counter({op: n for op, n in counted.items() if op in served}), served)
    return sent


def check(document: dict[str, Any], counted: Counter[str], truth: Counter[str]) -> None:
    """Counts are equal, but for events that the kernel did not let us see and that we counted.

    Such an event hides a COMPOUND at most, in which an operation stands twice at most.
    """
    missed = document["losses"].get("missed_event", 0)
    apart = (truth - counted) + (counted - truth)
    assert all(count <= 2 * missed for count in apart.values()), (apart, document["losses"])


def whole(reported: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """A report in which nothing is missing."""
    code, document = reported
    assert (code, document["incomplete"]) == (0, [])
    # 7.2 preempts programs; that is counted, too.
    known = {"exit", "missed_call", "missed_event"}
    assert lost(document["losses"]).keys() <= known, document["losses"]
    return document
