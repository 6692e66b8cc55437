"""The QEMU that runs the guests: the host's own, or a newer one where that breaks kernels."""

import re
from pathlib import Path

from lablib import cached, tools
from lablib.debian import MMDEBSTRAP

# Since 8.1 TCG locks a page before it translates it ("accel/tcg: Always lock pages before
# translation"). Before, a CPU could keep a translation of code that another one was changing,
# for good; a kernel changes its code whenever a probe is attached, and hung or crashed of it.
TRUSTED = (8, 1)
# Debian's release with a QEMU that new.
RELEASE = "trixie"


def command(accelerator: str) -> list[str]:
    """How QEMU is called, before any of its options."""
    own = tools.find("qemu-system-x86_64")
    if accelerator == "kvm" or version_of(tools.run([own, "--version"], "asking QEMU")) >= TRUSTED:
        return [own]
    return unpacked(cached.folder("qemu", RELEASE, fetch))


def version_of(words: str) -> tuple[int, int]:
    """Major and minor, from what --version prints; (0, 0) if it does not tell."""
    found = re.search(r"version (\d+)\.(\d+)", words)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def fetch(folder: Path) -> None:
    """Unpacks QEMU and the libraries it needs into the folder, without installing anything."""
    tools.say(f"fetching the QEMU of Debian {RELEASE}: this host's is older than 8.1")
    plain = '--aptopt=APT::Install-Recommends "false"'
    extract = [*MMDEBSTRAP, "--variant=extract", "--include=qemu-system-x86", plain, RELEASE]
    archive = folder / "tree.tar"
    tools.run([*extract, archive], "fetching QEMU")
    wanted = ["--wildcards", "./usr/bin/qemu-system-x86_64", "./usr/lib*", "./usr/share/*bios*"]
    wanted += ["./usr/share/qemu"]
    tools.run(["tar", "-xf", archive, "-C", folder, "--no-same-owner", *wanted], "unpacking QEMU")
    archive.unlink()


def unpacked(folder: Path) -> list[str]:
    """How the QEMU in the folder is called: with its own libraries, whatever the host has."""
    libraries = folder / "usr/lib/x86_64-linux-gnu"
    firmware = (folder / "usr/share/qemu", folder / "usr/share/seabios")
    return [
        *(str(folder / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
        str(folder / "usr/bin/qemu-system-x86_64"),
        *(argument for path in firmware for argument in ("-L", str(path))),
    ]
