"""Text, JSON and the brief: what they hold, and that hostile captures cannot harm."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from blame_cases import (
    AGENT,
    GROUP,
    QAXSAFED,
    REDIS,
    START,
    call,
    client,
    held,
    incident,
    listener,
    processes,
    served,
    server,
)
from hypothesis import given
from hypothesis import strategies as st

from tracer.blame import analyse
from tracer.blame.context import belongs_to
from tracer.blame.kthreads import works_for
from tracer.blame.units import human_bytes, human_us, percent
from tracer.durations import parse_duration_us, parse_limit
from tracer.histogram import bucket_of
from tracer.model import LatencyRow, Probe, Process, ProcessKey
from tracer.report.brief import brief
from tracer.report.document import as_json, document
from tracer.report.sanitise import sanitise
from tracer.report.sparkline import bounds, sparkline
from tracer.report.text import console_for, render


def text_of(analysis, width=100):
    file = io.StringIO()
    render(analysis, console_for(file, width))
    return file.getvalue()


@pytest.fixture(scope="module")
def analysis():
    case = incident()
    latency = (
        LatencyRow(
            "server",
            "nfs",
            "OP_OPEN",
            {bucket_of(200): 900, bucket_of(2_000_000): 30},
            1,
            16_000_000,
        ),
    )
    probes = (Probe("svc_xprt_dequeue", "queue time", False, None, "not in this kernel", "queue"),)
    theirs = replace(
        case.server,
        latency=latency,
        probes=probes,
        losses={"ring_full": 2},
        overhead={"cpu_percent": 0.4},
        incomplete=("recording was killed",),
    )
    ours = replace(case.client, losses={"ring_full": 1, "stack": 0})
    return analyse([theirs, ours])


class TestDocument:
    def test_has_the_stable_shape(self, analysis):
        report = json.loads(as_json(analysis))
        assert report["schema"] == 1
        assert {"host", "side", "kernel", "start", "end", "probes_missing"} <= set(
            report["hosts"][0]
        )
        assert {"threshold_us", "operations", "total_us", "in_flight"} <= set(report["stall"])
        assert {"clear", "summary", "culprits", "cleared"} <= set(report["verdict"])
        assert {
            "rank",
            "kind",
            "name",
            "pid",
            "start_time",
            "exe",
            "product",
            "host",
            "cause",
            "stall_us",
            "share",
            "operations",
            "victims",
            "chain",
            "evidence",
        } <= set(report["verdict"]["culprits"][0])
        context = {
            "uid",
            "cgroup",
            "container",
            "pod_uid",
            "pod_namespace",
            "pod_name",
            "command_line",
            "works_for",
        }
        assert context <= set(report["verdict"]["culprits"][0])
        assert {
            "host",
            "comm",
            "pid",
            "operations",
            "stall_us",
            "start_time",
            "exe",
            "volumes",
            *context,
        } == set(report["verdict"]["culprits"][0]["victims"][0])
        assert set(report["verdict"]["culprits"][0]["chain"][0]) == {
            "name",
            "pid",
            "cause",
            "stall_us",
        }
        assert {"side", "op", "cause", "total_us", "share"} <= set(report["ledger"][0])
        assert set(report["latency"][0]) == {
            "side",
            "layer",
            "op",
            "count",
            "p50_us",
            "p99_us",
            "max_us",
        }

    def test_values(self, analysis):
        report = document(analysis)
        assert report["hosts"][0]["start"] == "2026-11-22T10:00:00Z"
        assert report["hosts"][0]["probes_missing"] == ["svc_xprt_dequeue"]
        assert report["hosts"][0]["listeners"][0]["name"] == "qaxsafed"
        assert report["verdict"]["culprits"][0]["start_time"] == "2026-11-02T08:00:00Z"
        assert report["losses"] == {"ring_full": 3, "stack": 0}
        assert report["incomplete"] == ["server: recording was killed"]
        assert report["overhead"] == {"server": {"cpu_percent": 0.4}, "client": {}}
        assert report["latency"][0]["count"] == 930

    def test_in_flight_says_on_whom(self):
        op = served(10, 50, held(10, 50, in_flight=True), in_flight=True)
        (row,) = document(analyse([server([op])]))["in_flight"]
        assert row["waits_for"] == [
            {"cause": "fanotify", "culprit": "qaxsafed", "total_us": 40_000_000}
        ]

    def test_figures_that_are_no_numbers_are_null(self):
        capture = server(overhead={"cpu_percent": float("nan")})
        assert json.loads(as_json(analyse([capture])))["overhead"] == {
            "server": {"cpu_percent": None}
        }

    def test_nothing_recorded_is_still_a_report(self):
        report = document(analyse([server(listeners=(), samples=())]))
        assert report["verdict"] == {
            "clear": True,
            "summary": "Clear: no NFS operation took longer than 100 ms.",
            "culprits": [],
            "cleared": [
                {
                    "suspect": "nfsd threads",
                    "figures": "server: at most 0 of 8 in slow operations at once",
                }
            ],
            "advice": [],
        }


class TestText:
    def test_leads_with_the_verdict(self, analysis):
        first = " ".join(text_of(analysis).split())
        assert first.startswith(analysis.verdict.summary)

    def test_has_every_section(self, analysis):
        text = text_of(analysis)
        for part in (
            "Incomplete data: server: recording was killed",
            "Culprit 1",
            "chain: operation <- nfsd (queue, 12 min 6 s) <- qaxsafed (fanotify, 19 min 10 s)",
            "redis-server",
            "Cleared",
            "Where the time of slow operations went",
            "Latency per operation",
            "missing probe svc_xprt_dequeue: not in this kernel; lost: queue",
            "lost: 3 slow operations for which the ring buffer had no room (ring_full)",
            "server: cpu_percent 0.4",
            "kernel 6.1.0-50-cloud-amd64",
        ):
            assert part in text

    def test_in_flight_is_shown(self):
        op = served(10, 50, held(10, 50, in_flight=True), in_flight=True, begin_known=False)
        text = text_of(analyse([server([op])]))
        assert "Still in flight when recording ended" in text
        assert "at least 40 s" in text

    def test_no_colour_into_files(self, analysis):
        assert "\x1b" not in text_of(analysis)

    @pytest.mark.parametrize("width", [40, 60, 80, 200])
    def test_keeps_to_its_width(self, analysis, width):
        assert all(len(line) <= width for line in text_of(analysis, width).splitlines())


HOSTILE = "\x1b[2Jevil\r\n\x07\u202egpj.exe\u2066\x9b31m[bold red]hi[/bold red]\U000e0041:boom:"


class TestHostileNames:
    @pytest.fixture
    def hostile(self):
        row = Process(AGENT, comm=HOSTILE, exe="/opt/" + HOSTILE, container=HOSTILE)
        capture = server(
            [served(10, 14, held(10, 14), peer=HOSTILE, nfs_op=HOSTILE)],
            host=HOSTILE,
            kernel=HOSTILE,
            processes=processes(row),
            listeners=(listener(marks=HOSTILE),),
            losses={HOSTILE: 1},
            overhead={HOSTILE: 1.0},
            incomplete=(HOSTILE,),
            probes=(Probe(HOSTILE, HOSTILE, False, None, HOSTILE, HOSTILE),),
            latency=(LatencyRow("server", "rpc", HOSTILE, {5: 1}, 5, 5),),
        )
        calls = [call(10, 14, comm=HOSTILE, op=HOSTILE, mount=HOSTILE, in_flight=True)]
        return analyse([capture, client(calls)])

    def test_text_prints_nothing_unsafe(self, hostile):
        text = text_of(hostile)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
        assert "\U000e0041" not in text
        assert r"\x1b[2Jevil" in text
        assert "[bold red]hi[/bold red]" in text.replace("\n", "")

    def test_brief_is_single_lines(self, hostile):
        lines = brief(hostile)
        assert len(lines) <= 5
        assert all(line.isprintable() for line in lines)

    def test_json_keeps_the_names_and_is_ascii(self, hostile):
        text = as_json(hostile)
        assert text.isascii()
        assert all(character == "\n" or character.isprintable() for character in text)
        assert json.loads(text)["hosts"][0]["kernel"] == HOSTILE

    @given(st.text(max_size=600))
    def test_sanitised_text_is_printable(self, text):
        safe = sanitise(text)
        assert safe.replace(" ", "").isprintable()
        assert "\x1b" not in safe

    def test_plain_text_is_unchanged(self):
        for text in ("qaxsafed", "奇安信 安全", "naïve ü", "[red]x[/]", "a b"):
            assert sanitise(text) == text

    def test_long_and_stacked_text_is_cut(self):
        assert len(sanitise("x" * 10_000)) <= 401
        assert sanitise("a" + "\u0301" * 50).count("\u0301") == 2


class TestContext:
    """An agent and its victim in pods, and a later process with the victim's pid."""

    @pytest.fixture
    def victims_analysis(self):
        case = incident()
        pod = {"pod_uid": "8f0c2b1e", "pod_namespace": "default", "container": "3f" * 32}
        agent = replace(QAXSAFED, **pod, pod_name="scanner-x", command_line="qaxsafed -k secret")
        redis = Process(REDIS, comm="redis-server", uid=999, **pod, pod_name="redis-0")
        after = ProcessKey(REDIS.pid, REDIS.start_us + 9_000_000)
        again = Process(after, comm="redis-server", container="ab" * 32)
        last = [op for op in case.client.operations if op.process == REDIS][-2:]
        ops = [
            replace(op, process=after) if op in last else replace(op, volume="pvc-1")
            for op in case.client.operations
        ]
        ours = replace(case.client, operations=ops, processes=processes(redis, again))
        return analyse([replace(case.server, processes=processes(agent)), ours])

    def test_json_names_pods_and_volumes(self, victims_analysis):
        culprit = document(victims_analysis)["verdict"]["culprits"][0]
        assert (culprit["pod_namespace"], culprit["pod_name"]) == ("default", "scanner-x")
        assert culprit["command_line"] == "qaxsafed -k secret"
        victims = [v for v in culprit["victims"] if v["comm"] == "redis-server"]
        assert {(v["pod_name"], v["uid"], tuple(v["volumes"])) for v in victims} == {
            ("redis-0", 999, ("pvc-1",)),
            (None, None, ()),
        }

    def test_text_names_them(self, victims_analysis):
        text = " ".join(text_of(victims_analysis).split())
        assert "qaxsafed (pid 412, pod default/scanner-x) on server" in text
        assert "command line: qaxsafed -k secret" in text
        # Two processes of one name that belong to different places: neither is told.
        assert "redis-server 2 processes" in text

    def test_victim_of_one_pod_is_told_with_its_volume(self):
        words = belongs_to(
            Process(REDIS, pod_namespace="default", pod_name="redis-0", container="a"), {"pvc-1"}
        )
        assert words == ["pod default/redis-0", "volume pvc-1"]
        assert belongs_to(None, ()) == []
        assert belongs_to(Process(REDIS, container="3f" * 32)) == ["container 3f3f3f3f3f3f"]


