"""What the results of guest.py say: ratios, costs and the page of `make bench`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

Result = dict[str, Any]

WORKLOADS = {
    "getattr": "getattr storm, uncached",
    "read": "4 KiB random read, from the server's cache",
    "fsync": "4 KiB write + fsync",
    "create": "create + unlink",
    "fork": "getattr, each by a process of its own",
    "redis": "Redis SET, appendfsync always",
}
# How long a program that does nothing runs, by the kernel's count: it is the price of its clock.
EMPTY = "empty raw_tracepoint"


@dataclass(frozen=True)
class Cost:
    """A workload under the tracers of a mode, beside itself without."""

    workload: str
    mode: str
    loss: float  # share of the throughput; the median block's
    loss_least: float
    loss_most: float
    probes_loss: float  # without the time of the tracers' own processes
    per_second: float  # under the tracer
    p50_us: tuple[float, float]  # without, with
    p99_us: tuple[float, float]
    switches: tuple[float, float]  # per operation


def costs(results: Iterable[Result]) -> list[Cost]:
    """Costs in the order of the runs."""
    blocks: dict[tuple[str, str], dict[int, list[Result]]] = {}
    for run in results:
        if run["kind"] == "run":
            group = blocks.setdefault((run["workload"], run["mode"]), {})
            group.setdefault(run["block"], []).append(run)
    return [cost(*key, list(group.values())) for key, group in blocks.items()]


def cost(workload: str, mode: str, blocks: Sequence[Sequence[Result]]) -> Cost:
    """Each block in ABBA order is one answer: what drifts hits both halves alike."""
    losses = [loss(block, "elapsed_ns") for block in blocks]
    off = [run for block in blocks for run in block if not run["on"]]
    on = [run for block in blocks for run in block if run["on"]]

    def both(key: str, unit: float) -> tuple[float, float]:
        return mean(run[key] for run in off) / unit, mean(run[key] for run in on) / unit

    return Cost(
        workload=workload,
        mode=mode,
        loss=median(losses),
        loss_least=min(losses),
        loss_most=max(losses),
        probes_loss=median(loss(block, "elapsed_ns", "tracer_ns") for block in blocks),
        per_second=mean(run["operations"] / run["elapsed_ns"] * 1e9 for run in on),
        p50_us=both("p50_ns", 1e3),
        p99_us=both("p99_ns", 1e3),
        switches=both("switches", on[0]["operations"]),
    )


def loss(block: Sequence[Result], elapsed: str, besides: str = "") -> float:
    """The share of the throughput that is gone while the tracers run."""

    def rate(on: bool) -> float:
        return mean(
            float(run["operations"] / (run[elapsed] - (run[besides] if besides else 0)))
            for run in block
            if run["on"] == on
        )

    return 1 - rate(True) / rate(False)


@dataclass(frozen=True)
class ProgramCost:
    """One BPF program under a workload."""

    name: str
    hits: float  # per operation
    body_ns: float  # per hit, without the price of counting

    @property
    def op_ns(self) -> float:
        """Per operation."""
        return self.hits * self.body_ns


def program_costs(result: Result) -> list[ProgramCost]:
    """The programs of one workload that ran, the dearest first."""
    programs, operations = result["programs"], result["operations"]
    hits, time_ns = programs.get(EMPTY, (0, 0))
    clock_ns = time_ns / hits if hits else 0.0
    found = [
        ProgramCost(name, hits / operations, time_ns / hits - clock_ns)
        for name, (hits, time_ns) in programs.items()
        if name != EMPTY and hits >= operations / 100
    ]
    return sorted(found, key=lambda program: -program.op_ns)


# The page


def page(results: Sequence[Result]) -> str:
    """All of it for people, in Markdown."""
    found = costs(results)
    parts = [
        HEAD,
        loss_table(found),
        *(workload_table(name, found) for name in dict.fromkeys(c.workload for c in found)),
        start_table(results),
        steady_table(results),
        *(program_table(result, found) for result in results if result["kind"] == "probes"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


HEAD = """# What tracing costs

