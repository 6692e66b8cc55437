"""The verdict in five lines, as ``record`` prints it when it ends."""

from __future__ import annotations

from tracer.blame import Analysis
from tracer.blame.units import human_us, percent
from tracer.report.sanitise import sanitise

LINES = 5


def brief(analysis: Analysis) -> list[str]:
    """Return at most five lines; the first is the verdict's sentence."""
    verdict = analysis.verdict
    lines = [verdict.summary]
    if verdict.culprits:
        first = verdict.culprits[0]
        if first.evidence:
            lines.append(f"evidence: {first.evidence[0]}")
        others = [
            f"{one.culprit.name} ({one.cause}, {percent(one.share)})"
            for one in verdict.culprits[1:4]
        ]
        if others:
            lines.append(f"also: {', '.join(others)}")
    if analysis.stalls:
        stuck = analysis.in_flight
        text = f"{len(analysis.stalls)} stalled operations, {human_us(analysis.total_us)} in all"
        if stuck:
            text += f", {len(stuck)} still stuck for up to {human_us(stuck[0].wall_us)}"
        lines.append(text)
    names = ", ".join(one.suspect for one in verdict.cleared)
    if names:
        lines.append(f"cleared: {names}")
    elif verdict.advice:
        lines.append(f"do first: {verdict.advice[0]}")
    return [sanitise(line) for line in lines[:LINES]]
