"""KVM or TCG: decided by a trial boot, for a /dev/kvm that opens may still hang a stock kernel."""

import os
import tempfile
import time
from pathlib import Path

from lablib import cached, places, qemu, tools
from lablib.errors import UsageError
from lablib.kernels import BootFiles

TRIAL_SECONDS = 15.0


def choose(boot: BootFiles) -> str:
    """The accelerator to use; $NFSBLAME_LAB_ACCEL decides without a trial."""
    asked = os.environ.get("NFSBLAME_LAB_ACCEL")
    if asked and asked not in qemu.ACCELERATORS:
        raise UsageError(
            f"NFSBLAME_LAB_ACCEL is {asked}; take one of: {', '.join(qemu.ACCELERATORS)}"
        )
    if asked:
        return asked
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    return remembered(boot)


def remembered(boot: BootFiles) -> str:
    """The outcome of the trial, once per boot of the host and kernel of the guest."""
    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    answer = places.cache() / "accel" / cached.digest(host, boot.version)
    with cached.locked(answer.with_suffix(".lock")):
        if not answer.exists():
            answer.write_text("kvm" if trial(boot) else "tcg")
    return answer.read_text()


def trial(boot: BootFiles) -> bool:
    """Whether KVM carries the guests' kernel to user space within the time limit."""
    tools.say("trying whether KVM boots a kernel here")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qemu.start(qemu.base(boot, "kvm", "lab.trial"), folder)
        deadline = time.monotonic() + TRIAL_SECONDS
        while qemu.pid(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        qemu.stop(folder)
        console = folder / "console"
        passed = console.exists() and b"lab-trial-passed" in console.read_bytes()
    tools.say("KVM works here" if passed else "KVM does not work here: using TCG")
    return passed
