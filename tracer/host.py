"""Facts about this host: which sides of NFS it has, who it is, what may be traced."""

from __future__ import annotations

import os
import platform
import socket
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KernelSupport:
    """What this host offers. Facts only; what follows from them is decided elsewhere."""

    root: bool
    btf: bool
    module_btf: frozenset[str]
    lockdown: str | None
    modules: frozenset[str]
    nfsd_threads: int | None
    nfs_mounts: int


def kernel_support(root: Path = Path("/")) -> KernelSupport:
    """Gather the facts; ``root`` stands in for / in tests."""
    names = ("sunrpc", "nfsd", "nfs", "nfsv3", "nfsv4")
    return KernelSupport(
        root=os.geteuid() == 0,
        btf=(root / "sys/kernel/btf/vmlinux").exists(),
        module_btf=frozenset(n for n in names if (root / "sys/kernel/btf" / n).exists()),
        lockdown=_lockdown(root),
        modules=frozenset(n for n in names if (root / "sys/module" / n).is_dir()),
        nfsd_threads=nfsd_threads(root),
        nfs_mounts=_nfs_mounts(root),
    )


def _lockdown(root: Path) -> str | None:
    """Return the lockdown level in force: none, integrity or confidentiality."""
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except OSError:
        return None
    chosen = [word for word in text.split() if word.startswith("[")]
    return chosen[0].strip("[]") if chosen else None


def nfsd_threads(root: Path = Path("/")) -> int | None:
    """Return the number of nfsd threads, None if no server runs here.

    From the ``th`` line of /proc/net/rpc/nfsd, which needs no nfsd filesystem mounted.
    """
    try:
        lines = (root / "proc/net/rpc/nfsd").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("th "):
            return int(line.split()[1]) or None
    return None


def _nfs_mounts(root: Path) -> int:
    """Return how many NFS mounts there are."""
    # Paths are any bytes, separators but the newline too; types are what counts here.
    lines = (root / "proc/self/mountinfo").read_bytes().split(b"\n")
    # After the separator: filesystem type, source, options.
    types = [line.partition(b" - ")[2].split(b" ", 1)[0] for line in lines]
    return types.count(b"nfs") + types.count(b"nfs4")


def addresses(root: Path = Path("/")) -> list[str]:
    """Return the host's IP addresses but loopback's: what peers know it by."""
    found = local_ipv4(_text(root / "proc/net/fib_trie"))
    for line in _text(root / "proc/net/if_inet6").splitlines():
        found.add(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])))
    return sorted(a for a in found if not a.startswith("127.") and a != "::1")


def local_ipv4(fib_trie: str) -> set[str]:
    """Return the addresses of /proc/net/fib_trie that stand above a ``host LOCAL`` line."""
    lines = fib_trie.splitlines()
    return {above.split()[-1] for above, line in pairwise(lines) if "host LOCAL" in line}


def _text(path: Path) -> str:
    """Return a file's text, empty if this kernel does not have it."""
    try:
        return path.read_text()
    except OSError:
        return ""


def boot_id() -> str:
    """Return the id of this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def kernel_release() -> str:
    """Return ``uname -r``."""
    return platform.release()


def host_name() -> str:
    """Return the name of the host, safe as a folder's name."""
    name = socket.gethostname() or "localhost"
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


def pack_peer(sockaddr: bytes) -> bytes:
    """Return the address in a struct sockaddr as 16 bytes, IPv4 mapped; zeros if neither."""
    (family,) = struct.unpack_from("<H", sockaddr)
    if family == socket.AF_INET:
        return bytes(10) + b"\xff\xff" + sockaddr[4:8]
    if family == socket.AF_INET6:
        return sockaddr[8:24]
    return bytes(16)


def possible_processors() -> int:
    """Return for how many CPUs a per-CPU map has values: all that may ever come up."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
