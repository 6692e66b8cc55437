"""From captures to everything that a report says, without reading or writing anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tracer.blame.causes import OF_LOAD
from tracer.blame.charge import QUEUE_LINK
from tracer.blame.ledger import Ledger
from tracer.blame.own import with_own
from tracer.blame.selection import EVERYTHING, Selection
from tracer.blame.stalls import Stall, counted, over_threshold
from tracer.blame.verdict import Verdict, causes_of, verdict_of
from tracer.histogram import quantile_us
from tracer.model import HostCapture, Side

_SIDES: Final[tuple[Side, ...]] = ("client", "server")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Time of the slow operations of one kind that went to one cause.

    ``share`` is of all time of this side and operation; ``queued_us`` is the part of
    ``total_us`` that passed in the server's queue.
    """

    side: Side
    op: str
    cause: str
    total_us: int
    share: float
    queued_us: int


@dataclass(frozen=True, slots=True)
class LatencyLine:
    """Latency of one operation over all captures; ``counts`` by histogram bucket."""

    side: Side
    layer: str
    op: str
    count: int
    p50_us: float
    p99_us: float
    max_us: int
    counts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a report shows."""

    captures: Sequence[HostCapture]
    threshold_us: int
    stalls: Sequence[Stall]
    causes: Mapping[str, int]
    verdict: Verdict
    ledger: Sequence[LedgerRow]
    latency: Sequence[LatencyLine]
    losses: Mapping[str, int] = field(default_factory=dict)
    incomplete: Sequence[str] = ()
    only: Selection = EVERYTHING

    @property
    def total_us(self) -> int:
        """Return the time of all stalls."""
        return sum(stall.stall_us for stall in self.stalls)

    @property
    def in_flight(self) -> list[Stall]:
        """Return the stalls that had not ended, the longest first."""
        stuck = [stall for stall in self.stalls if stall.operation.in_flight]
        return sorted(stuck, key=lambda stall: -stall.wall_us)


def analyse(captures: Sequence[HostCapture], only: Selection = EVERYTHING) -> Analysis:
    """Return causes, culprits and figures of one or many captures taken together.

    Raise NothingSelected if no recorded operation can be what ``only`` asks for.
    """
    chosen = only.resolved(captures)
    chosen.check(captures)
    ledger = Ledger(captures)
    stalls = [stall for stall in counted(ledger) if chosen.takes(stall)]
    verdict = verdict_of(ledger, stalls, only.words())
    if verdict.culprits and verdict.culprits[0].cause in OF_LOAD:
        first = verdict.culprits[0]
        stalls = with_own(stalls, first.culprit, first.cause, captures)
        verdict = verdict_of(ledger, stalls, only.words())
    return Analysis(
        captures=captures,
        threshold_us=min((capture.threshold_us for capture in captures), default=0),
        stalls=stalls,
        causes=causes_of(stalls),
        verdict=verdict,
        ledger=_ledger_rows(ledger, stalls),
        latency=_latency(captures),
        losses=_losses(captures),
        incomplete=[f"{one.host}: {text}" for one in captures for text in one.incomplete],
        only=only,
    )


def _ledger_rows(ledger: Ledger, stalls: Sequence[Stall]) -> list[LedgerRow]:
    """Sum up the bills of all slow operations: as the clients saw them, as servers did."""
    bills = [(s.operation, s.bill) for s in stalls if s.operation.side == "client"]
    for index, host in enumerate(ledger.hosts):
        bills += [(op, ledger.bill(index, op)) for op in host.served if over_threshold(host, op)]
    sums: defaultdict[tuple[Side, str], defaultdict[str, list[int]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    for op, bill in bills:
        for charge, us in bill.items():
            cell = sums[op.side, op.nfs_op or op.op][charge.cause]
            cell[0] += us
            cell[1] += us if QUEUE_LINK in charge.chain else 0
    rows: list[LedgerRow] = []
    for (side, name), causes in sums.items():
        whole = sum(total for total, _ in causes.values())
        rows += [
            LedgerRow(side, name, cause, total, total / whole, queued)
            for cause, (total, queued) in causes.items()
            if whole
        ]
    weights = {key: sum(cell[0] for cell in causes.values()) for key, causes in sums.items()}
    return sorted(
        rows,
        key=lambda row: (
            _SIDES.index(row.side),
            -weights[row.side, row.op],
            row.op,
            -row.total_us,
            row.cause,
        ),
    )


def _latency(captures: Sequence[HostCapture]) -> list[LatencyLine]:
    counts: defaultdict[tuple[Side, str, str], defaultdict[int, int]] = defaultdict(
        lambda: defaultdict(int)
    )
    longest: defaultdict[tuple[Side, str, str], int] = defaultdict(int)
    for capture in captures:
        for row in capture.latency:
            key = (row.side, row.layer, row.op)
            longest[key] = max(longest[key], row.max_us)
            for bucket, count in row.counts.items():
                counts[key][bucket] += count
    lines = []
    for key, buckets in counts.items():
        p50, p99 = quantile_us(buckets, 0.5), quantile_us(buckets, 0.99)
        if p50 is None or p99 is None:
            continue
        total = sum(buckets.values())
        lines.append(LatencyLine(*key, total, p50, p99, longest[key], dict(buckets)))
    return sorted(lines, key=lambda line: (line.side, line.layer, -line.count, line.op))


def _losses(captures: Sequence[HostCapture]) -> dict[str, int]:
    sums: defaultdict[str, int] = defaultdict(int)
    for capture in captures:
        for reason, count in capture.losses.items():
            sums[reason] += count
    return dict(sums)
