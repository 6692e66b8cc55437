"""The payload disk: what the guests get beyond their packages, made anew for each lab."""

import os
import shutil
import tempfile
from pathlib import Path

from lablib import compiled, disk, places, tools, wheels
from lablib.errors import LabError, UsageError

# Helpers lie beside a scenario; a scenario that lies in /tmp must not take all of /tmp along.
FILE_LIMIT = 16 << 20
TOTAL_LIMIT = 64 << 20
DEPTH_LIMIT = 3
SPARE_MIB = 64


def make(target: Path, vers: str, python: str, scenario: Path | None) -> None:
    """Gathers the payload in a folder and makes a disk of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("init", "agent.py", "nfsblame-command"):
            shutil.copy(places.GUEST_FILES / file, folder)
        shutil.copy(places.PROVISION, folder)
        (folder / "env").write_text(environment(vers))
        add_nfsblame(folder, python)
        compiled.add(folder)
        add_helpers(folder / "scenario", scenario.parent if scenario else places.SCENARIOS)
        disk.make(folder, target, SPARE_MIB)


def environment(vers: str) -> str:
    """The variables of a scenario's shell."""
    values = {**places.settings(), "VERS": vers, "DISK": "/dev/vdd"}
    return "".join(f"{name}={value}\n" for name, value in values.items())


def add_nfsblame(folder: Path, python: str) -> None:
    """The package to run, and all wheels for those who install it themselves."""
    built = wheels.of_nfsblame()
    shutil.copytree(built / "unpacked", folder / "nfsblame")
    shutil.copytree(wheels.of_dependencies(python), folder / "wheels")
    for wheel in built.glob("*.whl"):
        shutil.copy(wheel, folder / "wheels")


def add_helpers(folder: Path, source: Path) -> None:
    """The files beside the scenario, nearest first, and C programs among them compiled."""
    folder.mkdir()
    room = TOTAL_LIMIT
    for path in beside(source):
        target = folder / path.relative_to(source)
        room -= path.stat().st_size
        if room < 0:
            tools.say(
                f"left out {path} and what follows: more than {TOTAL_LIMIT >> 20} MiB of helpers"
            )
            break
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        if path.suffix == ".c" and not of_kernel(path):
            compile_static(path, target.with_suffix(""))


def beside(source: Path) -> list[Path]:
    """Readable plain files in the folder and a little below, neither hidden nor huge."""
    if not source.is_dir():
        raise UsageError(f"there is no folder {source}")
    found = []
    for top, folders, names in os.walk(source):
        depth = len(Path(top).relative_to(source).parts)
        folders[:] = sorted(n for n in folders if n[0] != "." and depth < DEPTH_LIMIT)
        found += [Path(top) / name for name in sorted(names) if name[0] != "."]
    fitting = [path for path in found if is_helper(path)]
    return sorted(fitting, key=lambda path: len(path.parts))


def is_helper(path: Path) -> bool:
    """Whether the file can go along."""
    return path.is_file() and os.access(path, os.R_OK) and path.stat().st_size <= FILE_LIMIT


def of_kernel(source: Path) -> bool:
    """Whether it is of a kernel module, which a scenario makes in a guest that has headers."""
    return any((source.parent / name).exists() for name in ("Kbuild", "Makefile"))


def compile_static(source: Path, program: Path) -> None:
    """Compiles a helper here: there is no compiler in the guests.

    What does not compile is left out, and said: in a stranger's folder it may be no helper.
    """
    gcc = tools.find("gcc")
    flags = ["-static", "-O2", "-g", "-Wall", "-pthread"]
    try:
        tools.run([gcc, *flags, "-o", program, source], f"compiling {source}")
    except LabError as error:
        tools.say(f"left out {program.name}: {error}")
