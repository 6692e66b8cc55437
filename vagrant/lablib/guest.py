"""One running guest: commands in it, and what its console said when it is lost."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lablib import qemu
from lablib.channel import Command, Sink
from lablib.errors import LostGuest

CONSOLE_LINES = 80


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
        """Waits for the command; a lost guest is told with the end of its console."""
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

    def lost(self, reason: str) -> LostGuest:
        """The error that tells what is known about the guest's end."""
        console = self.folder / "console"
        text = console.read_bytes().decode(errors="replace") if console.exists() else ""
        tail = "\n".join(line.rstrip() for line in text.splitlines()[-CONSOLE_LINES:])
        return LostGuest(f"lost guest {self.name}: {reason}\n--- end of its console\n{tail}")


def through(descriptor: int) -> Sink:
    """A sink that writes to a file descriptor at once."""
    return io.FileIO(descriptor, "w", closefd=False).write
