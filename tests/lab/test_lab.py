"""Tests of the lab itself: the guests are real, and what goes wrong is told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import LAB, Boot, Guests, run_lab
from lablib import kernels, places, qemu
from lablib.errors import LostGuest, UsageError
from lablib.judge import judge
from lablib.scenario import Expect, load

INCIDENT = ". incident/shell; "
# Kernel functions that a probe is put into and taken out of, again and again, while others run
# them: each time the kernel changes its own code.
POKE = """
cd /sys/kernel/tracing
for name in vfs_statx security_inode_getattr path_lookupat filename_lookup; do
    echo "p:poked/$name $name" >> kprobe_events
done
for worker in 1 2 3; do while :; do test -e /etc/passwd; done & done
for round in {1..20}; do echo 1 > events/poked/enable; echo 0 > events/poked/enable; done
kill %1 %2 %3
echo > kprobe_events
"""


def made() -> dict[Path, int]:
    """Kernels and images that the lab has made, each with when."""
    folders = (places.cache() / name for name in ("images", "kernels"))
    files = (path for folder in folders for path in folder.glob("*/*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


class TestGuests:
    def test_are_like_real_servers(self, lab: Guests) -> None:
        compilers = "for name in gcc cc clang; do command -v $name && exit 1; done; true"
        lab.exec("server", compilers)
        lab.exec("server", "! ls -d /usr/src/linux-headers-* /lib/modules/*/build")
        assert lab.exec("server", "uname -r").stdout.strip().endswith("-cloud-amd64")

    def test_server_has_the_distributions_threads_and_its_own_disk(self, lab: Guests) -> None:
        assert lab.exec("server", "cat /proc/fs/nfsd/threads").stdout == "8\n"
        assert lab.exec("server", "findmnt -no SOURCE $EXPORT; echo $DISK").stdout.split() == [
            "/dev/vdd",
            "/dev/vdd",
        ]

    def test_client_has_it_mounted(self, lab: Guests) -> None:
        lab.exec("client", "echo hello > $MOUNT/greeting")
        assert lab.exec("server", "cat $EXPORT/greeting; rm $EXPORT/greeting").stdout == "hello\n"
        assert "vers=4.2" in lab.exec("client", "findmnt -no OPTIONS $MOUNT").stdout

    @pytest.mark.parametrize("vers", ["3", "4.0", "4.1"])
    def test_server_speaks_every_version(self, lab: Guests, vers: str) -> None:
        mount = f"mkdir -p /tmp/m; mount -o vers={vers} $SERVER:$EXPORT /tmp/m"
        lab.exec("client", f"{mount} && flock /tmp/m/lock true; umount /tmp/m")

    def test_have_the_scenarios_and_their_helpers(self, lab: Guests) -> None:
        lab.exec("server", "test -x incident/qaxsafed -a -f demo.toml")

    def test_kernels_may_change_their_code_while_it_runs(self, lab: Guests) -> None:
        lab.exec("client", POKE)

    def test_boot_from_the_cache(self, boot: Boot, lab: Guests) -> None:
        kept = made()
        assert kept
        boot().lab.down()
        assert made() == kept


class TestCommands:
    def test_streams_and_status_stay_apart(self, lab: Guests) -> None:
        done = lab.exec("server", "echo out; echo err >&2; exit 7", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")

    def test_signal_is_told(self, lab: Guests) -> None:
        assert lab.exec("server", "kill -9 $$", check=False).returncode == -signal.SIGKILL

    def test_much_output_arrives_whole(self, lab: Guests) -> None:
        assert len(lab.exec("client", "head -c 5000000 /dev/zero").stdout) == 5_000_000

    def test_daemon_left_behind_holds_nothing_up(self, lab: Guests) -> None:
        lab.exec("server", "sleep 600 & true", timeout=30)
        lab.exec("server", "pkill -x sleep")

    def test_work_while_nfs_hangs(self, lab: Guests) -> None:
        lab.exec("server", "ip link set eth0 down")
        hung = lab.spawn("client", "ls $MOUNT/no-such-file")
        assert lab.exec("client", "echo alive", timeout=30).stdout == "alive\n"
        assert hung.running()
        lab.exec("server", "ip link set eth0 up")
        assert hung.wait(60) == 2

    def test_lost_guest_is_no_failed_command(self, boot: Boot) -> None:
        lost = boot()
        with pytest.raises(LostGuest, match="sysrq"):
            lost.exec("client", "echo c > /proc/sysrq-trigger")
        with pytest.raises(LostGuest):
            lost.exec("client", "true")
        lost.exec("server", "true")


class TestIncident:
    def test_agent_holds_every_thread(self, lab: Guests) -> None:
        lab.exec("server", INCIDENT + "make_files; install_agent")
        agent = lab.spawn("server", INCIDENT + "run_agent 0 10 1")
        lab.wait_until("server", INCIDENT + "test -e $TRUTH")
        lab.spawn("client", INCIDENT + "incident/opener $MOUNT/files $WORKERS 5")
        stuck = "$(cat $(pgrep -x nfsd | sed 's|.*|/proc/&/stack|') | grep -c fanotify_handle)"
        lab.wait_until("server", f"test {stuck} = 8")
        lab.exec("client", "nc -zw 5 $SERVER 2049")
        lab.wait_until("server", INCIDENT + "test $(cat $TRUTH) -gt 0")
        # Eight threads, none of them held longer than the phase.
        assert 8_000_000 < int(lab.exec("server", INCIDENT + "cat $TRUTH").stdout) <= 90_000_000
        agent.end()


class TestScenarioFiles:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[server]\nfalt = 'x'", "unknown key server.falt"),
            ("[record]\nseconds = '30'", "record.seconds must be"),
            ("[record]\nseconds = true", "record.seconds must be"),
            ("[record]\nstart = 'later'", "record.start must be"),
            ("[server]\npackages = [1]", "server.packages must be a list of strings"),
            ("[expect]\nculprit = '('", "expect.culprit is not a regular expression"),
            ("[expect]\nalso = ['x']", "expect.also must be a list of tables"),
            ("[[expect.also]]\nhost = 'server'", "unknown key expect.also.host"),
            ("[[expect.also]]\nmin_share = 2", "expect.min_share must be between"),
            ("[[expect.also]]\nculprit = '('", "expect.culprit is not a regular expression"),
            ("server = 1", "server must be"),
            ("[server", "not valid TOML"),
        ],
    )
    def test_mistake_is_named_before_anything_boots(
        self, tmp_path: Path, text: str, told: str
    ) -> None:
        path = tmp_path / "wrong.toml"
        path.write_text(text)
        done = run_lab("run", path)
        assert done.returncode == 2
        assert told in done.stderr

    def test_second_client_only_on_demand(self, tmp_path: Path) -> None:
        path = tmp_path / "two.toml"
        path.write_text("[client]\nwork = 'true'")
        assert list(load(path).guests) == ["server", "client"]
        path.write_text("[client2]\nwork = 'true'")
        assert list(load(path).guests) == ["server", "client", "client2"]

    def test_every_scenario_of_ours_is_listed(self) -> None:
        listed = run_lab("list").stdout
        assert all(path.stem in listed for path in places.SCENARIOS.glob("*.toml"))

    def test_unknown_scenario_points_to_the_list(self) -> None:
        done = run_lab("run", "no-such-scenario")
        assert done.returncode == 2
        assert "vagrant/lab list" in done.stderr


def report(**culprit: Any) -> dict[str, Any]:
    first = {"name": "qaxsafed", "cause": "fanotify", "host": "server", "share": 0.95}
    culprits = [] if culprit.get("name") == "" else [{**first, "stall_us": 900_000, **culprit}]
    ledger = [{"cause": "unknown", "total_us": 1}, {"cause": "fanotify", "total_us": 3}]
    return {"verdict": {"clear": not culprits, "culprits": culprits}, "ledger": ledger}


class TestJudge:
    @pytest.mark.parametrize(
        ("expect", "missed"),
        [
            (Expect(), []),
            (Expect(cause="fanotify", culprit="qax.*", host="server", min_share=0.9), []),
            (Expect(culprit="qax"), ["culprit"]),
            (Expect(culprit=""), ["culprit"]),
            (Expect(cause="disk", host="client", min_share=0.99), ["cause", "host", "min_share"]),
        ],
    )
    def test_each_miss_is_told(self, expect: Expect, missed: list[str]) -> None:
        assert [miss.key for miss in judge(expect, report(), None).missed] == missed

    def test_clear(self) -> None:
        assert judge(Expect(culprit=""), report(name=""), None).result() == "PASS"
        assert judge(Expect(culprit="qaxsafed"), report(name=""), None).result() == "FAIL"

    @pytest.mark.parametrize(
        ("injected", "passes"),
        [(1_000_000, True), (1_100_000, False), (850_000, True), (None, False)],
    )
    def test_injected_time_within_tolerance(self, injected: int | None, passes: bool) -> None:
        outcome = judge(Expect(injected_us="/truth"), report(), injected)
        assert (outcome.result() == "PASS") is passes

    def test_direct_time_is_what_was_injected(self) -> None:
        outcome = judge(Expect(injected_us=1), report(direct_us=500_000), 500_000)
        assert outcome.result() == "PASS"

    def test_unknown_share_is_of_all_ledgers(self) -> None:
        assert judge(Expect(), report(), None).unknown_share == pytest.approx(0.25)


class TestKernels:
    def test_matrix_is_listed_with_reasons(self) -> None:
        lines = run_lab("kernels").stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["5.10", "6.1", "6.12", "7.2"]

    def test_disabled_kernel_is_refused_with_its_reason(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = replace(kernels.matrix()[0], enabled=False, reason="it cannot be had")
        monkeypatch.setattr(kernels, "matrix", lambda: [first])
        with pytest.raises(UsageError, match="not enabled: it cannot be had"):
            kernels.choose(first.name)

    def test_unknown_kernel_points_to_the_others(self) -> None:
        done = run_lab("up", "--kernel", "4.4")
        assert done.returncode == 2
        assert "take one of: 5.10, 6.1, 6.12, 7.2" in done.stderr


class TestCleaning:
    @pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_run_leaves_nothing(self, word: signal.Signals) -> None:
        # A shell starts what is in its background with interrupts ignored, and so all below it.
        heard = ["env", "--default-signal"]
        run = subprocess.Popen([*heard, sys.executable, str(LAB), "run", "clear"])
        folder = places.labs() / f"run-{run.pid}"
        deadline = time.monotonic() + 120
        while not (server := qemu.pid(folder / "server")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run.send_signal(word)
        run.wait(60)
        assert not folder.exists()
        assert not Path(f"/proc/{server}").exists()

    def test_down_of_nothing_is_done(self) -> None:
        assert run_lab("--lab", f"none-{os.getpid()}", "down").returncode == 0

    def test_exec_without_a_lab_says_the_mend(self) -> None:
        done = run_lab("--lab", f"none-{os.getpid()}", "exec", "server", "--", "true")
        assert done.returncode == 2
        assert "vagrant/lab up" in done.stderr


def test_vagrantfile_is_valid(tmp_path: Path) -> None:
    own = {"VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    argv = ["vagrant", "validate", "--ignore-provider"]
    done = subprocess.run(
        argv,
        cwd=places.VAGRANT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
