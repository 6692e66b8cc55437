"""Who waited for a culprit while operations waited for them, once each, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tracer.blame.chains import asked_in
from tracer.blame.charge import Culprit
from tracer.blame.hosts import Host
from tracer.blame.intervals import Span, spans
from tracer.blame.names import name_of
from tracer.blame.timeline import Timeline
from tracer.blame.units import human_us
from tracer.model import Operation, Wait

# Besides messages.
_OF_PROCESSES: Final = ("lock", "cpu")


@dataclass(slots=True)
class Middle:
    """Waits of one process for another. ``total_us``: while operations waited for processes."""

    total_us: int = 0
    count: int = 0
    longest_us: int = 0
    means: Counter[str] = field(default_factory=Counter)

    def take(self, wait: Wait, means: str, us: int) -> None:
        """Add a wait, of which ``us`` count."""
        self.total_us += us
        self.count += wait.count
        self.longest_us = max(self.longest_us, min(wait.max_us, us))
        self.means[means] += us


@dataclass(frozen=True, slots=True)
class _Held:
    """A time in which an operation waited for a process."""

    begin_mono_us: int
    end_mono_us: int


class Middlemen:
    """The processes between operations and culprits."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self._found: defaultdict[Culprit, dict[str, Middle]] = defaultdict(dict)
        for host in hosts:
            if host.capture.answers:
                self._look_at(host)

    def waited_us(self, culprit: Culprit, names: Container[str]) -> int:
        """Return how long processes of these names waited for a culprit."""
        return sum(one.total_us for _, one in self._between(culprit, names))

    def lines(self, culprit: Culprit, names: Container[str]) -> Iterator[str]:
        """Yield which processes of these names waited for a culprit, the longest first."""
        for name, one in self._between(culprit, names):
            times = f"{one.count} time{'' if one.count == 1 else 's'}"
            (means, _), *_ = one.means.most_common(1)
            yield (
                f"{name} waited for it {times} ({means}), {human_us(one.total_us)} in all, "
                f"longest {human_us(one.longest_us)}"
            )

    def _between(self, culprit: Culprit, names: Container[str]) -> list[tuple[str, Middle]]:
        found = self._found.get(culprit, {})
        kept = [(name, one) for name, one in found.items() if name in names]
        return sorted(kept, key=lambda item: -item[1].total_us)

    def _look_at(self, host: Host) -> None:
        held = Timeline(_merged(_held(host)))
        for op in host.capture.answers:
            for span in spans(op):
                behind, means = _waited_for(host, op, span)
                if behind is None or op.process is None or op.process == behind.process:
                    continue
                overlap_us = sum(
                    min(span.end, one.end_mono_us) - max(span.start, one.begin_mono_us)
                    for one, _ in held.during(span.start, span.end)
                )
                us = min(span.total_us, round(overlap_us))
                if us:
                    by_name = self._found[behind]
                    name = name_of(host.capture, op.process)
                    by_name.setdefault(name, Middle()).take(span.wait, means, us)


def _waited_for(host: Host, op: Operation, span: Span) -> tuple[Culprit | None, str]:
    """Return the process that another waited for, and by what: its message, its lock, its CPU."""
    asked = asked_in(host, op, span)
    if asked is not None:
        return host.suspects.process(asked.process), asked.means
    finding = host.suspects.finding(span.wait, "server")
    if finding.wait_class in _OF_PROCESSES and finding.culprit and finding.culprit.process:
        return finding.culprit, finding.wait_class
    return None, ""


def _held(host: Host) -> Iterator[_Held]:
    """Yield the times in which operations waited for processes."""
    for op in host.capture.operations:
        for span in spans(op):
            finding = host.suspects.finding(span.wait, op.side)
            if finding.culprit is not None and finding.culprit.process is not None:
                yield _Held(span.start, span.end)


def _merged(times: Iterable[_Held]) -> list[_Held]:
    """Return the union of times."""
    union: list[_Held] = []
    for one in sorted(times, key=lambda one: one.begin_mono_us):
        if union and one.begin_mono_us <= union[-1].end_mono_us:
            end = max(union[-1].end_mono_us, one.end_mono_us)
            union[-1] = _Held(union[-1].begin_mono_us, end)
        else:
            union.append(one)
    return union
