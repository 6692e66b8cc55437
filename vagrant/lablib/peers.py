"""What an engineer would run instead of nfsblame: bcc's tools on the same fault, words kept."""

import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lablib import lab, play
from lablib.errors import LabError
from lablib.scenario import Scenario

PACKAGES: Final = ["bpfcc-tools", "linux-headers-cloud-amd64"]
# Each holds clang and LLVM, and compiles against the kernel's headers: that takes more room
# and time than all else in a guest.
MEMORY_MIB: Final = 2048
READY_SECONDS: Final = 300.0
END_SECONDS: Final = 120.0
_HEADINGS: Final = ("scenario", "tool", "on", "lines", "name the culprit", "what stands out")
_SHOWN: Final = 100
_WAKERS: Final = 3
# A block of offwaketime: the waker's name and pid, stacks, who slept, its pid, microseconds.
_SLEEP: Final = re.compile(r"waker: +(.+) \d+\n(?:.*\n)* +target: +nfsd \d+\n +(\d+)")
# It was asleep before the tool began: what it says then is no duration.
_NO_TIME_US: Final = 1 << 50


@dataclass(frozen=True)
class Tool:
    """A tool on one of the guests; ``begins`` is what it says when it traces."""

    role: str
    argv: tuple[str, ...]
    begins: str

    @property
    def name(self) -> str:
        """What Debian calls it."""
        return self.argv[0]


TOOLS: Final = (
    Tool("client", ("nfsslower-bpfcc", "100"), "Tracing NFS operations"),
    Tool("server", ("offwaketime-bpfcc",), "Tracing blocked time"),
    Tool("server", ("biosnoop-bpfcc",), "TIME"),
    Tool("server", ("runqlat-bpfcc", "-P"), "Tracing run queue latency"),
)


@dataclass(frozen=True)
class Said:
    """What a tool said in a scenario, as far as it names the culprit."""

    scenario: str
    tool: str
    role: str
    lines: int
    naming: int
    stands_out: str = ""


class Watched(play.Play):
    """A scenario with other tools in nfsblame's place."""

    def __init__(self, booted: lab.Lab, scenario: Scenario) -> None:
        super().__init__(booted, scenario)
        self.said: dict[Tool, str] = {}
        self._tasks: dict[Tool, play.Task] = {}

    def prepare(self) -> None:
        """Compiles nothing in advance: these tools cannot."""

    def record(self) -> list[play.Task]:
        """Starts one tool after the other, and waits until it traces.

        One that cannot start on this kernel is left out; its words are kept.
        """
        for tool in TOOLS:
            argv = ["env", "PYTHONUNBUFFERED=1", *tool.argv]
            task = play.started(self.lab.guest(tool.role), tool.name, argv)
            if self.begins(tool, task):
                self._tasks[tool] = task
            else:
                self.said[tool] = text_of(task)
        return list(self._tasks.values())

    def begins(self, tool: Tool, task: play.Task) -> bool:
        """Waits for the words with which a tool begins; whether it has said them."""
        began = time.monotonic()
        while tool.begins not in text_of(task):
            if task.wait(0.5) is not None:
                return False
            if time.monotonic() - began > READY_SECONDS:
                raise LabError(f"{tool.name} does not trace after {READY_SECONDS:.0f} s")
        self.played.ready_seconds[tool.name] = round(time.monotonic() - began, 2)
        return True

    def stop(self, recorders: list[play.Task]) -> None:
        """Ends the tools as Ctrl-C does; some of them say all they have only then."""
        for task in recorders:
            task.command.signal(signal.SIGINT)
        for tool, task in self._tasks.items():
            if task.wait(END_SECONDS) is None:
                self.played.notes.append(f"{tool.name} did not end within {END_SECONDS:.0f} s")
            self.said[tool] = text_of(task)


def text_of(task: play.Task) -> str:
    """All that a task has said so far."""
    return task.output.getvalue().decode(errors="replace")


def watch(scenario: Scenario, config: lab.Config, folder: Path) -> list[Said]:
    """Plays a scenario under the tools; what they say goes into the folder."""
    roles = {tool.role for tool in TOOLS}
    packages = {role: [*config.packages.get(role, []), *PACKAGES] for role in roles}
    values: dict[str, Any] = {**vars(config), "packages": packages, "memory_mib": MEMORY_MIB}
    folder.mkdir(parents=True, exist_ok=True)
    with lab.fresh(f"peers-{config.owner}", lab.Config(**values), keep=False) as booted:
        watched = Watched(booted, scenario)
        watched.run()
    for tool, text in watched.said.items():
        (folder / f"{tool.name}.txt").write_text(text)
    return [judged(scenario, tool, watched.said[tool]) for tool in TOOLS]


def judged(scenario: Scenario, tool: Tool, text: str) -> Said:
    """How often a tool names the culprit, and what it leads to; why if it never traced.

    Of offwaketime one reads who woke nfsd's threads after most of their sleep, as it has
    blocks by the thousand; of the others the first line with the name.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    culprit = scenario.expect.culprit
    pattern = re.compile(rf"\b(?:{culprit})") if culprit else None
    naming = [line.strip() for line in lines if pattern and pattern.search(line)]
    if tool.begins not in text:
        out = f"does not start: {lines[-1].strip()}" if lines else "does not start"
    elif tool.name.startswith("offwaketime"):
        out = wakers(text)
    else:
        out = naming[0] if naming else ""
    return Said(scenario.name, tool.name, tool.role, len(lines), len(naming), out[:_SHOWN])


def wakers(text: str) -> str:
    """Who ended most of the sleep of nfsd's threads, by offwaketime."""
    sums: Counter[str] = Counter()
    for block in text.split("\n\n"):
        found = _SLEEP.search(block)
        if found and int(found[2]) < _NO_TIME_US:
            sums[found[1].strip()] += int(found[2])
    parts = [f"{name} {us / 1e6:.1f} s" for name, us in sums.most_common(_WAKERS)]
    return f"woke nfsd: {', '.join(parts)}" if parts else "nobody woke nfsd"


def table(rows: Sequence[Said]) -> str:
    """The table as text."""
    cells = [_HEADINGS] + [
        (row.scenario, row.tool, row.role, str(row.lines), str(row.naming), row.stands_out)
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in cells
    )
