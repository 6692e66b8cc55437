"""ext4 disks made from folders, without mounting anything."""

from pathlib import Path

from lablib import tools

MIB = 1 << 20


def make(source: Path, disk: Path, spare_mib: int) -> None:
    """A disk with the folder's content and that much room beside; sparse, so room costs nothing."""
    used = sum(path.lstat().st_size + 4096 for path in source.rglob("*"))
    size = used * 11 // 10 // MIB + 16 + spare_mib
    tools.run([*mke2fs(), "-d", source, disk, f"{size}M"], f"making {disk.name}")


def make_empty(disk: Path, size_mib: int) -> None:
    """An empty disk, with the defaults but for zeroing: the kernel would do that later."""
    at_once = ["-E", "lazy_itable_init=0,lazy_journal_init=0"]
    tools.run(["mke2fs", "-q", "-t", "ext4", *at_once, disk, f"{size_mib}M"], f"making {disk.name}")


def mke2fs() -> list[str]:
    """These disks live for one boot: no journal, and inodes for many small files."""
    return ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-i", "8192"]
