"""Python packages for the guests: nfsblame's wheel, and those of what it depends on."""

import os
import sys
import tomllib
from pathlib import Path

from lablib import cached, places, tools
from lablib.errors import LabError

# Until pyproject.toml says it.
USUAL_DEPENDENCIES = ["click", "psutil", "pyarrow", "rich"]
# What the wheel is made of.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "tracer", "bpf")


def python() -> str:
    """The interpreter of the repository's virtual environment, or else this one."""
    own = places.REPOSITORY / ".venv/bin/python"
    return str(own) if own.exists() else sys.executable


def pip(*arguments: str | Path, doing: str) -> None:
    """Runs the host's pip."""
    tools.run([python(), "-m", "pip", "--quiet", *arguments], doing)


def dependencies() -> list[str]:
    """What nfsblame depends on."""
    try:
        data = tomllib.loads((places.REPOSITORY / "pyproject.toml").read_text())
    except FileNotFoundError:
        return USUAL_DEPENDENCIES
    return sorted(data["project"].get("dependencies", []))


def of_dependencies(python_version: str) -> Path:
    """A folder with the wheels of all dependencies, for the guests' Python."""
    wanted = dependencies()
    key = cached.digest(python_version, *wanted)
    return cached.folder("wheels", key, lambda draft: download(draft, python_version, wanted))


def download(folder: Path, python_version: str, wanted: list[str]) -> None:
    """Fetches binary wheels for the guests, whatever the host itself runs."""
    tools.say("fetching wheels of " + ", ".join(wanted))
    platforms = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")
    target = [f"--python-version={python_version}", *(f"--platform={name}" for name in platforms)]
    options = ["--only-binary=:all:", *target, *wanted]
    pip("download", "--dest", folder, *options, doing="fetching wheels")


def of_nfsblame() -> Path:
    """The folder with nfsblame's own wheel and, unpacked, its packages."""
    return cached.folder("nfsblame", cached.digest(*fingerprint()), build)


def fingerprint() -> list[bytes]:
    """Names and contents of the wheel's sources."""
    found: list[bytes] = []
    for source in SOURCES:
        top = places.REPOSITORY / source
        paths = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in paths:
            if path.is_file() and path.suffix != ".pyc":
                found += [os.fsencode(path), path.read_bytes()]
    return found


def build(folder: Path) -> None:
    """Builds the wheel of the working tree and unpacks it as pip would install it."""
    tools.say("building nfsblame's wheel")
    try:
        pip(
            "wheel",
            "--no-deps",
            "--wheel-dir",
            folder,
            places.REPOSITORY,
            doing="building nfsblame",
        )
        wheel = next(folder.glob("*.whl"))
        pip(
            "install",
            "--no-deps",
            "--target",
            folder / "unpacked",
            wheel,
            doing="unpacking nfsblame",
        )
    except LabError as error:
        mend = "mend: `pip wheel --no-deps .` must work in the repository; run `make setup` first"
        raise LabError(f"{error}\n{mend}") from error
