"""The kernel matrix: what can be booted, and each kernel fetched and made bootable once."""

import lzma
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lablib import cached, disk, initrd, places, tools
from lablib.debian import MMDEBSTRAP
from lablib.errors import UsageError

# What the initial ramdisk must bring to reach its disks; the rest modprobe finds later.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")


@dataclass(frozen=True)
class Kernel:
    """One entry of kernels.toml."""

    name: str
    release: str
    package: str
    userland: str
    enabled: bool
    reason: str = ""
    default: bool = False
    # Lines of sources.list, where the release's usual ones will not do.
    sources: tuple[str, ...] = ()
    degradations: tuple["Degradation", ...] = ()
    # Of NFS, that its client is built without.
    without_versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Degradation:
    """Probes that a kernel cannot have, and why."""

    # "server", "client" or "both".
    side: str
    # As a report's probes_missing has them.
    probes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Userland:
    """The distribution that a guest runs beside the kernel."""

    release: str
    # Of its python3, for the wheels that go in.
    python: str


@dataclass(frozen=True)
class BootFiles:
    """A kernel made ready for QEMU."""

    version: str
    image: Path
    initrd: Path
    modules: Path


def matrix() -> list[Kernel]:
    """Every kernel of the data file, in its order."""
    return [kernel_of(entry) for entry in data()["kernel"]]


def kernel_of(entry: dict[str, Any]) -> Kernel:
    """The kernel of a table of the data file."""
    listed = (
        Degradation(row["side"], tuple(row["probes"]), row["reason"])
        for row in entry.get("degradation", [])
    )
    fields = {name: value for name, value in entry.items() if name != "degradation"}
    return Kernel(**fields, degradations=tuple(listed))


def userland(name: str) -> Userland:
    """The userland of that name."""
    return next(Userland(**u) for u in data()["userland"] if u["release"] == name)


def data() -> dict[str, Any]:
    """The data file."""
    return tomllib.loads((places.VAGRANT / "kernels.toml").read_text())


def choose(name: str | None) -> Kernel:
    """The kernel of that name, or the default one."""
    known = matrix()
    for kernel in known:
        if kernel.name == name or (name is None and kernel.default):
            if not kernel.enabled:
                raise UsageError(f"kernel {kernel.name} is not enabled: {kernel.reason}")
            return kernel
    names = ", ".join(kernel.name for kernel in known if kernel.enabled)
    raise UsageError(f"no kernel {name}; take one of: {names}")


def boot_files(kernel: Kernel) -> BootFiles:
    """The kernel's files in the cache, fetched from Debian if they are not there yet."""
    ingredients = (Path(__file__), Path(initrd.__file__), places.GUEST_FILES / "boot")
    key = cached.digest(
        kernel.release,
        kernel.package,
        *kernel.sources,
        *(path.read_bytes() for path in ingredients),
    )
    found = cached.folder("kernels", f"{kernel.name}-{key}", lambda draft: fetch(kernel, draft))
    version = (found / "version").read_text()
    return BootFiles(version, found / "vmlinuz", found / "initrd", found / "modules.ext4")


def fetch(kernel: Kernel, folder: Path) -> None:
    """Unpacks the kernel's package, without installing anything, and keeps what booting needs."""
    tools.say(f"fetching the {kernel.name} kernel of Debian {kernel.release}")
    include = f"--include={kernel.package},busybox-static"
    archive, tree = folder / "tree.tar", folder / "tree"
    extract = [*MMDEBSTRAP, "--variant=extract", include, kernel.release]
    tools.run([*extract, archive, *kernel.sources], "fetching a kernel")
    tree.mkdir()
    wanted = ["--wildcards", "*/vmlinuz*", "*/lib/modules/*", "*/bin/busybox"]
    tools.run(["tar", "-xf", archive, "-C", tree, "--no-same-owner", *wanted], "unpacking a kernel")
    keep(folder, tree)
    tools.run(["rm", "-r", archive, tree], "cleaning up")


def keep(folder: Path, tree: Path) -> None:
    """Takes kernel, modules and a ramdisk out of the unpacked package."""
    base = next(path for path in (tree, tree / "usr") if (path / "lib/modules").exists())
    version = next((base / "lib/modules").iterdir()).name
    # Beside the modules from Debian's 7.x packages on, in /boot before.
    images = (base / "lib/modules" / version / "vmlinuz", tree / f"boot/vmlinuz-{version}")
    next(path for path in images if path.exists()).rename(folder / "vmlinuz")
    (folder / "version").write_text(version)
    tools.run(["depmod", "-b", base, version], "listing kernel modules")
    modules = base / "lib/modules"
    disk.make(modules, folder / "modules.ext4", spare_mib=0)
    busybox = next(tree.glob("**/bin/busybox")).read_bytes()
    initrd.write(folder / "initrd", busybox, boot_modules(modules / version))


def boot_modules(tree: Path) -> list[tuple[str, bytes]]:
    """Names and contents of the boot modules and all they depend on, in loading order."""
    depends = dict(line.split(":") for line in (tree / "modules.dep").read_text().splitlines())
    paths = {Path(path).name.partition(".ko")[0]: path for path in depends}
    order: list[str] = []
    for name in BOOT_MODULES:
        # What is not there as a module is built in.
        if path := paths.get(name):
            order += [*reversed(depends[path].split()), path]
    return [
        (f"{number:02}.ko", unpacked(tree / path))
        for number, path in enumerate(dict.fromkeys(order))
    ]


def unpacked(module: Path) -> bytes:
    """The module as insmod of busybox takes it."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data
