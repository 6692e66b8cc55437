"""How nfsblame is installed, and what it says to those who use it wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Guests
from recording import recording, report

VENV = "/var/tmp/venv"


def test_wheel_in_a_fresh_venv(lab: Guests, tmp_path: Path) -> None:
    """The venv sees no packages of the system, where bcc is."""
    pip = f"{VENV}/bin/pip install --quiet --no-index --find-links /lab/wheels nfsblame"
    lab.exec("client", f"rm -rf {VENV}; python3 -m venv {VENV}; cd /tmp; {pip}", timeout=400)
    nfsblame = f"cd /; {VENV}/bin/nfsblame"
    assert lab.exec("client", f"{nfsblame} --version").stdout.startswith("nfsblame, version ")
    facts = json.loads(lab.exec("client", f"{nfsblame} doctor --format json").stdout)
    assert facts
    capture = "/var/tmp/venv-capture"
    done = lab.exec("client", f"{nfsblame} record -o {capture} --duration 2s", timeout=200)
    assert f"nfsblame report {capture}" in done.stdout
    code, document = report(lab.fetch("client", capture, tmp_path / "capture"))
    assert (code, document["hosts"][0]["probes_missing"]) == (0, [])
    lab.exec("client", f"rm -rf {VENV} {capture}")


NOT_ROOT = "setpriv --reuid 65534 --clear-groups "
READ_ONLY = "mkdir -p /run/ro; mount -t tmpfs -o ro tmpfs /run/ro; "
# In a mount namespace of its own, without the mount.
NO_MOUNT = "unshare --mount sh -c 'umount $MOUNT; exec nfsblame record'"


@pytest.mark.parametrize(
    ("guest", "command", "code", "told"),
    [
        ("server", NOT_ROOT + "nfsblame record -o /tmp/x", 3, "needs root"),
        ("server", "nfsblame record --threshold nonsense", 2, "is no duration; write"),
        ("server", "nfsblame record --threshold 0", 2, "out of range; give 1ms to 1h"),
        ("server", "nfsblame record --max-size 1", 2, "give at least 16M"),
        ("server", "nfsblame record -o /dev/null", 2, "is not a folder; give another -o"),
        ("server", "nfsblame record -o /proc/x", 2, "give a"),
        ("server", READ_ONLY + "nfsblame record -o /run/ro/x", 2, "is not writable; give another"),
        ("server", "nfsblame record --side client", 4, "no NFS client to trace: modprobe nfs"),
        ("client", "nfsblame record --side server", 4, "no NFS server to trace: modprobe nfsd"),
        ("client", NO_MOUNT, 4, "no NFS on this host"),
        ("server", "nfsblame report /tmp", 2, "nfsblame record"),
    ],
)
def test_says_what_is_wrong_and_the_mend(
    lab: Guests, guest: str, command: str, code: int, told: str
) -> None:
    done = lab.exec(guest, command, check=False)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_second_recording_is_refused(lab: Guests) -> None:
    with recording(lab, "server", "/var/tmp/first") as first:
        done = lab.exec("server", "nfsblame record -o /var/tmp/second", check=False)
        pid = lab.exec("server", "cat /run/nfsblame.lock").stdout.strip()
        assert done.returncode == 2
        assert f"another nfsblame is recording on this host (pid {pid})" in done.stderr
        # The first goes on, and a new one may follow it.
        assert first.end() == 0
    lab.exec("server", "! test -e /var/tmp/second; flock -n /run/nfsblame.lock true")
