"""The lab's score: outcomes in, a table out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "vagrant"))

from lablib import score
from lablib.judge import judge
from lablib.scenario import Also, Expect

AGENT = Expect(
    cause="fanotify", culprit="scand", host="server", min_share=0.9, injected_us=3_000_000
)
CLEAR = Expect(culprit="")


def outcome(expect, *culprits, injected=3_000_000):
    report = {"verdict": {"culprits": list(culprits), "clear": not culprits}, "ledger": []}
    return judge(expect, report, injected)


def culprit(name="scand", **changes):
    values = {"name": name, "cause": "fanotify", "host": "server", "share": 0.97}
    return {**values, "stall_us": 9_000_000, "direct_us": 3_100_000, **changes}


@pytest.mark.parametrize(
    ("expect", "culprits", "grade"),
    [
        (AGENT, [culprit()], "right"),
        (AGENT, [culprit("cron")], "wrong"),
        (AGENT, [culprit(cause="lock")], "wrong"),
        (AGENT, [culprit(host="client")], "wrong"),
        (AGENT, [], "missed"),
        (AGENT, [culprit(share=0.5)], "off"),
        (AGENT, [culprit(direct_us=1_000_000)], "off"),
        (CLEAR, [], "right"),
        (CLEAR, [culprit()], "wrong"),
    ],
)
def test_grade(expect, culprits, grade):
    assert score.grade_of(outcome(expect, *culprits)) == grade


@pytest.mark.parametrize(
    ("also", "met"),
    [
        ([Also("lesserd", "fanotify", 0.2)], True),
        ([Also("lesserd"), Also(cause="disk")], True),
        ([Also(cause="disk"), Also("lesserd")], False),
        ([Also("lesserd", "disk")], False),
        ([Also("lesserd", min_share=0.3)], False),
        ([Also("scand")], False),
    ],
)
def test_further_culprits_are_expected_in_their_order(also, met):
    found = [
        culprit(share=0.6),
        culprit("lesserd", share=0.25),
        culprit("vdd", cause="disk", share=0.1),
    ]
    judged = outcome(Expect(culprit="scand", also=also), *found)
    assert [miss.key for miss in judged.missed] == ([] if met else ["also"])
    assert score.grade_of(judged) == ("right" if met else "off")


def rows():
    return [
        score.row_of("held", "6.1", "4.2", outcome(AGENT, culprit())),
        score.Row("boots", "6.1", "4.2", "lost", notes=("server: fell silent",)),
        score.row_of("quiet", "6.1", "4.2", outcome(CLEAR, culprit("cron"))),
    ]


def test_wrong_names_come_first():
    assert [row.scenario for row in score.ranked(rows())] == ["quiet", "boots", "held"]


def test_table_shows_times_notes_and_totals():
    text = score.table(rows())
    assert "held      6.1     4.2   right  scand (fanotify) 97%  3.10 s of 3.00 s (103%)" in text
    assert "quiet 6.1: culprit: expected a clear verdict, got cron" in text
    assert "1 of 3 wrong" in text
    assert score.document(rows())["totals"] == {"wrong": 1, "lost": 1, "right": 1}
