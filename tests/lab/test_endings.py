"""Recordings that end badly, or onto a disk that does not take them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Guests
from recording import await_growth, lost, now, opener, recording, stopped_agent, until

INTERVAL = 2.0
# What a slow guest takes to bring an interval from the kernel to the disk.
LATE = 1.5


def test_killed_in_mid_run_lacks_at_most_an_interval(lab: Guests, tmp_path: Path) -> None:
    folder, log = "/var/tmp/killed", "/var/tmp/killed.log"
    # Makes folders on the mount and notes when each was there.
    work = f"for n in {{1..500}}; do mkdir $MOUNT/k$n; date +%s.%N >> {log}; sleep 0.1; done"
    lab.exec("client", f"rm -f {log}")
    with recording(lab, "client", folder, f"--interval {INTERVAL}s") as running:
        worker = lab.spawn("client", work)
        # Ten a second at most: the first are older than what may be lacking.
        until(lab, "client", f"[ $(wc -l < {log}) -gt {15 * (INTERVAL + LATE):.0f} ]")
        # Sums are in every interval: this one is on disk.
        await_growth(lab, "client", f"{folder}/.journal/*/latency.a.arrows")
        killed = now(lab, "client")
        lab.exec("client", "pkill -KILL -f '[-]m tracer'")
        worker.end()
        assert running.command.wait(30) == -9
    lab.exec("client", "rmdir $MOUNT/k*; ! pgrep -f '[-]m tracer'")
    made = [float(line) for line in lab.exec("client", f"cat {log}").stdout.split()]
    code, document = running.report(tmp_path)
    assert code == 5
    assert document["incomplete"]
    (counted,) = [
        row["count"] for row in document["latency"] if (row["layer"], row["op"]) == ("vfs", "mkdir")
    ]
    kept = [at for at in made if at < killed - INTERVAL - LATE]
    assert len(kept) <= counted <= len(made) + 1
    assert kept


def test_output_on_what_the_agent_holds(lab: Guests, tmp_path: Path) -> None:
    """The journal is open when the agent stops; nothing more can be opened there."""
    folder = "/srv/export/capture"
    journal = f"{folder}/.journal/*"
    with recording(lab, "server", folder) as running:
        await_growth(lab, "server", f"{journal}/samples.a.arrows")
        with stopped_agent(lab) as agent, opener(lab):
            await_growth(lab, "server", f"{journal}/waits.a.arrows")
            await_growth(lab, "server", f"{journal}/waits.a.arrows")
            assert running.end() == 5, running.said()
            assert "could not finish" in running.said()
        # The agent is gone: the writer goes on where it was held.
        until(lab, "server", "! pgrep -f '[-]m tracer' > /dev/null")
    code, document = running.report(tmp_path)
    culprit = document["verdict"]["culprits"][0]
    assert (culprit["name"], culprit["pid"], culprit["cause"]) == ("qaxsafed", agent, "fanotify")
    assert (code, lost(document["losses"])) == (0, {})
    lab.exec("server", f"rm -rf {folder}")


def test_started_onto_what_the_agent_holds(lab: Guests, tmp_path: Path) -> None:
    """Not even the journal can be opened, until the agent is gone: then all of it is there."""
    folder = "/srv/export/late"
    journal = f"[ -e {folder}/.journal/*/waits.a.arrows ]"
    with stopped_agent(lab) as agent, opener(lab), recording(lab, "server", folder) as running:
        stuck = now(lab, "server")
        until(lab, "server", f"[ $(date +%s) -gt {int(stuck) + 3} ]")
        lab.exec("server", "pkill -KILL -x qaxsafed")
        until(lab, "server", journal)
        assert running.end() == 0, running.said()
    code, document = running.report(tmp_path)
    culprit = document["verdict"]["culprits"][0]
    assert (culprit["name"], culprit["pid"], culprit["cause"]) == ("qaxsafed", agent, "fanotify")
    assert (code, lost(document["losses"])) == (0, {})
    lab.exec("server", f"rm -rf {folder}")


@pytest.fixture
def small_disk(lab: Guests) -> str:
    folder = "/run/small"
    lab.exec("server", f"mkdir -p {folder}; mount -t tmpfs -o size=8m tmpfs {folder}")
    yield folder
    lab.exec("server", f"umount -l {folder}")


def test_full_disk_is_told_and_made_up_for(lab: Guests, tmp_path: Path, small_disk: str) -> None:
    filler = f"{small_disk}/filler"
    with recording(lab, "server", f"{small_disk}/capture") as running:
        lab.exec("server", f"! head -c 16M /dev/zero > {filler}")
        running.await_said("recording goes on in memory")
        lab.exec("server", f"rm {filler}")
        running.await_said("again, nothing lost")
        assert running.end() == 0, running.said()
        code, document = running.report(tmp_path)
    assert (code, lost(document["losses"]), document["incomplete"]) == (0, {}, [])