class TestKernelThreads:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("nfsd", "requests of NFS clients"),
            ("jbd2/vdb-8", "the ext4 journal of vdb"),
            ("jbd2/dm-0-8", "the ext4 journal of dm-0"),
            ("jbd2/mmcblk0boo", "an ext4 journal"),  # cut off
            ("loop0", "the loop device loop0"),
            ("10.9.0.1-manage", None),
            ("10.9.0.1-manager", "recovery of NFSv4 state"),
            ("kworker/u4:0", None),
            ("nfsd-impostor", None),
        ],
    )
    def test_by_name(self, name, text):
        assert works_for(name) == text

    def test_a_worker_by_what_it_was_seen_doing(self):
        writeback = ("up_read", "nfs_writepages", "do_writepages", "wb_workfn", "worker_thread")
        assert works_for("kworker/0:1", [writeback]) == "writeback to an NFS server"
        assert works_for("kworker/0:1", [writeback, ("blk_mq_run_work_fn",)]) is None
        assert works_for("kworker/0:1", [("something_else",)]) is None


class TestBrief:
    def test_first_line_is_the_summary(self, analysis):
        lines = brief(analysis)
        assert lines[0] == analysis.verdict.summary
        assert len(lines) == 4
        assert lines[1].startswith(f"evidence: answers fanotify group {GROUP}")
        assert lines[2] == "38 stalled operations, 19 min 10 s in all"
        assert lines[3] == "cleared: network, disk, cpu, memory"

    def test_without_stalls_it_is_short(self):
        assert brief(analyse([client()])) == ["Clear: no NFS operation took longer than 100 ms."]


