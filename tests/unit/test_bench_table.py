from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import table


def run(block: int, on: bool, elapsed_ns: int, tracer_ns: int = 0) -> dict[str, Any]:
    return {
        "kind": "run",
        "mode": "m",
        "workload": "read",
        "block": block,
        "on": on,
        "operations": 1000,
        "elapsed_ns": elapsed_ns,
        "p50_ns": elapsed_ns // 1000,
        "p99_ns": elapsed_ns // 500,
        "switches": 5000,
        "tracer_ns": tracer_ns,
    }


def block(number: int, off_ns: int, on_ns: int, tracer_ns: int = 0) -> list[dict[str, Any]]:
    """In ABBA order."""
    return [run(number, on, on_ns if on else off_ns, tracer_ns * on) for on in (0, 1, 1, 0)]


def test_a_block_is_compared_with_itself() -> None:
    """The second block found a slower machine, and lost as much as the first."""
    (cost,) = table.costs(block(0, 90_000_000, 100_000_000) + block(1, 180_000_000, 200_000_000))
    assert cost.loss == pytest.approx(0.1)
    assert (cost.loss_least, cost.loss_most) == pytest.approx((0.1, 0.1))
    assert cost.p50_us == pytest.approx((135.0, 150.0))
    assert cost.switches == (5.0, 5.0)


def test_the_probes_alone() -> None:
    """What the tracer's processes took of the CPU is no cost of the probes."""
    (cost,) = table.costs(block(0, 90_000_000, 100_000_000, tracer_ns=10_000_000))
    assert cost.loss == pytest.approx(0.1)
    assert cost.probes_loss == pytest.approx(0.0)


def test_the_spread_is_of_blocks() -> None:
    results = block(0, 90, 100) + block(1, 80, 100) + block(2, 95, 100)
    (cost,) = table.costs(results)
    assert (cost.loss, cost.loss_least, cost.loss_most) == pytest.approx((0.1, 0.05, 0.2))


def probes() -> dict[str, Any]:
    return {
        "kind": "probes",
        "mode": "m",
        "workload": "read",
        "operations": 1000,
        "programs": {
            table.EMPTY: [4000, 160_000],
            "cheap raw_tracepoint": [4000, 4000 * 140],
            "dear trace_fentry": [1000, 1000 * 1040],
            "rare raw_tracepoint": [9, 9000],
        },
    }


def test_bodies_without_the_price_of_counting() -> None:
    dear, cheap = table.program_costs(probes())
    assert (dear.name, dear.hits, dear.body_ns) == ("dear trace_fentry", 1.0, 1000.0)
    assert (cheap.hits, cheap.body_ns, cheap.op_ns) == (4.0, 100.0, 400.0)


def test_steady_loads() -> None:
    result = {
        **{"kind": "steady", "workload": "fork", "per_second": 100},
        **{"cpu_share": {"tracer record": 0.0123, "tracer.writer": 0.05}, "bytes_per_h": 4.24e6},
    }
    row = "by a process of its own, 100 a second | tracer record 1.2%, tracer.writer 5.0% | 4.2 MB"
    assert row in table.page([result])


def test_the_page() -> None:
    """What is beside the bodies is dispatch: 10 us lost, 1.4 us of it in bodies, in 5 hits."""
    page = table.page([*block(0, 90_000_000, 100_000_000), probes()])
    assert "| m | 10.0% (10.0% to 10.0%) / 10.0% |" in page
    assert "| dear trace_fentry | 1.00 | 1000 | 1000 |" in page
    assert "All probes cost 10000 ns per operation: beside the bodies 1720 ns per hit" in page
