"""Every kernel of the matrix: all programs load and attach, and the incident is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Boot, Guests
from counting import LEAST, WORK, compare
from lablib import kernels, play, runner, scenario
from lablib.kernels import Kernel
from lablib.runner import Request
from recording import recording, report

ENABLED = [kernel for kernel in kernels.matrix() if kernel.enabled]
# The default kernel's incident is test_incident.py's.
OTHERS = [kernel for kernel in ENABLED if not kernel.default]
SIDES = ("server", "client")
# 7.2 preempts itself, and then does not run every program: what is missed has no cause.
LEAST_SHARE = {"7.2": 0.5}


def lacks(kernel: Kernel) -> dict[str, set[str]]:
    """What the data file says that the kernel cannot have, by side."""
    return {
        side: {
            probe
            for degradation in kernel.degradations
            if degradation.side in (side, "both")
            for probe in degradation.probes
        }
        for side in SIDES
    }


def missed(document: dict[str, Any]) -> dict[str, set[str]]:
    """What was not attached on each host; a host has the name of its side."""
    return {host["host"]: set(host["probes_missing"]) for host in document["hosts"]}


@pytest.fixture(scope="module", params=OTHERS, ids=lambda kernel: str(kernel.name))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    found: Kernel = request.param
    return found


@pytest.fixture(scope="module")
def incident(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """One incident on each kernel: found as it hangs, and followed until all is well again."""
    folder = tmp_path_factory.mktemp(f"kernel-{kernel.name}")
    released = scenario.load(scenario.find("released"))
    return Request(released, kernel.name, "4.2", folder / "outcome.json", folder, keep=False)


@pytest.fixture(scope="module")
def guests(incident: Request, boot: Boot) -> Iterator[Guests]:
    """What each kernel is booted for once."""
    guests = boot(**vars(runner.config(incident)))
    # Compiles: a test that is run alone records no later than the others.
    play.prepare(guests.lab.guests())
    yield guests
    guests.lab.down()


@pytest.fixture(scope="module")
def outcome(incident: Request, guests: Guests) -> dict[str, Any]:
    assert incident.json
    code = runner.judged_in(guests.lab, incident, incident.json.parent)
    return {"exit_code": code, **json.loads(incident.json.read_text())}


def test_incident_is_named(kernel: Kernel, outcome: dict[str, Any]) -> None:
    assert (outcome["exit_code"], outcome["result"]) == (0, "PASS"), outcome["missed"]
    culprit = outcome["report"]["verdict"]["culprits"][0]
    assert (culprit["name"], culprit["cause"], culprit["host"]) == (
        "qaxsafed",
        "fanotify",
        "server",
    )


def test_lacks_exactly_what_is_listed(kernel: Kernel, outcome: dict[str, Any]) -> None:
    assert missed(outcome["report"]) == lacks(kernel)


def test_calls_and_rpcs_are_counted(outcome: dict[str, Any]) -> None:
    seen = {(row["side"], row["layer"]) for row in outcome["report"]["latency"]}
    assert {("server", "rpc"), ("client", "rpc"), ("client", "vfs")} <= seen


def test_counts_equal_the_kernels_own(kernel: Kernel, guests: Guests, tmp_path: Path) -> None:
    # Redis of the incident goes on, and with it what is asked of the server.
    guests.exec("client", "pkill -x redis-server", check=False)
    for vers in kernel.without_versions:
        done = guests.exec("client", f"mount -o vers={vers} $SERVER:$EXPORT /mnt", check=False)
        assert "Protocol not supported" in done.stderr
    works = {vers: work for vers, work in WORK.items() if vers not in kernel.without_versions}
    for vers, asked in compare(guests, tmp_path, works).items():
        assert len(asked) >= LEAST[vers]


def test_default_kernel_lacks_exactly_what_is_listed(lab: Guests, tmp_path: Path) -> None:
    captures = []
    for guest in SIDES:
        with recording(lab, guest, f"/var/tmp/all-{guest}") as running:
            assert running.end() == 0, running.said()
        captures.append(lab.fetch(guest, running.folder, tmp_path / guest))
    _, document = report(*captures)
    assert missed(document) == lacks(kernels.choose(None))


def test_every_degradation_has_its_reason() -> None:
    for kernel in kernels.matrix():
        for degradation in kernel.degradations:
            assert degradation.side in (*SIDES, "both")
            assert degradation.reason
            assert degradation.probes