class TestFigures:
    @pytest.mark.parametrize(
        ("us", "text"),
        [
            (0, "0 us"),
            (999, "999 us"),
            (1000, "1 ms"),
            (45_200, "45.2 ms"),
            (999_400, "999 ms"),
            (999_600, "1 s"),
            (1_234_000, "1.23 s"),
            (99_940_000, "99.9 s"),
            (125_000_000, "2 min 5 s"),
            (12_000_000_000, "3 h 20 min"),
            (-5, "0 us"),
        ],
    )
    def test_durations(self, us, text):
        assert human_us(us) == text

    def test_bytes(self):
        assert [human_bytes(n) for n in (0, 512, 1234, 4e8)] == [
            "0 B",
            "512 B",
            "1.23 kB",
            "400 MB",
        ]

    def test_percent_never_rounds_to_a_false_whole(self):
        assert [percent(x) for x in (0, 0.004, 0.5, 0.995, 1)] == [
            "0 %",
            "under 1 %",
            "50 %",
            "over 99 %",
            "100 %",
        ]

    def test_limits(self):
        assert parse_duration_us("500ms") == 500_000
        assert parse_duration_us("1.5 min") == 90_000_000
        assert parse_limit("10%") == (None, 0.1)
        assert parse_limit("2s") == (2_000_000, None)
        for nonsense in ("", "2", "s", "-1s", "2 parsecs", "120%", "1e3s"):
            with pytest.raises(ValueError, match="write"):
                parse_limit(nonsense)

    def test_sparkline_shares_columns_and_shows_single_slow_ones(self):
        fast, slow = {bucket_of(100): 100_000}, {bucket_of(100): 5, bucket_of(3000): 1}
        low, high = bounds([fast, slow])
        assert (low, high) == (6, 11)
        assert sparkline(fast, low, high) == "█     "
        assert sparkline(slow, low, high)[-1] != " "
        assert sparkline(slow, low, high, ascii_only=True).isascii()
        assert sparkline({}, 0, 3) == "    "


def test_recording_times_may_be_odd():
    odd = server(start=START, end=START - timedelta(seconds=5), sides=())
    assert "no NFS" in text_of(analyse([odd]))


def test_redis_is_not_a_culprit_of_its_own_wait():
    assert not analyse([client([call(10, 14)])]).verdict.culprits
    assert REDIS.pid == 811
