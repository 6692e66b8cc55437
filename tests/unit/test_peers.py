"""What other tools say about a fault: lines in, a table out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "vagrant"))

from lablib import peers
from lablib.scenario import Expect, Record, Scenario

SLOWER = peers.TOOLS[0]
TEXT = """\
Tracing NFS operations that are slower than 100 ms... Ctrl-C to quit
TIME     COMM           PID    T BYTES   OFF_KB   LAT(ms) FILENAME

10:13:15 opener         811    O 0       0         831.90 17
10:13:16 scand-helper   900    O 0       0         120.00 18
"""


def scenario(culprit: str | None) -> Scenario:
    return Scenario(Path("x.toml"), "x", "about", {}, Record(), Expect(culprit=culprit))


@pytest.mark.parametrize(
    ("culprit", "naming", "first"),
    [
        ("scand", 1, "10:13:16 scand-helper"),
        ("qaxsafed", 0, ""),
        ("pener", 0, ""),
        ("", 0, ""),
        (None, 0, ""),
    ],
)
def test_lines_that_name_the_culprit(culprit: str | None, naming: int, first: str) -> None:
    said = peers.judged(scenario(culprit), SLOWER, TEXT)
    assert (said.tool, said.role, said.lines, said.naming) == (
        "nfsslower-bpfcc",
        "client",
        4,
        naming,
    )
    assert said.stands_out.startswith(first)
    assert bool(said.stands_out) == bool(first)


def test_a_tool_that_does_not_start_says_why() -> None:
    said = peers.judged(scenario("scand"), SLOWER, "Traceback ...\nException: not traceable\n")
    assert (said.naming, said.stands_out) == (0, "does not start: Exception: not traceable")


def block(waker: str, target: str, us: int) -> str:
    return (
        f"    waker:           {waker}\n    try_to_wake_up\n    up_write\n    --               --\n"
        f"    schedule\n    down_write\n    target:          {target}\n        {us}\n\n"
    )


def test_of_offwaketime_who_woke_nfsd() -> None:
    text = "Tracing blocked time (us) by kernel stack\n" + "".join(
        [
            block("scand 181", "nfsd 170", 1_500_000),
            block("swapper/1 0", "nfsd 171", 4_000_000),
            block("scand 181", "sh 190", 90_000_000),
            block("thread pool 182", "nfsd 171", 250_000),
            block("scand 181", "nfsd 171", 4_500_000),
            block("swapper/0 0", "nfsd 172", 92233720370460252),
        ]
    )
    said = peers.judged(scenario("scand"), peers.TOOLS[1], text)
    assert said.stands_out == "woke nfsd: scand 6.0 s, swapper/1 4.0 s, thread pool 0.2 s"
    assert peers.wakers("") == "nobody woke nfsd"


def test_the_table_has_a_line_for_each() -> None:
    said = peers.judged(scenario("scand"), SLOWER, TEXT)
    heading, line = peers.table([said]).splitlines()
    assert heading.startswith("scenario")
    assert line.split()[:5] == ["x", "nfsslower-bpfcc", "client", "4", "1"]
