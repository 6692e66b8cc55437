"""How long a server had no free nfsd thread, as the kernel side counted it, fast requests too."""

from __future__ import annotations

from collections.abc import Iterator

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


def _total(capture: HostCapture, metric: str) -> int | None:
    values = [one.value for one in capture.samples if one.scope == "nfsd" and one.metric == metric]
    return round(sum(values)) if values else None
