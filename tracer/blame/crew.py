"""How long a server had no free nfsd thread, as the kernel side counted it, fast requests too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tracer.blame.units import human_us
from tracer.model import HostCapture


def none_free_us(capture: HostCapture) -> int | None:
    """Return for how long no nfsd thread was free; None if that was not recorded."""
    return _total(capture, "none_free_us")


def crew_lines(capture: HostCapture) -> Iterator[str]:
    """Yield how often and for how long none was free."""
    us, times = none_free_us(capture), _total(capture, "none_free_times")
    if us is None or not times:
        return
    recorded_us = (capture.end - capture.start).total_seconds() * 1e6
    yield (
        f"no nfsd thread was free {'once' if times == 1 else f'{times} times'}, for "
        f"{human_us(us)} of {human_us(recorded_us)} in all, fast requests counted"
    )


def stopped(capture: HostCapture) -> list[tuple[int, int]]:
    """Return when a server had no nfsd threads at all, on its monotonic clock, in us.

    From one look to the next that both found none: how long before and after is not known.
    Never, if no look found any: then those that serve are of another network namespace.
    """
    # A second recording may have looked as well.
    looks: defaultdict[int, float] = defaultdict(float)
    for one in capture.samples:
        if one.scope == "nfsd" and one.metric == "threads":
            at_us = capture.mono_us(one.ts)
            if at_us is not None:
                looks[round(at_us)] += one.value
    if not any(looks.values()):
        return []
    return [
        (first, second)
        for (first, before), (second, after) in pairwise(sorted(looks.items()))
        if not before and not after
    ]


def stopped_lines(capture: HostCapture) -> Iterator[str]:
    """Yield how long there were none."""
    us = sum(end - start for start, end in stopped(capture))
    yield f"there were no nfsd threads for at least {human_us(us)}"


def _total(capture: HostCapture, metric: str) -> int | None:
    values = [one.value for one in capture.samples if one.scope == "nfsd" and one.metric == metric]
    return round(sum(values)) if values else None
