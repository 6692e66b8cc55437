from __future__ import annotations

from pathlib import Path

from tracer.procfs.holders import asked

NETLINK = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000e1f0a1b2 0   402        00000110 0        0        0     2        0        16
00000000e1f0a1b3 12  402        00000000 0        0        0     2        0        17
00000000e1f0a1b4 12  0          00000000 0        0        0     2        0        18
"""
QUEUES = "    5    402     3 2 65531     0     0      812  1\n    6  99999     0 2 0 0 0 0  1\n"


def test_who_is_asked(tmp_path: Path) -> None:
    for pid, name, target in (
        (402, "5", "/proc/402/net/rpc/nfsd.export/channel"),
        (402, "6", "/proc/402/net/rpc/nfsd.export/flush"),
        (403, "0", "/var/lib/channel"),
        (403, "1", "/var/lib/nfsd/cld"),
        (406, "7", "/run/rpc_pipefs/nfsd/cld"),
        (404, "3", "socket:[17]"),
        (405, "3", "socket:[16]"),
        (407, "3", "/dev/fuse"),
        (408, "4", "/run/rpc.statd.pid"),
    ):
        folder = tmp_path / str(pid) / "fd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(target)
    channels = [
        (402, "channel", "nfsd.export"),
        (406, "channel", "cld"),
        (407, "channel", "fuse"),
        (408, "channel", "statd"),
    ]
    assert sorted(asked(tmp_path)) == channels
    (tmp_path / "net/netfilter").mkdir(parents=True)
    (tmp_path / "net/netlink").write_text(NETLINK)
    (tmp_path / "net/netfilter/nfnetlink_queue").write_text(QUEUES)
    assert sorted(asked(tmp_path)) == sorted([*channels, (404, "queue", "5")])
