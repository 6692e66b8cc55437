"""QEMU's command line for a guest, and the processes it makes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lablib import emulator
from lablib.channel import PORTS
from lablib.errors import LabError
from lablib.kernels import BootFiles

CPUS = 2
MEMORY_MIB = 1024
ACCELERATORS = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    # Five-level page tables cost TCG another step on each walk.
    "tcg": ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
    # Every instruction takes a nanosecond of the guest's time, and nothing else takes any: times
    # repeat, whatever else the host does. One CPU, as more would take turns. For `make bench`.
    "icount": [
        *("-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"),
        *("-cpu", "max,la57=off", "-smp", "1"),
    ],
}
# A crash or a CPU stuck for a minute must end the guest: it is then seen at once, as a lost
# guest, with the stack on its console.
# Making a huge page takes khugepaged most of a second of a CPU under emulation: then it is what
# an operation waits for.
COMMAND_LINE = (
    "console=ttyS0 quiet oops=panic softlockup_panic=1 watchdog_thresh=30 panic=-1 "
    "transparent_hugepage=never"
)


@dataclass(frozen=True)
class Machine:
    """What a guest is made of."""

    role: str
    boot: BootFiles
    accelerator: str
    root: Path
    payload: Path
    export: Path | None
    export_mib_per_s: float | None
    memory_mib: int = MEMORY_MIB


def base(
    boot: BootFiles, accelerator: str, command_line: str, memory_mib: int = MEMORY_MIB
) -> list[str]:
    """A machine that boots the kernel and its ramdisk, with its console in a file."""
    return [
        *emulator.command(accelerator),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-smp", str(CPUS), "-m", f"{memory_mib}M"),
        *ACCELERATORS[accelerator],
        *("-kernel", str(boot.image), "-initrd", str(boot.initrd)),
        *("-append", f"{COMMAND_LINE} {command_line}", "-serial", "file:console"),
    ]


def full(machine: Machine) -> list[str]:
    """A guest: disks in the order guest/boot expects, the lab's network, the control ports."""
    return [
        *base(machine.boot, machine.accelerator, f"lab.role={machine.role}", machine.memory_mib),
        *disk(machine.root, "snapshot=on"),
        *disk(machine.boot.modules, "snapshot=on"),
        *disk(machine.payload, "snapshot=on"),
        *(disk(machine.export, export_options(machine)) if machine.export else []),
        *network(machine.role),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *control_ports(),
    ]


def export_options(machine: Machine) -> str:
    """The export's disk is the host's memory, as fast as that unless told otherwise."""
    rate = machine.export_mib_per_s
    limit = "" if rate is None else f",throttling.bps-total={round(rate * (1 << 20))}"
    return "cache=unsafe" + limit


def disk(path: Path, options: str) -> list[str]:
    """A disk; with snapshot=on what the guest writes is forgotten with it."""
    # QEMU wants commas in a value doubled.
    file = str(path).replace(",", ",,")
    return ["-drive", f"if=virtio,format=raw,file={file},{options}"]


def network(role: str) -> list[str]:
    """The server is the hub; each client has a cable to it, a Unix socket. No other network."""
    # Nothing boots from the network, and the ROM for that need not be installed.
    card = f"virtio-net-pci,netdev=net,mac={mac(role)},romfile="
    if role != "server":
        return ["-netdev", f"stream,id=net,{cable(role)}", "-device", card]
    sockets = [
        argument
        for client in ("client", "client2")
        for argument in (
            *("-netdev", f"stream,id={client},server=on,{cable(client)}"),
            *("-netdev", f"hubport,id=hub-{client},hubid=0,netdev={client}"),
        )
    ]
    return [*sockets, "-netdev", "hubport,id=net,hubid=0", "-device", card]


def cable(client: str) -> str:
    """The socket's address, relative to the guest's folder: a full path may be too long."""
    return f"addr.type=unix,addr.path=../cable-{client}"


def mac(role: str) -> str:
    """A fixed address per role."""
    return {"server": "52:54:00:00:00:10", "client": "52:54:00:00:00:11"}.get(
        role, "52:54:00:00:00:12"
    )


def control_ports() -> list[str]:
    """The sockets of lablib/channel.py."""
    ports: list[str] = []
    for number in range(PORTS):
        ports += ["-chardev", f"socket,id=c{number},path=port{number},server=on,wait=off"]
        ports += ["-device", f"virtserialport,chardev=c{number},name=lab.{number}"]
    return ports


def start(command: list[str], folder: Path) -> None:
    """Starts QEMU in the folder; it outlives the lab's process."""
    # Overlays of snapshot=on go to TMPDIR.
    with (folder / "qemu.log").open("w") as log, uninterrupted():
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder)},
            start_new_session=True,
        )
        (folder / "pid").write_text(str(process.pid))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds interrupts back: a process that was started must be known before it is given up."""
    held: list[int] = []
    words = (signal.SIGINT, signal.SIGTERM)
    usual = {word: signal.signal(word, lambda number, _: held.append(number)) for word in words}
    try:
        yield
    finally:
        for word, handler in usual.items():
            signal.signal(word, handler)
        for number in held:
            signal.raise_signal(number)


def await_socket(folder: Path, name: str, seconds: float = 20.0) -> None:
    """Waits until QEMU listens there."""
    deadline = time.monotonic() + seconds
    while not (folder / name).exists():
        if time.monotonic() > deadline or not pid(folder):
            words = (folder / "qemu.log").read_text().strip()
            raise LabError(f"QEMU did not start: {words or 'no word from it'}")
        time.sleep(0.02)


def pid(folder: Path) -> int | None:
    """The QEMU that runs in the folder; None if it has ended, even if its number lives on."""
    try:
        number = int((folder / "pid").read_text())
        return number if Path(f"/proc/{number}/cwd").readlink() == folder.resolve() else None
    except (OSError, ValueError):
        return None


def stop(folder: Path) -> None:
    """Ends the folder's QEMU, by its number only."""
    number = pid(folder)
    for word in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 5
        while number and pid(folder) == number and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, word)
            time.sleep(0.02)
    if number:
        # Ours to take leave of, if this process started it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(number, os.WNOHANG)
