"""One running guest: commands in it, and what its console said when it is lost."""

import io
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lablib import qemu
from lablib.channel import Command, Sink
from lablib.errors import LostGuest

CONSOLE_LINES = 120
# How the kernel begins to say what killed it; the last lines alone are the end of a stack.
TROUBLE = re.compile(r"BUG: |Oops|Kernel panic|kernel BUG|watchdog: |general protection|RIP: 0010")


class Guest:
    """A guest by its folder: nothing else is needed to talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def start(self, machine: qemu.Machine) -> None:
        """Starts its QEMU; the agent answers some seconds later."""
        qemu.start(qemu.full(machine), self.folder)
        qemu.await_socket(self.folder, "port0")

    def alive(self) -> bool:
        """Whether its QEMU runs."""
        return qemu.pid(self.folder) is not None

    def stop(self) -> None:
        """Ends it; nothing in it is worth a shutdown."""
        qemu.stop(self.folder)

    def spawn(self, argv: Sequence[str], stdout: Sink, stderr: Sink, cwd: str = "/root") -> Command:
        """Starts a command whose output goes to the sinks."""
        try:
            return Command(self.folder, argv, stdout, stderr, cwd=cwd)
        except LostGuest as error:
            raise self.lost(str(error)) from error

    def wait(self, command: Command, seconds: float | None = None) -> int | None:
        """Waits for the command; a lost guest is told with its console."""
        try:
            return command.wait(seconds)
        except LostGuest as error:
            raise self.lost(str(error)) from error

    def run(
        self, argv: Sequence[str], seconds: float | None = None, cwd: str = "/root"
    ) -> "subprocess.CompletedProcess[bytes]":
        """Runs a command to its end and returns its output."""
        stdout, stderr = io.BytesIO(), io.BytesIO()
        command = self.spawn(argv, stdout.write, stderr.write, cwd)
        try:
            status = self.wait(command, seconds)
        finally:
            command.close()
        if status is None:
            raise subprocess.TimeoutExpired(
                argv, seconds or 0, stdout.getvalue(), stderr.getvalue()
            )
        return subprocess.CompletedProcess(argv, status, stdout.getvalue(), stderr.getvalue())

    def stream(self, argv: Sequence[str]) -> int:
        """Runs a command with its output passed on as it comes."""
        command = self.spawn(argv, through(sys.stdout.fileno()), through(sys.stderr.fileno()))
        try:
            status = self.wait(command)
        finally:
            command.close()
        assert status is not None
        # As a shell says that a signal ended it.
        return 128 - status if status < 0 else status

    def processes(self) -> str:
        """What runs in it and what each waits for; empty if it does not answer."""
        with suppress(LostGuest, subprocess.TimeoutExpired):
            return self.run(["ps", "-eo", "pid,ppid,stat,wchan:24,args"], 30).stdout.decode()
        return ""

    def lost(self, reason: str) -> LostGuest:
        """The error that tells what is known about the guest's end."""
        console = self.folder / "console"
        text = console.read_bytes().decode(errors="replace") if console.exists() else ""
        said = "\n".join(telling(text))
        return LostGuest(f"lost guest {self.name}: {reason}\n--- its console\n{said}")


def telling(console: str) -> list[str]:
    """The lines of a console from where trouble began, or else the last ones."""
    lines = [line.rstrip() for line in console.splitlines()]
    began = next((at for at, line in enumerate(lines) if TROUBLE.search(line)), len(lines))
    first = max(0, min(began, len(lines) - CONSOLE_LINES))
    return lines[first : first + CONSOLE_LINES]


def through(descriptor: int) -> Sink:
    """A sink that writes to a file descriptor at once."""
    return io.FileIO(descriptor, "w", closefd=False).write
