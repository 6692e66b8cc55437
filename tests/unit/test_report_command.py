"""``nfsblame report`` with a reader that hands out captures built by hand."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from blame_cases import CLIENT, SERVER, call, client, held, served, server
from click.testing import CliRunner

from tracer.commands.report import command
from tracer.errors import Exit
from tracer.model import Recorded


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(capture, *arguments):
        reader = ModuleType("tracer.reader")
        reader.read_captures = lambda paths: [capture]
        monkeypatch.setitem(sys.modules, "tracer.reader", reader)
        return CliRunner().invoke(command, [str(tmp_path), *arguments])

    return run


HELD = server([served(10, 14, held(10, 14))])


def test_text(run):
    result = run(HELD)
    assert result.exit_code == Exit.DONE
    assert result.stdout.startswith("qaxsafed (pid 412, /opt/qaxsafe/qaxsafed) on server caused")


def test_json(run):
    report = json.loads(run(HELD, "--format", "json").stdout)
    assert report["verdict"]["culprits"][0]["name"] == "qaxsafed"


def test_brief(run):
    lines = run(HELD, "--format", "brief").stdout.splitlines()
    assert lines[0].startswith("qaxsafed (pid 412")
    assert len(lines) <= 5


@pytest.mark.parametrize("option", ["--op=open", "--client=10.9.0.2"])
def test_only_what_was_asked_for_is_counted(run, option):
    two = server([served(10, 14, held(10, 14)), served(20, 22, nfs_op="OP_WRITE", peer="10.9.0.7")])
    report = json.loads(run(two, "--format", "json", option).stdout)
    assert report["stall"]["total_us"] == 4_000_000
    name, _, value = option[2:].partition("=")
    assert report["only"] == {name: value}
    assert f"Counted are stalls with --{name} {value} only." in run(two, option).stdout


def test_selection_that_is_nowhere_in_the_capture_is_usage(run):
    result = run(HELD, "--op", "\x1b[2Jnonsense")
    assert result.exit_code == Exit.USAGE
    assert "recorded were" in result.stderr
    assert "\x1b" not in result.stderr


FAST = [
    Recorded("client", "READ", "cat", 12, "/mnt/nfs", SERVER),
    Recorded("client", "WRITE", "tee", 13, "/mnt/nfs", SERVER),
    Recorded("server", "OP_GETATTR", None, None, "/srv/nfs", CLIENT),
]


@pytest.mark.parametrize(
    "options",
    [
        "--process nobody",
        "--process 14",
        "--mount /mnt/other",
        "--client 10.9.0.9",
        "--op RENAME",
        # Each is there, but not of one operation.
        "--op WRITE --process cat",
        "--process tee --client 10.9.0.2",
    ],
)
def test_what_no_fast_operation_is_either_is_no_clear_verdict(run, options):
    result = run(client([], recorded=FAST, addresses=()), *options.split())
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert options.split()[0] in result.stderr


def test_a_capture_of_nothing_says_so(run):
    result = run(client(), "--process", "cat")
    assert result.exit_code == Exit.USAGE
    assert "recorded were none" in result.stderr


@pytest.mark.parametrize("options", ["--process cat", "--op getattr", "--op WRITE --process 13"])
def test_fast_operations_alone_are_clear_and_it_says_which(run, options):
    result = run(client([], recorded=FAST), *options.split(), "--format", "brief")
    assert result.exit_code == Exit.DONE
    assert f"Clear: no NFS operation with {options} took longer than 100 ms." in result.stdout


def test_a_recorded_client_is_its_address_too(run):
    slow = call(10, 14)
    for name in ("client", CLIENT):
        report = json.loads(run(client([slow]), "--client", name, "--format", "json").stdout)
        assert report["stall"]["total_us"] == 4_000_000
        assert report["only"] == {"client": name}


def test_output_file(run, tmp_path):
    path = tmp_path / "report.txt"
    result = run(HELD, "-o", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_text(encoding="utf-8").startswith("qaxsafed")


def test_output_that_cannot_be_written_is_usage(run):
    result = run(HELD, "-o", "/proc/no/such/file")
    assert result.exit_code == Exit.USAGE
    assert "cannot write" in result.stderr


@pytest.mark.parametrize(
    ("limit", "code"),
    [("3s", 1), ("4s", 1), ("5s", 0), ("90%", 1), ("0.5%", 1), ("nonsense", 2), ("200%", 2)],
)
def test_fail_on(run, limit, code):
    assert run(HELD, "--fail-on", limit).exit_code == code


def test_fail_on_without_a_culprit_is_done(run):
    assert run(server(), "--fail-on", "0%").exit_code == Exit.DONE


def test_incomplete_data_is_reported_and_then_said_by_the_exit_code(run):
    result = run(server(HELD.operations, incomplete=("one file is damaged",)))
    assert result.exit_code == Exit.INCOMPLETE
    assert "Incomplete data: server: one file is damaged" in result.stdout


def test_capture_that_is_not_there_is_usage():
    result = CliRunner().invoke(command, ["/no/such/capture"])
    assert result.exit_code == Exit.USAGE


def test_help_has_an_example():
    assert "nfsblame report /var/tmp/nfs" in CliRunner().invoke(command, ["--help"]).stdout
