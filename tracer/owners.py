"""Whose code a thread is in while it is not at its own work, as a column of captures holds it."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Owner(NamedTuple):
    """A kernel module, a BPF program with its id, or the work of interrupts."""

    kind: Literal["module", "bpf", "irq"]
    name: str
    program: int | None = None

    def text(self) -> str:
        """Return "module NAME", "bpf NAME ID" or "irq softirq"."""
        words = [self.kind, self.name]
        if self.program is not None:
            words.append(str(self.program))
        return " ".join(words)


def owner_of(text: str | None) -> Owner | None:
    """Return the owner that a text names, None if it names none: captures come from strangers."""
    match (text or "").split(" "):
        case ["module", name] if name:
            return Owner("module", name)
        case ["bpf", name, program] if name and program.isascii() and program.isdecimal():
            return Owner("bpf", name, int(program))
        case ["irq", name] if name:
            return Owner("irq", name)
    return None
