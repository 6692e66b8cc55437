"""Which sides are traced, and what stands in the way, each with its exit code and mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tracer import sides
from tracer.errors import Exit, NfsblameError
from tracer.host import KernelSupport

BOTH = KernelSupport(
    root=True,
    btf=True,
    module_btf=frozenset({"sunrpc", "nfsd", "nfs", "nfsv4"}),
    lockdown="none",
    modules=frozenset({"sunrpc", "nfsd", "nfs", "nfsv4"}),
    nfsd_threads=8,
    nfs_mounts=2,
)
SERVER = replace(BOTH, nfs_mounts=0)
CLIENT = replace(BOTH, nfsd_threads=None)


@pytest.mark.parametrize(
    ("support", "wish", "expected"),
    [
        (BOTH, "auto", ["server", "client"]),
        (SERVER, "auto", ["server"]),
        (CLIENT, "auto", ["client"]),
        (CLIENT, "server", ["server"]),  # the module is there; threads may yet come
        (SERVER, "both", ["server", "client"]),
        (replace(BOTH, lockdown="integrity"), "client", ["client"]),
        (replace(BOTH, lockdown=None), "client", ["client"]),
    ],
)
def test_chosen(support: KernelSupport, wish: str, expected: list[str]) -> None:
    assert sides.choose(support, wish) == expected


@pytest.mark.parametrize(
    ("changes", "wish", "code", "mend"),
    [
        ({"root": False}, "auto", Exit.PRIVILEGE, "sudo"),
        # Without root nothing else is worth saying.
        ({"root": False, "btf": False, "nfsd_threads": None}, "auto", Exit.PRIVILEGE, "sudo"),
        ({"lockdown": "confidentiality"}, "auto", Exit.KERNEL, "lockdown=integrity"),
        ({"btf": False}, "auto", Exit.KERNEL, "CONFIG_DEBUG_INFO_BTF"),
        ({"nfsd_threads": None, "nfs_mounts": 0}, "auto", Exit.KERNEL, "mount a share"),
        ({"modules": frozenset({"sunrpc"})}, "auto", Exit.KERNEL, "modprobe nfsd"),
        ({"modules": frozenset({"nfs"})}, "server", Exit.KERNEL, "modprobe nfsd"),
        ({"modules": frozenset({"nfsd"})}, "client", Exit.KERNEL, "modprobe nfs"),
        ({"modules": frozenset({"nfsd"})}, "both", Exit.KERNEL, "modprobe nfs"),
    ],
)
def test_obstacles(changes: dict[str, Any], wish: str, code: Exit, mend: str) -> None:
    with pytest.raises(NfsblameError) as caught:
        sides.choose(replace(BOTH, **changes), wish)
    assert caught.value.exit_code == code
    assert mend in str(caught.value)
