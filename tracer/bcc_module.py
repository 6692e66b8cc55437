"""Finds the distribution's bcc, also from a virtual environment. The one importer of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from tracer.errors import Exit, NfsblameError

_INSTALL: Final = """\
Install it from the distribution:
  Debian, Ubuntu:            apt install python3-bpfcc
  RHEL, Fedora, openEuler:   dnf install python3-bcc
  SUSE:                      zypper install python3-bcc"""

# Where distributions put modules of the system's Python; a virtual environment hides them.
_SYSTEM_FOLDERS: Final = ("/usr/lib/python3/dist-packages",)


def _folders() -> list[Path]:
    versioned = sorted(Path("/usr").glob("lib*/python3*/site-packages"), reverse=True)
    return [Path(folder) for folder in _SYSTEM_FOLDERS] + versioned


def load() -> ModuleType:
    """Import and return bcc.

    bcc is pure Python over libbcc by ctypes, so the system's copy works in any
    Python 3. Raises NfsblameError (exit 4) that says what to install.
    """
    module = _import()
    if module is not None and hasattr(module, "BPF"):
        return module
    wrong = module
    for folder in _folders():
        if (folder / "bcc" / "libbcc.py").is_file():
            for name in [n for n in sys.modules if n == "bcc" or n.startswith("bcc.")]:
                del sys.modules[name]
            sys.path.insert(0, str(folder))
            try:
                module = _import()
            finally:
                sys.path.remove(str(folder))
            if module is not None and hasattr(module, "BPF"):
                return module
    if wrong is not None:
        raise NfsblameError(
            f"the module 'bcc' at {getattr(wrong, '__file__', '?')} is not the BPF Compiler "
            "Collection: PyPI's 'bcc' is an unrelated lattice package.\n"
            f"Remove it (pip uninstall bcc). {_INSTALL}",
            Exit.KERNEL,
        )
    raise NfsblameError(f"bcc is not installed. {_INSTALL}", Exit.KERNEL)


def _import() -> ModuleType | None:
    try:
        return importlib.import_module("bcc")
    except Exception:  # OSError if libbcc.so is missing; anything from a wrong 'bcc'
        return None


def main() -> None:
    """Print the version of the bcc that would be used; exit with the error's code if none."""
    try:
        print(getattr(load(), "__version__", "of unknown version"))
    except NfsblameError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    main()
