"""Plays a scenario in a booted lab: its shell in the guests, nfsblame recording beside it."""

import io
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT
from typing import IO

from lablib import compiled, tools
from lablib.channel import Command
from lablib.errors import LabError, ProductError
from lablib.guest import Guest
from lablib.lab import Lab
from lablib.scenario import Scenario

FOLDER = "/lab/scenario"
CAPTURE = "/var/tmp/capture"
READY = "/var/tmp/capture.ready"
SETUP_SECONDS = 300.0
# A minute or two under TCG; three guests at it on two busy CPUs took more than three.
COMPILE_SECONDS = 600.0
# Attaching takes TCG some ten seconds; being busy beside, many more.
READY_SECONDS = 180.0
END_SECONDS = 150.0
# A writer that is behind goes on when `nfsblame record` has ended.
SETTLE_SECONDS = 30.0
# What tar ends with when a file has changed while it was read.
CHANGED = 1
TAIL_LINES = 10
# Of `nfsblame record`: done, incomplete data. Each leaves a capture, which says what it lacks.
RECORD_CODES = (0, 5)


@dataclass
class Task:
    """A command in a guest, with what it said."""

    guest: Guest
    what: str
    command: Command
    output: io.BytesIO

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or None if it still runs."""
        return self.guest.wait(self.command, seconds)

    def said(self) -> str:
        """The end of its output."""
        text = self.output.getvalue().decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


@dataclass
class Played:
    """What playing a scenario gave."""

    ready_seconds: dict[str, float] = field(default_factory=dict)
    injected_us: int | None = None
    notes: list[str] = field(default_factory=list)


class Play:
    """One scenario, once."""

    def __init__(self, lab: Lab, scenario: Scenario) -> None:
        self.lab = lab
        self.scenario = scenario
        self.guests = [lab.guest(role) for role in scenario.guests]
        self.played = Played()

    def run(self) -> Played:
        """From the setups to the captures, ready to be fetched."""
        self.prepare()
        self.set_up()
        if self.scenario.record.start == "before":
            recorders = self.record()
            faults, works = self.start("fault"), self.start("work")
        else:
            faults, works = self.start("fault"), self.start("work")
            # A length of time, not a state: how long it has been stuck is the scenario's to say.
            time.sleep(self.scenario.record.delay)
            recorders = self.record()
        self.await_works(works, recorders)
        # A fault that keeps its truth up to date may go on while recording ends: read it now.
        # Others write it at their end.
        self.played.injected_us = self.truth()
        self.stop(recorders)
        for task in [*works, *faults]:
            self.end(task)
        if self.played.injected_us is None:
            self.played.injected_us = self.truth()
        return self.played

    def prepare(self) -> None:
        """Makes the guests ready to record."""
        prepare(self.guests)

    def set_up(self) -> None:
        """Runs the setups, the server's first; one that fails would make the verdict worthless."""
        for task in self.each("setup"):
            status = task.wait(SETUP_SECONDS)
            if status is None:
                raise LabError(f"{task.what} did not end within {SETUP_SECONDS:.0f} s")
            if status:
                raise LabError(f"{task.what} ended with {status}: {task.said()}")

    def start(self, kind: str) -> list[Task]:
        """Starts that kind of shell in every guest that has it."""
        return list(self.each(kind))

    def each(self, kind: str) -> Iterable[Task]:
        """Tasks started one by one, as they are asked for."""
        for guest in self.guests:
            if shell := getattr(self.scenario.guests[guest.name], kind):
                yield started(guest, f"{kind} on {guest.name}", ["bash", "-c", shell])

    def record(self) -> list[Task]:
        """Starts recording on every guest and waits until it does."""
        options = self.scenario.record.options
        argv = ["nfsblame", "record", "-o", CAPTURE, "--ready-file", READY, *options]
        began = time.monotonic()
        recorders = [started(guest, f"record on {guest.name}", argv) for guest in self.guests]
        for recorder in recorders:
            self.await_ready(recorder)
            self.played.ready_seconds[recorder.guest.name] = round(time.monotonic() - began, 2)
        return recorders

    def await_ready(self, recorder: Task) -> None:
        """Waits for the file that says that all probes are attached."""
        shell = f"until [ -e {READY} ]; do sleep 0.1; done"
        watch = started(recorder.guest, "waiting", ["bash", "-c", shell])
        deadline = time.monotonic() + READY_SECONDS
        while watch.wait(0.2) is None:
            if (status := recorder.wait(0)) is not None:
                raise ProductError(f"{recorder.what} ended with {status}: {recorder.said()}")
            if time.monotonic() > deadline:
                late = f"is not ready after {READY_SECONDS:.0f} s"
                raise ProductError(f"{recorder.what} {late}: {recorder.said()}")

    def await_works(self, works: list[Task], recorders: list[Task]) -> None:
        """Until all work has ended, or the scenario's seconds are over."""
        deadline = time.monotonic() + self.scenario.record.seconds
        for task in works or recorders:
            task.wait(max(0.0, deadline - time.monotonic()))

    def stop(self, recorders: list[Task]) -> None:
        """Ends recording as Ctrl-C does, clients first: what the server did for them is seen."""
        for recorder in reversed(recorders):
            recorder.command.signal(SIGINT)
        for recorder in recorders:
            status = recorder.wait(END_SECONDS)
            if status is None:
                late = f"did not end within {END_SECONDS:.0f} s of SIGINT"
                raise ProductError(f"{recorder.what} {late}: {recorder.said()}")
            if status not in RECORD_CODES:
                raise ProductError(f"{recorder.what} ended with {status}: {recorder.said()}")

    def end(self, task: Task) -> None:
        """Ends what still runs; what has failed by itself is worth a word."""
        if task.command.running():
            task.command.end()
        elif status := task.wait():
            self.played.notes.append(f"{task.what} ended with {status}: {task.said()}")

    def truth(self) -> int | None:
        """The injected time: given, or in a file of the first guest that has it."""
        given = self.scenario.expect.injected_us
        if not isinstance(given, str):
            return given
        for guest in self.guests:
            text = guest.run(["cat", given]).stdout.strip()
            if text.isdigit():
                return int(text)
        return None


