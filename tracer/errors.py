"""Errors that end a command: a message that says the mend, and the exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command, as documented in the README."""

    DONE = 0
    FINDING = 1
    USAGE = 2
    PRIVILEGE = 3
    KERNEL = 4
    INCOMPLETE = 5


class NfsblameError(Exception):
    """Ends the command with ``exit_code``; caught once, in ``tracer.cli.main``."""

    def __init__(self, message: str, exit_code: Exit) -> None:
        super().__init__(message)
        self.exit_code = exit_code
