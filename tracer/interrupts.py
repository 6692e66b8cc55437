"""Whether interrupts take much of a CPU, and the kernel's code from which their work is done.

What they leave to be done when they are over (softirqs: packets to take in, timers, completions
of disks) is done on whatever thread they have interrupted, which is not at its own work meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tracer.procfs.held_open import Texts
from tracer.procfs.symbols import Extent

# Through one of these alone: a thread that sends does what its packet needs under do_softirq().
SYMBOLS: Final = frozenset({"irq_exit_rcu", "__irq_exit_rcu", "irq_exit"})
# Of a CPU's time, from which on it is worth a look at each clock tick.
_MUCH: Final = 0.1
# user nice system idle iowait irq softirq steal, see proc(5).
_IRQ, _SOFTIRQ, _TIMES = 5, 6, 8


class Interrupts:
    """The interrupts of this host."""

    def __init__(self, extents: Mapping[str, Extent]) -> None:
        """``extents``: where the functions of SYMBOLS lie, among others."""
        self.code = [extents[name] for name in sorted(SYMBOLS & extents.keys())]
        self._stat = Texts(("/proc/stat",))
        self._before: dict[str, tuple[int, int]] = {}

    def take_much(self) -> bool:
        """Return whether they took much of any CPU since the last call, False at the first."""
        texts = self._stat.read()
        now = _taken(texts[0].decode(errors="replace")) if texts else {}
        before, self._before = self._before, now
        return any(
            taken - before[cpu][0] >= _MUCH * max(1, whole - before[cpu][1])
            for cpu, (taken, whole) in now.items()
            if cpu in before
        )


def _taken(stat: str) -> dict[str, tuple[int, int]]:
    """Return for each CPU what interrupts took, and all time, in clock ticks."""
    found: dict[str, tuple[int, int]] = {}
    for line in stat.splitlines():
        # Not the sum of all, in which one of many does not show.
        if not line.startswith("cpu") or line.startswith("cpu "):
            continue
        cpu, *words = line.split()
        times = [int(word) for word in words[:_TIMES] if word.isdecimal()]
        if len(times) == _TIMES:
            found[cpu] = times[_IRQ] + times[_SOFTIRQ], sum(times)
    return found
