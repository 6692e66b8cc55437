"""Who took the memory that an operation had to free for itself.

Memory is short because all take it, but without who takes most of it the others would have
found enough. So a wait is that process's whole, if it has clearly taken most; else nobody's.
What nfsd and the rest of the kernel take counts, too, as nobody's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from tracer.blame.charge import Charge, Culprit, charge_to
from tracer.blame.culprits import Suspects
from tracer.blame.programs import identity
from tracer.blame.signatures import is_at_limit
from tracer.blame.timeline import Timeline
from tracer.blame.units import human_bytes, percent
from tracer.model import HostCapture, MemoryUse, ProcessKey, Wait

# Of all that was taken, and against who took most beside him.
_MOST: Final = 0.5
_TIMES_THE_NEXT: Final = 2
# One page in 16 is counted: of less than this nobody knows well whose it was.
_LEAST_BYTES: Final = 4 << 20
# What a wait is short of was taken before it began; who took it may be stuck since.
_BEFORE_US: Final = 10_000_000

# By program, what each of its processes took less what it gave back; one of nobody known.
_Taken: TypeAlias = defaultdict[object, Counter[ProcessKey | None]]
_NOBODY: Final = None


class Memory:
    """Who took the memory of one host, while it was short."""

    def __init__(self, capture: HostCapture, suspects: Suspects) -> None:
        self._capture = capture
        self._suspects = suspects
        # Of those who have no place in a full map nobody knows how much they took.
        lost = capture.losses.get("uses_full")
        self._uses: Timeline[MemoryUse] = Timeline(() if lost else capture.memory_use)

    def charge(
        self, wait: Wait, victim: ProcessKey | None, start: float, end: float, rest: Charge
    ) -> Charge:
        """Return what a wait for memory to be freed is put down to; ``rest``: if to nobody.

        At a cgroup's limit, only what its own processes took counts.
        """
        cgroup = None
        if wait.kind == "limited" or is_at_limit(wait.stack):
            row = self._capture.processes.get(victim) if victim else None
            if row is None or row.cgroup is None:
                return rest
            cgroup = row.cgroup
        taker = self._taker(start - _BEFORE_US, end, cgroup)
        return charge_to(rest.cause, self._suspects.process(taker)) if taker else rest

    def evidence(self, culprit: Culprit, cause: str) -> Iterator[str]:
        """Yield how much memory a culprit's program took."""
        if cause != "reclaim" or culprit.process is None:
            return
        row = self._capture.processes.get(culprit.process)
        of_program = self._taken((use, 1.0) for use in self._uses.rows)
        of_all = _whole(of_program)
        if row is None or not of_all:
            return
        taken = max(0, of_program[identity(row)].total())
        yield (
            f"took {human_bytes(taken)} while memory was short, {percent(taken / of_all)} of what "
            "was taken then"
        )

    def _taker(self, start: float, end: float, cgroup: str | None) -> ProcessKey | None:
        """Return who took clearly most, for a program of several processes the first of them."""
        of_program = self._taken(self._uses.during(start, end), cgroup)
        least = max(_MOST * _whole(of_program), _LEAST_BYTES)
        of_program.pop(_NOBODY, None)
        ranked = sorted(of_program.values(), key=lambda members: -members.total())
        if not ranked or ranked[0].total() <= least:
            return None
        if len(ranked) > 1 and ranked[0].total() < _TIMES_THE_NEXT * ranked[1].total():
            return None
        return ranked[0].most_common(1)[0][0]

    def _taken(self, uses: Iterable[tuple[MemoryUse, float]], cgroup: str | None = None) -> _Taken:
        """Return what each program's processes took, those of one cgroup only if one is given."""
        taken: _Taken = defaultdict(Counter)
        for use, part in uses:
            row = self._capture.processes.get(use.process) if use.process else None
            if cgroup is not None and (row is None or row.cgroup != cgroup):
                continue
            its = _NOBODY if row is None or row.kthread else identity(row)
            taken[its][row.key if row else None] += round(use.taken_bytes * part)
        return taken


def _whole(of_program: _Taken) -> int:
    """Return how much was taken in all; who gave back more has taken nothing."""
    return sum(max(0, members.total()) for members in of_program.values())
