"""The report as one JSON document: a stable shape, to which keys are only ever added."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from tracer.blame import Analysis
from tracer.blame.crew import none_free_us
from tracer.blame.kthreads import works_for
from tracer.blame.names import name_of
from tracer.blame.stalls import Stall
from tracer.blame.units import utc
from tracer.blame.verdict import Blamed
from tracer.model import Count, HostCapture, Process
from tracer.report.notes import notes

SCHEMA: Final = 1
# In flight operations listed one by one; the count is whole.
_MAX_IN_FLIGHT: Final = 50

Document = dict[str, Any]


def document(analysis: Analysis) -> Document:
    """Return the report as plain dicts and lists."""
    verdict = analysis.verdict
    return {
        "schema": SCHEMA,
        "hosts": [_host(capture) for capture in analysis.captures],
        "stall": {
            "threshold_us": analysis.threshold_us,
            "operations": len(analysis.stalls),
            "total_us": analysis.total_us,
            "in_flight": len(analysis.in_flight),
            "causes": dict(analysis.causes),
        },
        "verdict": {
            "clear": verdict.clear,
            "summary": verdict.summary,
            "culprits": [_culprit(one) for one in verdict.culprits],
            "cleared": [
                {"suspect": one.suspect, "figures": one.figures} for one in verdict.cleared
            ],
            "advice": list(verdict.advice),
        },
        "ledger": [
            {
                "side": row.side,
                "op": row.op,
                "cause": row.cause,
                "total_us": row.total_us,
                "share": row.share,
                "queued_us": row.queued_us,
            }
            for row in analysis.ledger
        ],
        "in_flight": [_in_flight(stall) for stall in analysis.in_flight[:_MAX_IN_FLIGHT]],
        "latency": [
            {
                "side": line.side,
                "layer": line.layer,
                "op": line.op,
                "count": line.count,
                "p50_us": line.p50_us,
                "p99_us": line.p99_us,
                "max_us": line.max_us,
            }
            for line in analysis.latency
        ],
        "counts": [_count(capture, row) for capture in analysis.captures for row in capture.counts],
        "losses": dict(analysis.losses),
        "overhead": {capture.host: _finite(capture.overhead) for capture in analysis.captures},
        "incomplete": list(analysis.incomplete),
        "only": {name: asked for name, asked in asdict(analysis.only).items() if asked},
    }


def as_json(analysis: Analysis) -> str:
    """Return the document as text; it holds ASCII only, so nothing in it reaches a terminal."""
    return json.dumps(document(analysis), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _host(capture: HostCapture) -> Document:
    return {
        "host": capture.host,
        "side": list(capture.sides),
        "kernel": capture.kernel,
        "start": utc(capture.start),
        "end": utc(capture.end),
        "probes_missing": _missing(capture),
        "nfsd_threads": capture.nfsd_threads,
        "no_thread_free_us": none_free_us(capture),
        "notes": [
            {"time": utc(one.ts), "name": one.name, "text": one.text} for one in notes(capture)
        ],
        "listeners": [
            {
                "name": name_of(capture, row.process),
                "pid": row.process.pid,
                "group": row.group,
                "reads": row.reads,
                "writes": row.writes,
                "blocked": row.blocked,
                "marks": row.marks,
            }
            for row in capture.listeners
        ],
    }


def _count(capture: HostCapture, row: Count) -> Document:
    return {
        "host": capture.host,
        "side": row.side,
        "kind": row.kind,
        "op": row.op,
        "status": row.status,
        "peer": row.peer,
        "count": row.count,
    }


def _missing(capture: HostCapture) -> list[str]:
    """Return probes not attached; a probe listed several times counts as attached if any is."""
    attached = {row.probe for row in capture.probes if row.attached}
    return sorted({row.probe for row in capture.probes if not row.attached} - attached)


def _culprit(one: Blamed) -> Document:
    key = one.culprit.process
    return {
        "rank": one.rank,
        "kind": one.culprit.kind,
        "name": one.culprit.name,
        "pid": key.pid if key else None,
        "start_time": _time(one.start_time),
        "exe": one.exe,
        "product": one.product,
        **_context(one.process),
        "works_for": one.works_for,
        "host": one.culprit.host,
        "cause": one.cause,
        "stall_us": one.stall_us,
        "share": one.share,
        "direct_us": one.direct_us,
        "operations": one.operations,
        "victims": [
            {
                "host": share.victim.host,
                "comm": share.victim.comm,
                "pid": share.victim.pid,
                "operations": share.operations,
                "stall_us": share.stall_us,
                "start_time": _time(share.process.start_time if share.process else None),
                "exe": share.process.exe if share.process else None,
                **_context(share.process),
                "works_for": _works_for(share.process),
                "volumes": list(share.volumes),
            }
            for share in one.victims
        ],
        "chain": [
            {
                "name": item.link.name,
                "pid": item.link.pid,
                "cause": item.link.cause,
                "stall_us": item.stall_us,
            }
            for item in one.chain
        ],
        "evidence": list(one.evidence),
    }


def _context(process: Process | None) -> Document:
    """Return where a process belongs; null where unknown."""
    return {
        "uid": process.uid if process else None,
        "cgroup": process.cgroup if process else None,
        "container": process.container if process else None,
        "pod_uid": process.pod_uid if process else None,
        "pod_namespace": process.pod_namespace if process else None,
        "pod_name": process.pod_name if process else None,
        "command_line": process.command_line if process else None,
    }


def _works_for(process: Process | None) -> str | None:
    return works_for(process.comm or "") if process and process.kthread else None


def _in_flight(stall: Stall) -> Document:
    op = stall.operation
    return {
        "host": op.host,
        "side": op.side,
        "op": op.nfs_op or op.op,
        "comm": stall.victim.comm,
        "pid": stall.victim.pid,
        "victim_host": stall.victim.host,
        "wall_us": stall.wall_us,
        "begin_known": op.begin_known,
        "mount": op.mount,
        "file": op.file,
        "call": op.call,
        "hook": op.hook,
        "volume": op.volume,
        "waits_for": waits_for(stall),
    }


def waits_for(stall: Stall) -> list[Document]:
    """Return what a stall's time went to, the most first."""
    parts = sorted(stall.bill.items(), key=lambda item: -item[1])
    return [
        {
            "cause": charge.cause,
            "culprit": charge.culprit.name if charge.culprit else None,
            "total_us": us,
        }
        for charge, us in parts
    ]


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _time(moment: datetime | None) -> str | None:
    return utc(moment) if moment else None
