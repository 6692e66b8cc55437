"""Compiled programs on disk: believed only if root alone could have written them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracer.kernel import cache
from tracer.kernel.objects import MapSpec, Object, Program

OBJECT = Object(
    maps={"threads": MapSpec(1, 4, 1000, 8192, 0)},
    programs={"on_exit": Program(b"\x95" + bytes(7), ())},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cache.store("name", OBJECT, tmp_path / "cache")
    return tmp_path / "cache"


def test_what_is_stored_is_loaded(folder: Path) -> None:
    assert cache.load("name", folder) == OBJECT
    assert cache.load("other", folder) is None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "name.json").stat().st_mode & 0o077 == 0


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert cache.load("name", tmp_path / "none") is None


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_others_may_write_to_is_not_believed(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    assert cache.load("name", folder) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_others_may_write_to_is_not_believed(folder: Path, mode: int) -> None:
    (folder / "name.json").chmod(mode)
    assert cache.load("name", folder) is None


def test_another_owner_is_not_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.load("name", folder) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"maps": {}}', b'{"maps": {"a": 1}, "programs": {}}'],
)
def test_garbage_is_nothing(folder: Path, content: bytes) -> None:
    (folder / "name.json").write_bytes(content)
    assert cache.load("name", folder) is None


def test_a_file_cut_off_anywhere_is_nothing(folder: Path) -> None:
    path = folder / "name.json"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.load("name", folder) is None


def test_a_store_that_fails_leaves_the_old_and_no_draft(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        cache.store("name", Object({}, {}), folder)
    assert [path.name for path in folder.iterdir()] == ["name.json"]
    assert cache.load("name", folder) == OBJECT


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        cache.store("name", OBJECT, tmp_path / "file" / "cache")


def test_the_key_covers_all_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        cache.key("source", ["-DA=1", "-DB=2"]),
        cache.key("source", ["-DA=1", "-DB=3"]),
        cache.key("source", ["-DA=1-DB=2"]),
        cache.key("other", ["-DA=1", "-DB=2"]),
    }
    monkeypatch.setattr(cache, "__version__", "9.9.9")
    keys.add(cache.key("source", ["-DA=1", "-DB=2"]))
    assert len(keys) == 5
