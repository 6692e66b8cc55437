"""``make figures``: the figures of the README, measured in guests of the lab.

Runs nfsblame beside Debian's nfsslower-bpfcc in one client guest, whose image has the kernel
headers that nfsslower needs, then the demo. Writes figures.md and figures.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
GUEST_HALF = Path(__file__).with_name("figures_guest.py")
sys.path.insert(0, str(REPOSITORY / "vagrant"))

from lablib import accel, kernels, lab, tools  # noqa: E402
from lablib.channel import Command  # noqa: E402
from lablib.guest import Guest  # noqa: E402

# For nfsslower alone: nfsblame takes neither.
PACKAGES = ["bpfcc-tools", "linux-headers-cloud-amd64"]
READY, CAPTURE = "/var/tmp/figures.ready", "/var/tmp/figures.capture"
RECORD = ["nfsblame", "record", "-o", CAPTURE, "--ready-file", READY]
NFSSLOWER = ["nfsslower-bpfcc"]
HEADER = "Tracing NFS operations"
FORGET = f"rm -rf {CAPTURE} {READY}"
COLD, PREPARED, SLOWER = "nfsblame, nothing compiled", "nfsblame, prepared", "nfsslower-bpfcc"
SHORT_SECONDS, LONG_SECONDS = 15, 60
LOAD = "/mnt/nfs/figures"
PROCESSES = {
    "collector": r"\S*python\S* (-P )?-m tracer record",
    "writer": r"\S*python\S* -m tracer\.writer",
    "nfsslower": r"\S*python\S* \S*nfsslower-bpfcc",
}
MB = 1e6
PATIENCE_SECONDS = 600.0

Figures = dict[str, Any]


@dataclass(frozen=True)
class Started:
    """One start of a tracer."""

    tracer: str
    cache: str
    first_s: float
    all_s: float
    said_s: float
    probes: int


def in_guest(guest: Guest, *arguments: str) -> Figures:
    """Runs the guest's half to its end."""
    return result(guest, *begin(guest, ["python3", "-c", GUEST_HALF.read_text(), *arguments]))


def begin(guest: Guest, argv: Sequence[str]) -> tuple[Command, io.BytesIO]:
    """Starts a command, its output kept."""
    said = io.BytesIO()
    return guest.spawn(argv, said.write, said.write), said


def result(guest: Guest, command: Command, said: io.BytesIO) -> Figures:
    """The JSON that a command ends with."""
    words = finish(guest, command, said)
    found: Figures = json.loads(words.splitlines()[-1])
    return found


def finish(guest: Guest, command: Command, said: io.BytesIO) -> str:
    """All that a command has said; one that fails ends us, for its figures would be wrong."""
    status = guest.wait(command, PATIENCE_SECONDS)
    command.close()
    words = said.getvalue().decode(errors="replace")
    if status:
        sys.exit(f"{guest.name}: a command ended with {status}\n{words}")
    return words


def shell(guest: Guest, line: str) -> str:
    """Runs a shell line."""
    return finish(guest, *begin(guest, ["bash", "-c", line]))


# Starts


def starts(client: Guest, runs: int) -> list[Started]:
    """Every tracer with the page cache dropped, then warm, in an order that turns back."""
    found: list[Started] = []
    for cache, order in (("dropped", [COLD, SLOWER, PREPARED]), ("warm", [PREPARED, SLOWER])):
        if cache == "warm":
            for tracer in order:
                started(client, tracer, cache)  # reads the files, and counts for nothing
        for number in range(runs):
            for tracer in order[:: 1 if number % 2 == 0 else -1]:
                found.append(started(client, tracer, cache))
                tools.say(json.dumps(vars(found[-1])))
    return found


def started(client: Guest, tracer: str, cache: str) -> Started:
    """Starts a tracer in its state and watches it from outside."""
    shell(client, FORGET)
    if tracer == COLD:
        shell(client, "rm -rf /var/cache/nfsblame")
    if tracer == PREPARED:
        shell(client, "nfsblame prepare")
    mark, command = (HEADER, NFSSLOWER) if tracer == SLOWER else (READY, RECORD)
    drop = "drop" if cache == "dropped" else "keep"
    return Started(tracer, cache, **in_guest(client, "start", mark, drop, *command))


# Running costs


def running(booted: lab.Lab) -> Figures:
    """What recording on both sides costs under a load, then what nfsslower does."""
    guests = [booted.guest("server"), booted.guest("client")]
    short = recorded(guests, SHORT_SECONDS)
    long = recorded(guests, LONG_SECONDS)
    return {
        "load_seconds": LONG_SECONDS,
        "guests": {name: {**long[name], **growth(short[name], long[name])} for name in long},
        "nfsslower": beside_nfsslower(guests[1]),
    }


