"""Faults with a known truth: the first culprit and its cause are right, and so is a clear verdict.

The most telling ones; `make score` plays all of them, five times.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_lab


@pytest.mark.parametrize(
    "scenario",
    [
        "chain-disk",
        "clamav",
        "client-agent",
        "cpu-realtime",
        "delegation-held",
        "disk-read",
        "fapolicyd",
        "frozen",
        "full-load",
        "many-workers",
        "packet-loss",
        "packets-held",
    ],
)
def test_scenario_is_scored_right(scenario: str, tmp_path: Path) -> None:
    done = run_lab("score", scenario, "--out", tmp_path)
    (row,) = json.loads((tmp_path / "score.json").read_text())["rows"]
    # Guests on a host with more to do wait for their CPUs, too, which shows as CPU time that
    # nobody had: then the share is less, and nothing else.
    assert all(note.startswith("min_share: ") for note in row["notes"]), done.stdout + done.stderr
    assert row["grade"] in ("right", "off"), row
    assert row["share"] is None or row["share"] >= 1 / 3, row
