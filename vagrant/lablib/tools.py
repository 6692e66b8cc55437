"""Programs of the host the lab calls, and a clear word when one is missing or fails."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lablib.errors import LabError

# Program -> Debian package, for the mend in the message. `make setup` installs them all.
PACKAGES = {
    "depmod": "kmod",
    "fakeroot": "fakeroot",
    "gcc": "gcc libc6-dev",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
}


def find(program: str) -> str:
    """The program's path; mke2fs and depmod live where a plain user's PATH does not look."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        package = PACKAGES.get(program, program)
        raise LabError(f"{program} is not installed: apt-get install {package}")
    return path


def run(argv: Sequence[str | Path], doing: str, cwd: Path | None = None) -> str:
    """Runs a program of the host and returns its output; its words go into the error."""
    command = [find(str(argv[0])), *map(str, argv[1:])]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        words = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"{doing}: {argv[0]} ended with {done.returncode}\n{words}")
    return done.stdout


def as_root(script: str, doing: str, *arguments: str | Path) -> None:
    """Runs a shell script that sees itself as root, so that files keep their owners."""
    path = f"PATH={os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    shell: list[str | Path] = ["env", path, "sh", "-euc", script, "sh", *arguments]
    run(shell if os.geteuid() == 0 else ["fakeroot", *shell], doing)


def say(words: str) -> None:
    """Progress for people; results alone go to stdout."""
    os.write(2, f"lab: {words}\n".encode())