def growth(short: Figures, long: Figures) -> Figures:
    """Bytes of a capture per hour: what the longer of two recordings has more, once sealed."""
    more = long["capture_bytes"] - short["capture_bytes"]
    return {"capture_bytes_per_h": more / (long["seconds"] - short["seconds"]) * 3600}


def recorded(guests: list[Guest], seconds: int) -> dict[str, Figures]:
    """Records on every guest while the client is under load."""
    for guest in guests:
        shell(guest, FORGET)
    recorders = [(guest, *begin(guest, RECORD)) for guest in guests]
    for guest in guests:
        shell(guest, f"until [ -e {READY} ]; do sleep 0.2; done")
    found = under_load(guests, seconds, ["collector", "writer"])
    for guest, command, said in recorders:
        command.signal(SIGINT)
        finish(guest, command, said)
        size = shell(guest, f"find {CAPTURE} -type f -printf '%s\\n' | paste -sd+ | bc")
        found[guest.name] |= {"seconds": seconds, "capture_bytes": int(size)}
    return found


def under_load(guests: list[Guest], seconds: int, names: list[str]) -> dict[str, Figures]:
    """Measures processes in every guest while the last one, a client, works."""
    source = ["python3", "-c", GUEST_HALF.read_text()]
    load = begin(guests[-1], [*source, "load", str(seconds + 5), LOAD])
    wanted = [f"{name}={PROCESSES[name]}" for name in names]
    costs = [begin(guest, [*source, "cost", str(seconds), *wanted]) for guest in guests]
    found = {guest.name: result(guest, *cost) for guest, cost in zip(guests, costs, strict=True)}
    result(guests[-1], *load)
    return found


def beside_nfsslower(client: Guest) -> Figures:
    """The same of nfsslower."""
    words = "/var/tmp/figures.words"
    command = f"PYTHONUNBUFFERED=1 exec nfsslower-bpfcc > {words} 2>&1"
    tracer, _ = begin(client, ["bash", "-c", command])
    shell(client, f"until grep -q '{HEADER}' {words}; do sleep 0.2; done")
    found = under_load([client], LONG_SECONDS, ["nfsslower"])
    tracer.end()
    return found[client.name]


def slowdown(client: Guest) -> float:
    """How many times the CPU seconds of this machine a plain Python loop takes in a guest."""
    argv = [sys.executable, str(GUEST_HALF), "loop"]
    here = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    return float(in_guest(client, "loop")["cpu_s"] / here["cpu_s"])


# The demo


def demo(verdict: Path | None, folder: Path) -> Figures:
    """Hold time the agent logged, and what the report attributes to it."""
    if verdict is None:
        verdict = folder / "demo.json"
        argv = [sys.executable, "vagrant/lab", "run", "demo", "--json", str(verdict)]
        subprocess.run(argv, cwd=REPOSITORY, stdout=sys.stderr, check=False)
    outcome = json.loads(verdict.read_text())
    culprit = outcome.get("culprit") or {}
    return {
        **{key: outcome.get(key) for key in ("result", "message", "injected_us", "attributed_us")},
        "culprit": culprit.get("name"),
        "share": culprit.get("share"),
    }


# The page


def page(figures: Figures) -> str:
    """The figures for people."""
    parts = [
        head(figures),
        start_table(figures["starts"]),
        cost_table(figures["running"]),
        demo_line(figures["demo"]),
    ]
    return "\n\n".join(parts) + "\n"


def head(figures: Figures) -> str:
    """Where all this was measured."""
    return (
        f"# Figures\n\nKernel {figures['kernel']}, guests of 2 CPUs and 1 GiB, accelerator "
        f"{figures['accelerator']}: a plain Python loop takes {figures['slowdown']:.1f} times the "
        "CPU seconds that it takes on the host, so read times as ratios and divide CPU by that, "
        "roughly."
    )


