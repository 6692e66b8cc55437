"""Facts about a host, from a root folder of our own making."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from tracer import host

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.9.0.0/24 2 0 2
        |-- 10.9.0.0
           /24 link UNICAST
        |-- 10.9.0.1
           /32 host LOCAL
        |-- 10.9.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
Local:
        |-- 10.9.0.1
           /32 host LOCAL
        |-- 192.168.5.4
           /32 host LOCAL
"""
IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000505400fffe123456 02 40 20 80     eth0
20010db8000000000000000000000007 02 40 00 00     eth0
"""
MOUNTS = b"""\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:28 / /proc/fs/nfsd rw - nfsd nfsd rw
41 22 0:44 / /mnt/a rw shared:9 - nfs4 10.9.0.1:/srv rw,vers=4.2
42 22 0:45 / /mnt/caf\xe9\\040x rw - nfs old:/srv rw,vers=3
43 22 0:46 / /mnt/c rw - fuse.sshfs nfs4:/ rw
"""


def write(root: Path, path: str, content: str | bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


def test_a_server_that_is_also_a_client(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/mountinfo", MOUNTS)
    write(tmp_path, "proc/net/rpc/nfsd", "rc 0 1 2\nfh 0 0 0 0 0\nio 1 2\nth 8 0 0.000 0.000\n")
    write(tmp_path, "sys/kernel/btf/vmlinux", "")
    write(tmp_path, "sys/kernel/btf/nfsd", "")
    write(tmp_path, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    for module in ("sunrpc", "nfsd", "ext4"):
        (tmp_path / "sys/module" / module).mkdir(parents=True)
    support = host.kernel_support(tmp_path)
    assert (support.btf, support.module_btf) == (True, {"nfsd"})
    assert support.lockdown == "integrity"
    assert support.modules == {"sunrpc", "nfsd"}
    assert (support.nfsd_threads, support.nfs_mounts) == (8, 2)


def test_a_host_that_has_nothing(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/mountinfo", "")
    support = host.kernel_support(tmp_path)
    assert (support.btf, support.module_btf, support.modules) == (False, set(), set())
    assert (support.lockdown, support.nfsd_threads, support.nfs_mounts) == (None, None, 0)
    assert host.addresses(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "expected"), [("th 64 0", 64), ("th 0 0 0.000", None), ("", None)]
)
def test_nfsd_threads(tmp_path: Path, line: str, expected: int | None) -> None:
    write(tmp_path, "proc/net/rpc/nfsd", f"rc 0 0 0\n{line}\nnet 0 0\n")
    assert host.nfsd_threads(tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("", None),
    ],
)
def test_lockdown(tmp_path: Path, text: str, level: str | None) -> None:
    write(tmp_path, "proc/self/mountinfo", "")
    write(tmp_path, "sys/kernel/security/lockdown", text)
    assert host.kernel_support(tmp_path).lockdown == level


def test_addresses_are_those_of_peers_not_loopback(tmp_path: Path) -> None:
    write(tmp_path, "proc/net/fib_trie", FIB_TRIE)
    write(tmp_path, "proc/net/if_inet6", IF_INET6)
    assert host.local_ipv4(FIB_TRIE) == {"10.9.0.1", "127.0.0.1", "192.168.5.4"}
    assert set(host.addresses(tmp_path)) == {
        "10.9.0.1",
        "192.168.5.4",
        "fe80::5054:ff:fe12:3456",
        "2001:db8::7",
    }


def test_peers() -> None:
    v4 = struct.pack("<H", socket.AF_INET) + bytes([0x08, 0x01, 10, 9, 0, 2]) + bytes(20)
    v6_address = socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    v6 = struct.pack("<H", socket.AF_INET6) + bytes([0x08, 0x01]) + bytes(4) + v6_address + bytes(4)
    assert host.pack_peer(v4) == socket.inet_pton(socket.AF_INET6, "::ffff:10.9.0.2")
    assert host.pack_peer(v6) == v6_address
    assert host.pack_peer(struct.pack("<H", socket.AF_UNIX) + bytes(26)) == bytes(16)


def test_a_hosts_name_is_safe_as_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "../srv 1.example.org")
    assert host.host_name() == ".._srv_1.example.org"
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert host.host_name() == "localhost"
