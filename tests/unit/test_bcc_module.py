"""Finding the distribution's bcc, and telling it from PyPI's lattice package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tracer import bcc_module
from tracer.errors import Exit, NfsblameError

PACKAGES = ("apt install python3-bpfcc", "dnf install python3-bcc", "zypper install python3-bcc")


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that stands in for those of the distribution; empty."""
    folder = tmp_path / "dist-packages"
    folder.mkdir()
    monkeypatch.setattr(bcc_module, "_folders", lambda: [tmp_path / "none", folder])
    for name in [n for n in sys.modules if n.split(".")[0] == "bcc"]:
        monkeypatch.delitem(sys.modules, name)
    # Whatever this machine has is out of sight.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "bcc").exists()])
    yield folder  # type: ignore[misc]
    for name in [n for n in sys.modules if n.split(".")[0] == "bcc"]:
        del sys.modules[name]


def real_bcc(folder: Path) -> None:
    (folder / "bcc").mkdir(parents=True)
    (folder / "bcc/libbcc.py").write_text("lib = 'ctypes'\n")
    (folder / "bcc/__init__.py").write_text(
        "from .libbcc import lib\n__version__ = '0.26.0'\nclass BPF: pass\n"
    )


def wrong_bcc(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = "lattice = 1\n") -> None:
    folder.mkdir()
    (folder / "bcc.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def loaded() -> ModuleType:
    path = list(sys.path)
    module = bcc_module.load()
    assert sys.path == path
    return module


def test_found_where_the_distribution_puts_it(distribution: Path) -> None:
    real_bcc(distribution)
    assert loaded().__file__ == str(distribution / "bcc/__init__.py")


def test_the_right_one_is_taken_though_a_wrong_one_comes_first(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_bcc(tmp_path / "site", monkeypatch)
    real_bcc(distribution)
    assert loaded().__version__ == "0.26.0"


@pytest.mark.parametrize("text", ["lattice = 1\n", "class Lattice: pass\n"])
def test_the_wrong_one_alone_is_named_with_what_to_install(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    wrong_bcc(tmp_path / "site", monkeypatch, text)
    with pytest.raises(NfsblameError) as caught:
        loaded()
    message = str(caught.value)
    assert caught.value.exit_code == Exit.KERNEL
    assert str(tmp_path / "site" / "bcc.py") in message
    assert "lattice" in message
    assert "pip uninstall bcc" in message
    assert all(package in message for package in PACKAGES)


@pytest.mark.parametrize("text", ["import no_such_module\n", "print 'Python 2'\n", "1 / 0\n"])
def test_one_that_cannot_even_be_imported_is_no_traceback(
    distribution: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    wrong_bcc(tmp_path / "site", monkeypatch, text)
    with pytest.raises(NfsblameError, match="bcc is not installed"):
        loaded()


def test_none_at_all(distribution: Path) -> None:
    with pytest.raises(NfsblameError) as caught:
        loaded()
    assert all(package in str(caught.value) for package in PACKAGES)


def test_as_a_program_it_says_the_version_or_what_to_do(tmp_path: Path) -> None:
    """Run as ``doctor`` does, with a bcc of our own first on the path."""
    real_bcc(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "tracer.bcc_module"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(bcc_module.__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "0.26.0\n", "")
