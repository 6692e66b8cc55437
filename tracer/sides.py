"""Which sides of NFS to trace: from the facts of the host and the user's wish. Pure."""

from __future__ import annotations

from typing import Final

from tracer.errors import Exit, NfsblameError
from tracer.host import KernelSupport

CHOICES: Final = ("auto", "server", "client", "both")
MODULE_OF: Final = {"server": "nfsd", "client": "nfs"}


def found(support: KernelSupport) -> list[str]:
    """Return the sides of NFS that are active on the host."""
    active = {"server": bool(support.nfsd_threads), "client": bool(support.nfs_mounts)}
    return [side for side, there in active.items() if there]


def obstacle(support: KernelSupport) -> NfsblameError | None:
    """Return what forbids tracing on the host whatever the side, None if nothing does."""
    if not support.root:
        return NfsblameError(
            "loading BPF programs needs root: run it with sudo",
            Exit.PRIVILEGE,
        )
    if support.lockdown == "confidentiality":
        return NfsblameError(
            "the kernel is locked down (confidentiality), which forbids BPF to read its memory; "
            "boot with lockdown=integrity or without Secure Boot's lockdown",
            Exit.KERNEL,
        )
    if not support.btf:
        return NfsblameError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux); use a distribution kernel of "
            "5.10 or later, or build with CONFIG_DEBUG_INFO_BTF=y",
            Exit.KERNEL,
        )
    return None


def choose(support: KernelSupport, wish: str) -> list[str]:
    """Return the sides to trace; raise NfsblameError, with the mend, if there are none."""
    forbidden = obstacle(support)
    if forbidden is not None:
        raise forbidden
    asked = {"auto": None, "both": ["server", "client"]}.get(wish, [wish])
    sides = found(support) if asked is None else asked
    if not sides:
        raise NfsblameError(
            "there is no NFS on this host: no nfsd threads and no NFS mount. Start the server "
            "(systemctl start nfs-server) or mount a share first; or say --side",
            Exit.KERNEL,
        )
    for side in sides:
        if MODULE_OF[side] not in support.modules:
            raise NfsblameError(
                f"the {MODULE_OF[side]} module is not loaded, so there is no NFS {side} to "
                f"trace: modprobe {MODULE_OF[side]}",
                Exit.KERNEL,
            )
    return sides
