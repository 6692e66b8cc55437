"""The incident, from the guests to the report."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Guests, RunScenario, play_scenario
from recording import lost, opener, recording, stopped_agent

from tracer.reader import read_captures

Report = dict[str, Any]


def host(report: Report, name: str) -> dict[str, Any]:
    (found,) = [row for row in report["hosts"] if row["host"] == name]
    return dict(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def outcome(folder: Path) -> dict[str, Any]:
    outcome = play_scenario("demo", folder)
    assert "report" in outcome, outcome["output"]
    return outcome


@pytest.fixture(scope="module")
def report(outcome: dict[str, Any]) -> Report:
    return dict(outcome["report"])


@pytest.fixture(scope="module")
def culprit(report: Report) -> dict[str, Any]:
    return dict(report["verdict"]["culprits"][0])


class TestDemo:
    """One run, looked at from all sides."""

    def test_passes(self, outcome: dict[str, Any]) -> None:
        assert (outcome["exit_code"], outcome["result"]) == (0, "PASS"), outcome["output"]

    def test_culprit_is_the_agent(self, report: Report, culprit: dict[str, Any]) -> None:
        expected = {
            "rank": 1,
            "kind": "process",
            "name": "qaxsafed",
            "exe": "/opt/qaxsafe/qaxsafed",
            "host": "server",
            "cause": "fanotify",
        }
        assert {key: culprit[key] for key in expected} == expected
        # Guests on a host with more to do wait for their CPUs, too.
        assert culprit["share"] >= 0.8
        # No other process holds permission events there.
        assert {row["pid"] for row in host(report, "server")["listeners"]} == {culprit["pid"]}

    def test_agent_started_when_recording_ran(
        self, report: Report, culprit: dict[str, Any]
    ) -> None:
        server = host(report, "server")
        times = server["start"], culprit["start_time"], server["end"]
        assert sorted(times, key=datetime.fromisoformat) == list(times)

    def test_held_time_is_the_agents_own(
        self, outcome: dict[str, Any], culprit: dict[str, Any]
    ) -> None:
        assert culprit["direct_us"] == pytest.approx(outcome["injected_us"], rel=0.1)

    def test_victims_are_on_the_client(self, culprit: dict[str, Any]) -> None:
        assert {row["host"] for row in culprit["victims"]} == {"client"}
        # The kernel may renew its lease meanwhile: that is no process's.
        processes = [row for row in culprit["victims"] if row["comm"] is not None]
        assert {row["comm"] for row in processes} == {"redis-server", "opener"}
        assert all(row["pid"] > 0 for row in processes)
        assert all(row["stall_us"] > 0 for row in culprit["victims"])

    def test_client_is_blamed_for_nothing(self, report: Report) -> None:
        culprits = report["verdict"]["culprits"]
        blamed = [row for row in culprits if row["kind"] == "process" and row["host"] == "client"]
        assert blamed == []

    @pytest.mark.parametrize("suspect", ["network", "disk"])
    def test_cleared_with_figures(self, report: Report, suspect: str) -> None:
        cleared = {row["suspect"]: row["figures"] for row in report["verdict"]["cleared"]}
        assert any(letter.isdigit() for letter in cleared[suspect])

    def test_queue_time_has_a_chain(self, culprit: dict[str, Any]) -> None:
        first, last = culprit["chain"][0], culprit["chain"][-1]
        assert (first["name"], first["cause"]) == ("nfsd", "queue")
        assert (last["name"], last["pid"]) == ("qaxsafed", culprit["pid"])
        assert all(link["stall_us"] > 0 for link in culprit["chain"])

    def test_kernel_log_is_in_the_capture(self, outcome: dict[str, Any], folder: Path) -> None:
        (client,) = read_captures([folder / "captures/client"])
        log = [event.text or "" for event in client.events if event.kind == "kmsg"]
        assert any("192.168.56.10 not responding" in line for line in log)

    def test_no_operation_is_lost(self, report: Report) -> None:
        assert lost(report["losses"]) == {}
        assert report["incomplete"] == []


def test_clear_without_the_agent(run_scenario: RunScenario) -> None:
    outcome = run_scenario("clear")
    assert (outcome["exit_code"], outcome["result"]) == (0, "PASS"), outcome["output"]


def test_recording_started_when_all_is_stuck(run_scenario: RunScenario) -> None:
    outcome = run_scenario("stuck")
    assert (outcome["exit_code"], outcome["result"]) == (0, "PASS"), outcome["output"]
    (culprit,) = outcome["report"]["verdict"]["culprits"]
    # The kernel renews its lease, too.
    assert {row["comm"] for row in culprit["victims"]} - {None} == {"opener", "redis-server"}


def named_at(capture: Path, agent: int) -> float:
    """When the capture first held both the agent's group and an operation waiting for it."""
    tables = {
        name: [
            row
            for file in capture.glob(f"{name}/*/*/*.parquet")
            for row in pq.ParquetFile(file).read().to_pylist()
        ]
        for name in ("listeners", "waits")
    }
    held = [row for row in tables["listeners"] if row["pid"] == agent and row["fanotify_group"]]
    groups = {row["fanotify_group"] for row in held}
    waiting = [row for row in tables["waits"] if row["fanotify_group"] in groups]
    assert held
    assert waiting
    return max(min(row["ts"] for row in rows).timestamp() for rows in (held, waiting))


def first_interval(capture: Path) -> float:
    """When the first interval of a capture ended."""
    rows = [
        row
        for file in capture.glob("samples/*/*/*.parquet")
        for row in pq.ParquetFile(file).read(columns=["ts"]).to_pylist()
    ]
    return min(row["ts"] for row in rows).timestamp()


def test_named_soon_when_all_is_stuck(lab: Guests, tmp_path: Path) -> None:
    folder = "/var/tmp/soon"
    with stopped_agent(lab) as agent, opener(lab):
        started = lab.exec("server", f"stat -c %Y /proc/{agent}").stdout
        with recording(lab, "server", folder) as running:
            assert running.end() == 0, running.said()
            began = running.began()
    code, document = running.report(tmp_path)
    culprit = document["verdict"]["culprits"][0]
    assert (code, culprit["name"], culprit["pid"]) == (0, "qaxsafed", agent)
    named_start = datetime.fromisoformat(culprit["start_time"]).timestamp()
    assert named_start == pytest.approx(int(started), abs=2)
    capture = tmp_path / running.name
    named = named_at(capture, agent)
    print(f"named {named - began:.1f} s after the start")
    # As soon as anything was written at all.
    assert named == first_interval(capture)