One guest of one CPU is NFS server and client of itself, over loopback, its export in memory; every
instruction takes 1 ns and nothing else takes any time (QEMU, -icount shift=0). So times repeat, and
are counts of instructions: read ratios, not seconds. Server, client, tracer and load share the CPU:
what a tracer does anywhere slows down the load. Order: without, with, with, without."""


def loss_table(found: Sequence[Cost]) -> str:
    """Modes by workloads."""
    if not found:
        return ""
    names = list(dict.fromkeys(c.workload for c in found))
    cells = {(c.mode, c.workload): loss_words(c) for c in found}
    rows = [
        [mode, *(cells.get((mode, name), "-") for name in names)]
        for mode in dict.fromkeys(c.mode for c in found)
    ]
    about = (
        "## Throughput lost\n\nIn brackets least and most of all blocks; after the slash what is "
        "left of the loss without the tracer's own processes, so by its probes alone.\n"
    )
    return "\n".join([about, table(["tracer", *names], rows)])


def loss_words(c: Cost) -> str:
    """Loss, its spread, and the probes' share."""
    return f"{c.loss:.1%} ({c.loss_least:.1%} to {c.loss_most:.1%}) / {c.probes_loss:.1%}"


def workload_table(workload: str, found: Sequence[Cost]) -> str:
    """Latencies of one workload."""
    rows = [
        [
            c.mode,
            f"{c.per_second:.0f}",
            *(f"{off:.0f} -> {on:.0f}" for off, on in (c.p50_us, c.p99_us)),
            f"{c.switches[0]:.1f} -> {c.switches[1]:.1f}",
        ]
        for c in found
        if c.workload == workload
    ]
    head = ["tracer", "operations/s", "p50 us", "p99 us", "switches per operation"]
    return f"## {WORKLOADS[workload]}\n\n{table(head, rows)}"


def start_table(results: Sequence[Result]) -> str:
    """Seconds to all probes, and memory."""
    starts: dict[tuple[str, str], list[float]] = {}
    sizes: dict[tuple[str, str], list[int]] = {}
    for result in results:
        if result["kind"] == "start":
            starts.setdefault((result["mode"], result["command"]), []).append(result["ready_s"])
        if result["kind"] == "memory":
            sizes.setdefault((result["mode"], result["process"]), []).append(result["rss_bytes"])
    if not starts:
        return ""
    rows = [[*key, f"{median(values):.1f} s", ""] for key, values in starts.items()]
    rows += [[*key, "", f"{median(values) / 1e6:.1f} MB"] for key, values in sizes.items()]
    return "## Start and memory\n\n" + table(
        ["mode", "process", "to its probes", "RSS"], sorted(rows)
    )


def steady_table(results: Iterable[Result]) -> str:
    """What recording takes for itself."""
    rows = [
        [
            f"{WORKLOADS[r['workload']]}, {r['per_second']} a second",
            ", ".join(f"{name} {share:.1%}" for name, share in r["cpu_share"].items()),
            f"{r['bytes_per_h'] / 1e6:.1f} MB",
        ]
        for r in results
        if r["kind"] == "steady"
    ]
    if not rows:
        return ""
    head = ["nfsblame-both under", "share of the CPU", "capture per hour, sealed"]
    return f"## Recording at a steady load\n\n{table(head, rows)}"


def program_table(result: Result, found: Sequence[Cost]) -> str:
    """The BPF programs under one workload; what is not in a body is dispatch."""
    programs = program_costs(result)
    rows = [[p.name, f"{p.hits:.2f}", f"{p.body_ns:.0f}", f"{p.op_ns:.0f}"] for p in programs]
    hits, body_ns = sum(p.hits for p in programs), sum(p.op_ns for p in programs)
    rows.append(["all", f"{hits:.2f}", f"{body_ns / hits:.0f}" if hits else "-", f"{body_ns:.0f}"])
    head = ["program", "hits per operation", "ns per hit", "ns per operation"]
    lines = [
        f"## Programs of {result['mode']}: {WORKLOADS[result['workload']]}\n",
        table(head, rows),
    ]
    for c in found:
        if (c.workload, c.mode) == (result["workload"], result["mode"]) and hits:
            whole_ns = 1e9 / c.per_second * c.probes_loss
            lines.append(
                f"\nAll probes cost {whole_ns:.0f} ns per operation: beside the bodies "
                f"{(whole_ns - body_ns) / hits:.0f} ns per hit, for dispatch."
            )
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