def start_table(runs: list[Figures]) -> str:
    """Seconds from command to probes."""
    lines = [
        "## Seconds from the command to its probes\n",
        "One observer for both, in the same client guest, ten times a second: BPF links among the "
        "process's fds plus the kernel's list of kprobes. First: the count leaves 0. All: it "
        "reaches its last value. Said: --ready-file appears, or nfsslower's header line. Page "
        "cache dropped before the command, or warm from an earlier run of it; order turned back "
        "with each round. nfsslower has kernel headers for itself alone; nfsblame uses none.\n",
        "| tracer | page cache | runs | probes | first | all | said | all: least to most |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [start_row(group) for group in grouped(runs)]
    return "\n".join([*lines, "", *ratios(runs)])


def grouped(runs: list[Figures]) -> list[list[Figures]]:
    """Runs of the same tracer in the same state."""
    keys = dict.fromkeys((run["tracer"], run["cache"]) for run in runs)
    return [[run for run in runs if (run["tracer"], run["cache"]) == key] for key in keys]


def start_row(group: list[Figures]) -> str:
    """Medians of one group."""
    times = [f"{median(run[key] for run in group):.1f}" for key in ("first_s", "all_s", "said_s")]
    everything = [run["all_s"] for run in group]
    some = group[0]
    cells = [some["tracer"], some["cache"], str(len(group)), str(some["probes"]), *times]
    return f"| {' | '.join(cells)} | {min(everything):.1f} to {max(everything):.1f} |"


def ratios(runs: list[Figures]) -> list[str]:
    """How much faster, state by state."""
    groups = {(group[0]["tracer"], group[0]["cache"]): group for group in grouped(runs)}
    pairs = [(COLD, "dropped"), (PREPARED, "dropped"), (PREPARED, "warm")]
    return [
        f"- {tracer}, page cache {cache}: nfsslower takes "
        + ratio_words(groups[SLOWER, cache], groups[tracer, cache])
        for tracer, cache in pairs
    ]


def ratio_words(slower: list[Figures], faster: list[Figures]) -> str:
    """Of medians; and of the quickest runs, which a busy host has disturbed least."""
    first, everything = (
        median(run[key] for run in slower) / median(run[key] for run in faster)
        for key in ("first_s", "all_s")
    )
    quickest = min(run["all_s"] for run in slower) / min(run["all_s"] for run in faster)
    return (
        f"{first:.1f} times as long to its first probe and {everything:.1f} times to all "
        f"(medians; {quickest:.1f} times by the quickest run of each)."
    )


def cost_table(running: Figures) -> str:
    """Memory, CPU and bytes under the load."""
    guests = {**running["guests"], "client, without nfsblame": running["nfsslower"]}
    lines = [
        f"## Under a load, over {running['load_seconds']} s\n",
        "A process on the client saves small files (create, write 4 KiB, fsync, rename, stat), "
        "ten a second if the guests are fast enough. Interval 1 s, threshold 100 ms. CPU is that "
        "of an emulated processor.\n",
        "| guest | process | RSS | of it anonymous | PSS | CPU seconds per hour |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            cost_row(guest, name, used)
            for guest, cost in guests.items()
            for name, used in cost["processes"].items()
        ),
        "",
        *(capture_line(guest, cost) for guest, cost in running["guests"].items()),
    ]
    rates = [guests[name]["rpcs_per_s"] for name in ("client", "client, without nfsblame")]
    lines.append(f"- Load: {rates[0]:.0f} RPCs/s under nfsblame, {rates[1]:.0f} under nfsslower.")
    return "\n".join(lines)


def cost_row(guest: str, name: str, used: Figures) -> str:
    """One process."""
    sizes = [f"{used[key] / MB:.1f} MB" for key in ("VmRSS", "RssAnon", "Pss")]
    return f"| {guest} | {name} | {' | '.join(sizes)} | {used['cpu_s_per_h']:.0f} |"


def capture_line(guest: str, cost: Figures) -> str:
    """The capture's growth."""
    return (
        f"- Capture of the {guest}: {cost['capture_bytes_per_h'] / MB:.1f} MB per hour, sealed "
        f"(this one has {cost['capture_bytes'] / MB:.2f} MB, fixed parts included)."
    )


def demo_line(found: Figures) -> str:
    """Truth and verdict."""
    if not found["injected_us"] or found["attributed_us"] is None:
        return f"## Demo\n\n{found['result']}: {found['message'] or 'no figures'}"
    held, charged = found["injected_us"] / 1e6, found["attributed_us"] / 1e6
    return (
        f"## Demo: {found['result']}\n\nThe agent logged {held:.3f} s of holding answers; "
        f"{charged:.3f} s are attributed to {found['culprit']} ({charged / held - 1:+.1%}), which "
        f"has {found['share']:.1%} of the stall time."
    )


def measured(name: str, runs: int) -> Figures:
    """All that is measured in the one lab."""
    kernel = kernels.choose(None)
    config = lab.Config(kernel.name, "4.2", packages={"client": PACKAGES}, owner=os.getpid())
    boot = kernels.boot_files(kernel)
    with lab.fresh(name, config, keep=False) as booted:
        client = booted.guest("client")
        return {
            "kernel": boot.version,
            "accelerator": accel.choose(boot),
            "slowdown": slowdown(client),
            "starts": [vars(run) for run in starts(client, runs)],
            "running": running(booted),
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", default=f"figures-{os.getpid()}", help="name of the lab")
    parser.add_argument("--runs", type=int, default=3, help="starts of each kind (3)")
    parser.add_argument("--verdict", type=Path, help="a demo's --json, instead of a new demo")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/figures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    figures = measured(options.lab, options.runs)
    figures["demo"] = demo(options.verdict, options.output)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = page(figures)
    (options.output / "figures.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