def started(guest: Guest, what: str, argv: list[str]) -> Task:
    """Starts a command in the scenario's folder."""
    output = io.BytesIO()
    command = guest.spawn(argv, output.write, output.write, cwd=FOLDER)
    return Task(guest, what, command, output)


def prepare(guests: Sequence[Guest]) -> None:
    """Does what the README says to do after installing, on guests that do not have it yet."""
    argv = ["nfsblame", "prepare"]
    unprepared = [guest for guest in guests if not compiled.is_prepared(guest)]
    for task in [started(guest, f"prepare on {guest.name}", argv) for guest in unprepared]:
        status = task.wait(COMPILE_SECONDS)
        if status is None:
            raise ProductError(f"{task.what} did not end within {COMPILE_SECONDS:.0f} s")
        if status:
            raise ProductError(f"{task.what} ended with {status}: {task.said()}")
    for guest in unprepared:
        compiled.take(guest)


def fetch(guest: Guest, path: str, target: Path) -> None:
    """Copies a file or folder out of a guest, as `target`."""
    with tempfile.TemporaryFile() as archive, tempfile.TemporaryDirectory() as draft:
        parent, _, name = path.rstrip("/").rpartition("/")
        deadline = time.monotonic() + SETTLE_SECONDS
        while pack(guest, parent or "/", name, archive) == CHANGED and time.monotonic() < deadline:
            time.sleep(0.5)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as members:
            members.extractall(draft, filter="data")
        target.parent.mkdir(parents=True, exist_ok=True)
        tools.run(["mv", "-T", Path(draft) / name, target], f"fetching {path}")


def pack(guest: Guest, parent: str, name: str, archive: IO[bytes]) -> int:
    """Packs what lies in a guest's folder into the archive; the status is 0 or CHANGED."""
    archive.seek(0)
    archive.truncate()
    errors = io.BytesIO()
    command = guest.spawn(["tar", "-C", parent, "-cf", "-", name], archive.write, errors.write)
    status = guest.wait(command)
    if status not in (0, CHANGED):
        raise LabError(f"{guest.name}: {errors.getvalue().decode(errors='replace').strip()}")
    return status
