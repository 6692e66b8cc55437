"""The initial ramdisk: busybox, a few modules, and guest/boot as its /init."""

import stat
from collections.abc import Iterator
from pathlib import Path

from lablib import places

FOLDERS = ("bin", "dev", "proc", "sys", "root", "modules")


def write(path: Path, busybox: bytes, modules: list[tuple[str, bytes]]) -> None:
    """Writes the archive; the kernel takes it uncompressed, which TCG unpacks fastest."""
    order = "".join(f"{name}\n" for name, _ in modules).encode()
    members: list[tuple[str, int, bytes]] = [
        *((name, stat.S_IFDIR | 0o755, b"") for name in FOLDERS),
        ("dev/console", stat.S_IFCHR | 0o600, b""),
        ("init", stat.S_IFREG | 0o755, (places.GUEST_FILES / "boot").read_bytes()),
        ("bin/busybox", stat.S_IFREG | 0o755, busybox),
        *((f"modules/{name}", stat.S_IFREG | 0o644, data) for name, data in modules),
        ("modules/order", stat.S_IFREG | 0o644, order),
        ("TRAILER!!!", 0, b""),
    ]
    path.write_bytes(b"".join(archive(members)))


def archive(members: list[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """The members in cpio's "newc" format, the one kernels unpack."""
    for inode, (name, mode, data) in enumerate(members):
        device = (5, 1) if stat.S_ISCHR(mode) else (0, 0)
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        yield padded(header + name.encode() + b"\0")
        yield padded(data)


def padded(data: bytes) -> bytes:
    """Filled up to a multiple of four, as the format wants."""
    return data + b"\0" * (-len(data) % 4)
