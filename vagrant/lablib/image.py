"""Root disks of the guests: Debian packages and nfsblame's virtual environment, made once."""

import shlex
from pathlib import Path

from lablib import cached, disk, places, tools, wheels
from lablib.debian import MMDEBSTRAP
from lablib.kernels import Userland

# Room for what happens in a guest; the disk is thrown away with it.
SPARE_MIB = 4096
HEADERS = "linux-headers-cloud-amd64"

UNNEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")

# Nothing but packages is put in: the lab's own files come on the payload disk of each boot.
INSTALL_VENV = """
python3 -m venv --system-site-packages /opt/nfsblame
/opt/nfsblame/bin/pip install --quiet --no-index --find-links /opt/wheels "$@"
rm -r /opt/wheels
echo /lab/nfsblame > "$(echo /opt/nfsblame/lib/python3*/site-packages)/nfsblame-lab.pth"
"""

MAKE_DISK = """
mkdir "$1/tree"
tar -xf "$1/tree.tar" -C "$1/tree" --exclude='./dev/*'
size=$(($(du -sm "$1/tree" | cut -f1) * 12 / 10 + $2))
target=$1/root.ext4
shift 2
"$@" -E root_owner=0:0 -d "${target%/*}/tree" "$target" "${size}M"
rm -r "${target%/*}/tree" "${target%/*}/tree.tar"
"""


def root_disk(userland: Userland, extra: list[str], kernel_version: str) -> Path:
    """The disk with the standard packages and the extra ones."""
    wanted = sorted({*standard_packages(), *(matched(name, kernel_version) for name in extra)})
    dependencies = wheels.of_dependencies(userland.python)
    release = userland.release
    key = cached.digest(release, *wanted, dependencies.name, Path(__file__).read_bytes())
    made = cached.folder("images", key, lambda draft: build(draft, release, wanted, dependencies))
    return made / "root.ext4"


def standard_packages() -> list[str]:
    """What provision.sh says, so that Vagrant's machines get the same."""
    return tools.run(["bash", places.PROVISION, "packages"], "listing packages").split()


def matched(package: str, kernel_version: str) -> str:
    """Headers are those of the kernel that is booted, whichever the mirror has got since."""
    return f"linux-headers-{kernel_version}" if package == HEADERS else package


def build(folder: Path, release: str, packages: list[str], dependencies: Path) -> None:
    """Installs the packages into a tree and makes a disk of it."""
    tools.say(f"making an image of {release} with {len(packages)} packages; this is done once")
    script = shlex.join(["sh", "-euc", INSTALL_VENV, "sh", *wheels.dependencies()])
    command: list[str | Path] = [
        *MMDEBSTRAP,
        "--variant=minbase",
        f"--include={','.join(packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNNEEDED),
        f"--customize-hook=copy-in {shlex.quote(str(dependencies))} /opt",
        f'--customize-hook=mv "$1/opt/{dependencies.name}" "$1/opt/wheels"',
        f'--customize-hook=chroot "$1" {script}',
        release,
        folder / "tree.tar",
    ]
    tools.run(command, "making an image")
    make = [tools.find("mke2fs"), *disk.mke2fs()[1:]]
    tools.as_root(MAKE_DISK, "making an image's disk", folder, str(SPARE_MIB), *make)
