"""Guests for tests: `lab` is a booted server with a client, `boot` gives others."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAB = REPOSITORY / "vagrant/lab"
sys.path.insert(0, str(LAB.parent))

from lablib import kernels, play  # noqa: E402
from lablib.channel import Command  # noqa: E402
from lablib.errors import LostGuest  # noqa: E402
from lablib.lab import Config, Lab  # noqa: E402

Done = subprocess.CompletedProcess[str]


class Guests:
    """A booted lab.

    lab.exec("server", "echo $EXPORT")             a shell command, with the scenario's variables
    lab.exec("client", "false", check=False)       its status is the test's to judge
    lab.spawn("server", "nfsblame record ...")     in the background; .signal(), .wait(), .end()
    lab.wait_until("server", "test -e /x")         waits for a state, never for a time
    lab.fetch("server", "/var/tmp/capture", path)  a file or folder, to the host
    """

    def __init__(self, name: str) -> None:
        self.lab = Lab(name)

    def exec(self, guest: str, command: str, *, timeout: float = 120, check: bool = True) -> Done:
        """Runs a shell command in the scenarios' folder."""
        argv = ["bash", "-c", command]
        done = self.lab.guest(guest).run(argv, timeout, cwd=play.FOLDER)
        text = Done(argv, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and text.returncode:
            pytest.fail(f"{guest}: {command} ended with {text.returncode}\n{text.stderr}")
        return text

    def spawn(self, guest: str, command: str) -> Command:
        """Starts a shell command; its output goes to the guest's /var/tmp/spawned.log."""
        shell = f"exec >> /var/tmp/spawned.log 2>&1; {command}"
        return self.lab.guest(guest).spawn(["bash", "-c", shell], len, len, cwd=play.FOLDER)

    def wait_until(self, guest: str, command: str, *, timeout: float = 60) -> None:
        """Waits until a shell command succeeds."""
        deadline = time.monotonic() + timeout
        while self.exec(guest, command, check=False).returncode:
            if time.monotonic() > deadline:
                pytest.fail(f"{guest}: not so within {timeout:.0f} s: {command}")

    def alive(self) -> bool:
        """Whether every guest still answers."""
        try:
            return all(guest.run(["true"], 60).returncode == 0 for guest in self.lab.guests())
        except (LostGuest, subprocess.TimeoutExpired):
            return False

    def fetch(self, guest: str, path: str, target: Path) -> Path:
        """Copies a file or folder out of a guest."""
        play.fetch(self.lab.guest(guest), path, target)
        return target


class Boot(Protocol):
    """Boots a lab of its own; keywords as of lablib.lab.Config."""

    def __call__(self, **changes: Any) -> Guests: ...


@pytest.fixture(scope="session")
def boot() -> Iterator[Boot]:
    """Boots labs; all of them end with the session."""
    booted: list[Guests] = []
    numbers = itertools.count()

    def boot(**changes: Any) -> Guests:
        config = Config(kernel=kernels.choose(None).name, vers="4.2", owner=os.getpid())
        guests = Guests(f"test-{os.getpid()}-{next(numbers)}")
        booted.append(guests)
        guests.lab.up(replace(config, **changes))
        return guests

    yield boot
    for guests in booted:
        guests.lab.down()


@pytest.fixture(scope="session")
def shared() -> list[Guests]:
    """The lab that tests share, once it is booted: the last one."""
    return []


@pytest.fixture
def lab(boot: Boot, shared: list[Guests]) -> Guests:
    """One server and one client for all tests that leave them as they found them."""
    return shared_lab(boot, shared)


def shared_lab(boot: Boot, shared: list[Guests]) -> Guests:
    """Boots them anew after a test that lost one: it failed, the others need not."""
    if not shared or not shared[-1].alive():
        shared.append(boot())
        # What these compile is kept for the guests to come.
        play.prepare(shared[-1].lab.guests())
    return shared[-1]


def run_lab(*arguments: str | Path) -> Done:
    """Runs vagrant/lab as a user does."""
    argv = [sys.executable, str(LAB), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def play_scenario(
    scenario: str | Path, folder: Path, *, vers: str = "4.2", kernel: str = ""
) -> dict[str, Any]:
    """Plays a scenario, by name or path: what --json writes, with "output" and "exit_code".

    The captures lie in folder / "captures".
    """
    written = folder / "outcome.json"
    choices = ["--vers", vers, *(["--kernel", kernel] if kernel else [])]
    done = run_lab("run", scenario, *choices, "--json", written, "--save", folder)
    outcome: dict[str, Any] = json.loads(written.read_text()) if written.exists() else {}
    return {**outcome, "exit_code": done.returncode, "output": done.stdout + done.stderr}


RunScenario = Callable[..., dict[str, Any]]


@pytest.fixture
def run_scenario(tmp_path: Path) -> RunScenario:
    """Plays a scenario in the test's own folder: run_scenario("demo", vers="3")."""

    def run(scenario: str | Path, **choices: str) -> dict[str, Any]:
        return play_scenario(scenario, tmp_path, **choices)

    return run
