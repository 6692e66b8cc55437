"""What comes and goes while recording, and how the capture and the report say so."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from builders import capture, end, hello, interval, json_frame, stream
from hypothesis import given
from hypothesis import strategies as st

from tracer import wire
from tracer.blame import analyse
from tracer.model import HostCapture
from tracer.procfs.aside import Aside
from tracer.procfs.changes import (
    Exports,
    Reading,
    Watch,
    look,
    parse_exports,
    parse_modules,
    parse_mounts,
    parse_threads,
)
from tracer.reader import read_captures
from tracer.report.document import document
from tracer.report.text import console_for, render
from tracer.store.keeper import Settings
from tracer.writer import write

NFS = "40 22 0:44 / /mnt/nfs rw - nfs4 10.9.0.1:/a rw\n"
OTHER = "41 22 254:1 / / rw - ext4 /dev/vda1 rw\n"


class Host:
    """A /proc in which NFS comes and goes."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "no-proc"
        self.etab = root / "var/lib/nfs/etab"
        for folder in (self.proc / "self", self.proc / "net/rpc", self.etab.parent):
            folder.mkdir(parents=True)
        self.put("self/mountinfo", OTHER)
        self.put("modules", "nfs 1 1 - Live 0x0\next4 1 1 - Live 0x0\n")

    def put(self, name: str, text: str) -> None:
        (self.proc / name).write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_changes_are_said_once(host: Host) -> None:
    aside = Aside()
    watch = Watch(host.proc, Exports(host.etab, aside), look(host.proc))
    assert watch.changes() == []
    host.put("self/mountinfo", OTHER + NFS)
    host.put("modules", "nfs 1 1 - Live 0x0\nnfsd 1 1 - Live 0x0\n")
    host.put("net/rpc/nfsd", "rc 0 0\nth 8 0\n")
    assert [tuple(change) for change in watch.changes()] == [
        ("mounts", "mounted: 10.9.0.1:/a on /mnt/nfs"),
        ("modules", "loaded: nfsd"),
    ]
    assert watch.changes() == [("nfsd", "from 0 to 8 nfsd threads")]
    assert watch.changes() == []
    host.put("net/rpc/nfsd", "th 0 0\n")
    host.put("self/mountinfo", OTHER)
    assert [text for _, text in watch.changes()] == [
        "unmounted: 10.9.0.1:/a on /mnt/nfs",
        "from 8 to 0 nfsd threads",
    ]
    assert watch.threads == 0


def test_threads_that_are_counted_on_their_way_are_no_change(host: Host) -> None:
    host.put("net/rpc/nfsd", "th 8 0\n")
    watch = Watch(host.proc, lambda: None, look(host.proc))
    said = []
    for threads in (8, 3, 0, 5, 8, 8, 7, 8):
        host.put("net/rpc/nfsd", f"th {threads} 0\n")
        said += [text for _, text in watch.changes()]
    assert said == ["from 8 to 0 nfsd threads", "from 0 to 8 nfsd threads"]


def test_exports_are_read_aside_and_only_when_changed(host: Host) -> None:
    aside = Aside()
    exports = Exports(host.etab, aside)

    def read() -> bytes | None:
        # An answer may be there from before: the next question is the one that counts.
        for _ in range(3):
            exports()
            aside.settle(10)
        return exports()

    assert read() is None
    host.etab.write_text("/srv/a\t*(rw)\n")
    assert read() == b"/srv/a\t*(rw)\n"
    host.etab.unlink()  # What was known stays.
    assert read() == b"/srv/a\t*(rw)\n"


def test_what_cannot_be_read_is_no_change(host: Host) -> None:
    host.put("self/mountinfo", NFS)
    watch = Watch(host.proc, lambda: None, look(host.proc))
    (host.proc / "self/mountinfo").unlink()
    (host.proc / "modules").unlink()
    assert watch.changes() == []
    host.put("self/mountinfo", OTHER)
    assert [text for _, text in watch.changes()] == ["unmounted: 10.9.0.1:/a on /mnt/nfs"]


def test_reading_goes_through_json(host: Host) -> None:
    host.put("self/mountinfo", NFS)
    there = look(host.proc)
    assert Reading.of_json(json.loads(json.dumps(there.to_json()))) == there
    assert Reading.of_json({}) == Reading(None, None, None, None)


def test_parsers() -> None:
    mounts = b"40 22 0:44 / /mnt/a\\040\xe9\x0b rw - nfs 10.9.0.1:/ rw\n" + OTHER.encode()
    assert parse_mounts(mounts) == {"10.9.0.1:/ on /mnt/a\\040\\xe9\x0b"}
    etab = b"/srv/export\t10.9.0.0/24(rw,sync)\n/srv/\\040x\t*(ro)\n\nnonsense\n"
    assert parse_exports(etab) == {"/srv/export to 10.9.0.0/24", "/srv/\\040x to *"}
    assert parse_modules(b"nfsd 1 2 - Live\next4 1\n") == {"nfsd"}
    assert (parse_threads(b"rc 0\nth 8 0\n"), parse_threads(b"th x\n"), parse_threads(b"")) == (
        8, None, None,
    )  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    parse_mounts(text)
    parse_exports(text)
    parse_modules(text)
    parse_threads(text)


def recorded(host: Host, folder: Path, *threads: str, probes: list[object]) -> HostCapture:
    """Record while the number of nfsd threads goes through these."""

    def frames() -> object:
        yield json_frame(wire.HELLO, hello(probes=probes, there=look(host.proc).to_json()))
        for number, text in enumerate(threads, start=1):
            host.put("net/rpc/nfsd", f"th {text} 0\n")
            host.put("modules", "nfs 1\nnfsv4 1\n" if number > 1 else "nfs 1\n")
            yield from interval(number)
        yield end(len(threads))

    assert write(stream(frames()), Settings(folder, 1 << 30), host.proc, print) == 0
    (found,) = read_captures([folder])
    return found


MISSING = {
    "probe": "nfs4_file_open_enter",
    "purpose": "open on an NFS mount",
    "attached": False,
    "target": "fentry:nfs4_file_open",
    "reason": "no BTF for module nfsv4 (not loaded, or kernel without module BTF)",
    "lost": "open calls",
}


def test_report_says_what_happened(host: Host, tmp_path: Path) -> None:
    host.put("net/rpc/nfsd", "th 8 0\n")
    found = recorded(host, tmp_path / "c", "8", "0", "8", probes=[MISSING])
    file = io.StringIO()
    render(analyse([found]), console_for(file))
    text = " ".join(file.getvalue().split())
    assert "from 8 to 0 nfsd threads" in text
    assert "from 0 to 8 nfsd threads" in text
    assert "loaded: nfsv4; its probes are not attached, record again" in text
    notes = document(analyse([found]))["hosts"][0]["notes"]
    assert [note["name"] for note in notes] == ["modules", "nfsd", "nfsd"]
    # It was restarted with as many threads as before.
    assert found.nfsd_threads == 8


def test_number_of_threads_that_has_changed_is_unknown(host: Host, tmp_path: Path) -> None:
    host.put("net/rpc/nfsd", "th 8 0\n")
    assert recorded(host, tmp_path / "c", "8", "16", probes=[]).nfsd_threads is None


def test_clock_note_is_in_the_report(tmp_path: Path) -> None:
    note = {"mono_ns": 1001 * 10**9, "name": "clock", "text": "the wall clock was set"}
    path = capture(tmp_path / "c", [interval(1, json_frame(wire.NOTE, note))])
    (found,) = read_captures([path])
    assert document(analyse([found]))["hosts"][0]["notes"][0]["name"] == "clock"
